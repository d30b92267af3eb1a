"""The section `site` of a profile: valid and invalid values, and the text of errors."""

from typing import get_args

import pytest
import yaml
from support.paths import ROOT

from tir.common.errors import ConfigError
from tir.config.site import ImageName, load_site
from tir.workflow.images import RECIPES


@pytest.mark.parametrize(
    ("section", "words"),
    [
        (
            {"container": True},
            ["here.yaml: site.container: unknown key", "did you mean `containers`", "site:\n      containers: true"],
        ),
        (
            {"retrieval_endpoint": "localhost:1243"},
            ["here.yaml: site.retrieval_endpoint: 'localhost:1243'", "http://host:port"],
        ),
        (
            {"judge_endpoint": "http://host:99999/v1"},
            ["site.judge_endpoint: 'http://host:99999/v1': should be an address", "Port out of range"],
        ),
        ({"retrieval_server": {"queue_s": True}}, ["site.retrieval_server.queue_s: true: should be a valid number"]),
        ([], ["here.yaml: site: should be a mapping"]),
        (0, ["here.yaml: site: should be a mapping"]),
        (
            {"images": {"same": {"evl": "rl"}}},
            ["site.images.same.evl", "did you mean `eval`", "same:\n          eval: rl"],
        ),
        ({"images": {"same": {"eval": "nope"}}}, ["site.images.same.eval: 'nope'", "'sft', 'rl'"]),
        ({"python": {"wrokflow": "python3"}}, ["site.python.wrokflow", "workflow: python3"]),
    ],
)
def test_an_error_names_file_and_key(tmp_path, section, words):
    (tmp_path / "here.yaml").write_text(yaml.safe_dump({"site": section}))
    with pytest.raises(ConfigError) as caught:
        load_site(section, [str(ROOT / "config.yaml"), str(tmp_path / "here.yaml")])
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_configfile_that_replaces_the_profiles_files_is_an_error():
    with pytest.raises(
        ConfigError,
        match="(?s)my.yaml: no `site:` section.*replaces the files.*--configfile profiles/slurm/site.yaml my.yaml",
    ):
        load_site(None, ["config.yaml", "my.yaml"])
    assert not load_site(None, ["config.yaml"]).containers


def test_the_image_names_of_a_site_are_those_of_the_recipes():
    assert set(get_args(ImageName)) == set(RECIPES)


@pytest.mark.parametrize("profile", ["laptop", "slurm"])
def test_the_shipped_sites_are_valid(profile):
    file = ROOT / f"profiles/{profile}/site.yaml"
    load_site(yaml.safe_load(file.read_text())["site"], [str(file)])
