"""The `site` section of a profile: what is accepted, and what a person reads when it is not."""

from pathlib import Path
from typing import get_args

import pytest
import yaml

from tir.errors import ConfigError
from tir.images import RECIPES
from tir.site import ImageName, load_site

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(("section", "words"), [
    ({"container": True}, ["here.yaml: site.container: unknown key", "did you mean `containers`", "site:\n      containers: true"]),
    ({"retrieval_endpoint": "localhost:1243"}, ["here.yaml: site.retrieval_endpoint: 'localhost:1243'", "http://host:port"]),
    ({"images": {"same": {"evl": "rl"}}}, ["site.images.same.evl", "did you mean `eval`", "same:\n          eval: rl"]),
    ({"images": {"same": {"eval": "nope"}}}, ["site.images.same.eval: 'nope'", "'sft', 'rl'"]),
    ({"python": {"wrokflow": "python3"}}, ["site.python.wrokflow", "workflow: python3"]),
])
def test_a_fault_of_the_site_names_its_file_and_its_key(tmp_path, section, words):
    (tmp_path / "here.yaml").write_text(yaml.safe_dump({"site": section}))
    with pytest.raises(ConfigError) as caught:
        load_site(section, [str(ROOT / "config.yaml"), str(tmp_path / "here.yaml")])
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_file_given_in_the_place_of_the_profiles_is_not_taken_for_a_site():
    with pytest.raises(ConfigError, match="(?s)my.yaml: no `site:` section.*takes the place.*--configfile profiles/slurm/site.yaml my.yaml"):
        load_site(None, ["config.yaml", "my.yaml"])
    assert not load_site(None, ["config.yaml"]).containers


def test_a_site_names_the_images_there_are():
    assert set(get_args(ImageName)) == set(RECIPES)


@pytest.mark.parametrize("profile", ["laptop", "slurm"])
def test_the_shipped_sites_are_valid(profile):
    file = ROOT / f"profiles/{profile}/site.yaml"
    load_site(yaml.safe_load(file.read_text())["site"], [str(file)])
