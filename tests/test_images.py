"""Images in the graph: an edited lock rebuilds its image and what depends on it; a rebuild by itself reruns nothing."""

import shutil

import pytest
from test_incremental import ROOT, SNAKEMAKE, append, copy_workflow, edit, finish, planned, rules_of

from tir.images import RECIPES, arguments, identity, lock_of, sources
from tir.site import Images

pytestmark = pytest.mark.skipif(not SNAKEMAKE.is_file(), reason="no .venv/workflow: run `make environments`")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished workflow at a site that uses images."""
    directory = copy_workflow(tmp_path_factory.mktemp("images"))
    shutil.copytree(ROOT / "containers", directory / "containers")
    edit(directory / "profiles/laptop/site.yaml", "containers: false", "containers: true\n  images: {hardware: cpu}")
    return finish(directory)


@pytest.fixture
def workflow(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def test_a_lock_rebuilds_its_image_and_reruns_its_dependants(workflow):
    append(workflow / "envs/cpu/workflow.txt", "# another pin\n")
    jobs = planned(workflow)
    assert {job for job in jobs if job.startswith("image")} == {"image:analysis"}
    assert {"scores", "table", "figure"} <= rules_of(jobs)
    assert not rules_of(jobs) & {"sft", "rl", "index", "traces", "base_image"}


def test_the_training_lock_reruns_training(workflow):
    append(workflow / "envs/cpu/sft.txt", "# another pin\n")
    jobs = planned(workflow)
    assert {job for job in jobs if job.startswith("image")} == {"image:sft"}
    assert "sft" in rules_of(jobs) and not rules_of(jobs) & {"index", "world", "base_image"}


def test_a_rebuild_reruns_nothing(workflow):
    """Images, and their identities in the same words, younger than every result."""
    for path in (*workflow.glob("images/*"), workflow / "containers/rl.def"):
        path.touch()
    assert planned(workflow) == set()


def test_the_identity_says_what_and_not_when(workflow, monkeypatch):
    monkeypatch.chdir(workflow)
    site = Images(hardware="cpu")
    before = identity("analysis", site)
    assert before == identity("analysis", site.model_copy(update={"tmp": "/scratch"}))
    append(workflow / "envs/cpu/workflow.txt", "# another pin\n")
    assert identity("analysis", site) != before


def test_site_settings_rebuild_nothing(workflow):
    edit(workflow / "profiles/laptop/site.yaml", "{hardware: cpu}", "{hardware: cpu, tmp: /scratch, environment: {A: b}}")
    assert planned(workflow) == set()


@pytest.mark.parametrize("hardware", ["cpu", "cuda"])
@pytest.mark.parametrize("name", RECIPES)
def test_sources_exist_and_arguments_are_declared(name, hardware):
    site = Images(hardware=hardware)
    text = (ROOT / f"containers/{name}.def").read_text()
    assert all((ROOT / path).is_file() for path in sources(name, hardware))
    assert lock_of(name, hardware) in sources(name, hardware)
    assert all(f"{{{{ {key} }}}}" in text for key in arguments(name, site, "uv"))
