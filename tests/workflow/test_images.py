"""Images in the graph: an edited lock rebuilds its image and reruns the jobs in it; a rebuild alone reruns nothing."""

import os
import re
import shutil
import subprocess

import pytest
import yaml
from support.paths import ROOT, SNAKEMAKE
from support.workflow_copy import append, copy_workflow, edit, finish, planned, rules_of

from tir.common import environment
from tir.config.site import Images
from tir.workflow.image_test import faults, unknown_arguments, unread_variables
from tir.workflow.images import RECIPES, Recipe, arguments, identity, lock_of, sources

pytestmark = pytest.mark.skipif(not SNAKEMAKE.is_file(), reason="no .venv/workflow: run `make environments`")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished workflow whose jobs run in images."""
    directory = copy_workflow(tmp_path_factory.mktemp("images"))
    shutil.copytree(ROOT / "containers", directory / "containers")
    edit(directory / "profiles/laptop/site.yaml", "containers: false", "containers: true\n  images: {hardware: cpu}")
    return finish(directory)


@pytest.fixture
def workflow(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def test_an_edited_lock_rebuilds_its_image_and_reruns_the_jobs_in_it(workflow):
    append(workflow / "envs/cpu/workflow.txt", "# another pin\n")
    jobs = planned(workflow)
    assert {job for job in jobs if job.startswith("image")} == {"image:analysis"}
    assert {"scores", "table", "figure"} <= rules_of(jobs)
    assert not rules_of(jobs) & {"sft", "rl", "index", "traces", "base_image"}


def test_an_edited_training_lock_reruns_training(workflow):
    append(workflow / "envs/cpu/sft.txt", "# another pin\n")
    jobs = planned(workflow)
    assert {job for job in jobs if job.startswith("image")} == {"image:sft"}
    assert "sft" in rules_of(jobs) and not rules_of(jobs) & {"index", "world", "base_image"}


def test_a_rebuild_reruns_nothing(workflow):
    """After a rebuild, images and their unchanged identities are newer than every result."""
    for path in (*workflow.glob("images/*"), workflow / "containers/rl.def"):
        path.touch()
    assert planned(workflow) == set()


def test_the_identity_depends_on_sources_and_not_on_the_build(workflow, monkeypatch):
    monkeypatch.chdir(workflow)
    site = Images(hardware="cpu")
    before = identity("analysis", site)
    assert before == identity("analysis", site.model_copy(update={"tmp": "/scratch"}))
    append(workflow / "envs/cpu/workflow.txt", "# another pin\n")
    assert identity("analysis", site) != before


def test_edited_site_settings_rebuild_nothing(workflow):
    edit(
        workflow / "profiles/laptop/site.yaml", "{hardware: cpu}", "{hardware: cpu, tmp: /scratch, environment: {A: b}}"
    )
    assert planned(workflow) == set()


@pytest.mark.parametrize("hardware", ["cpu", "cuda"])
@pytest.mark.parametrize("name", RECIPES)
def test_sources_exist_and_the_definition_file_uses_all_build_arguments(name, hardware):
    site = Images(hardware=hardware)
    text = (ROOT / f"containers/{name}.def").read_text()
    assert all((ROOT / path).is_file() for path in sources(name, hardware))
    assert lock_of(name, hardware) in sources(name, hardware)
    assert all(f"{{{{ {key} }}}}" in text for key in arguments(name, site, "uv"))


@pytest.mark.parametrize("name", RECIPES)
def test_an_images_test_imports_the_scripts_of_its_stages(name):
    texts = [path.read_text() for path in sorted((ROOT / "rules").glob("*.smk"))]
    used = {
        script
        for text in texts
        for rule in re.split(r"^ *rule ?\w*:", text, flags=re.M)
        if f'container_of("{name}")' in rule
        for script in re.findall(r"\{PYTHON\[\w+\]\} -m (scripts\.\w+)", rule)
    }
    assert used and used <= set(RECIPES[name].imports)
    assert f"tir.workflow.image_test {name} {{{{ HARDWARE }}}}" in (ROOT / f"containers/{name}.def").read_text()


def test_an_image_whose_import_fails_does_not_pass(monkeypatch):
    monkeypatch.setitem(RECIPES, "rl", Recipe("rl", "rl", imports=("json",), cuda_imports=("no_such_module",)))
    assert faults("rl", "cpu") == []
    assert "import no_such_module: ModuleNotFoundError" in faults("rl", "cuda")[0]


def test_an_image_whose_library_lacks_an_argument_of_a_gpu_stage_does_not_pass(monkeypatch):
    recipe = Recipe("rl", "rl", cuda_calls=(("json:JSONEncoder.encode", "o"), ("json:dumps", "indent knd")))
    monkeypatch.setitem(RECIPES, "rl", recipe)
    assert faults("rl", "cpu") == [] and faults("rl", "cuda") == ["json:dumps has no argument knd"]
    assert unknown_arguments("json:dump_all", ["indent"])[0].startswith("json:dump_all: AttributeError")


def test_a_variable_that_its_library_no_longer_reads_is_a_fault(monkeypatch):
    assert unread_variables() == []
    monkeypatch.setitem(environment.FIXED, "HF_HUB_AWAY", ("1", "huggingface_hub/constants.py"))
    assert unread_variables() == ["huggingface_hub/constants.py does not read HF_HUB_AWAY"]


@pytest.mark.parametrize("profile", ["profiles/slurm", "tests/workflow/profiles/a100"])
def test_a_job_in_an_image_gets_the_temporary_directory_of_its_node(profile, tmp_path):
    """--cleanenv removes TMPDIR, and an image sees only /tmp of the node. A missing directory cannot be mounted."""
    arguments = yaml.safe_load((ROOT / profile / "config.yaml").read_text())["apptainer-args"]

    def given(**variables) -> str:
        environment = {"PATH": os.environ["PATH"], **variables}
        command = ["bash", "-euc", f"echo {arguments}"]
        return subprocess.run(command, env=environment, text=True, capture_output=True, check=True).stdout.strip()

    assert given(TMPDIR=str(tmp_path)) == f"--no-home --cleanenv --bind {tmp_path} --env TMPDIR={tmp_path}"
    assert given(TMPDIR=str(tmp_path / "gone")) == given() == "--no-home --cleanenv"
    assert given(CUDA_VISIBLE_DEVICES="0,1") == "--no-home --cleanenv --nv --env CUDA_VISIBLE_DEVICES=0,1"
