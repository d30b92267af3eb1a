"""Stages run on a machine without network, as on a compute node: nothing is fetched or resolved inside a job."""

import subprocess

import pytest
from support.canary import assert_shown_nowhere, watched
from support.paths import ROOT, SNAKEMAKE
from support.workflow_copy import copy_workflow

UNSHARE = ["unshare", "--user", "--map-root-user", "--net"]
isolated = subprocess.run([*UNSHARE, "true"], capture_output=True).returncode == 0
pytestmark = [
    pytest.mark.skipif(not SNAKEMAKE.is_file(), reason="no .venv/workflow: run `make environments`"),
    pytest.mark.skipif(not isolated, reason="this user may not create network namespaces"),
]


def run(directory, *command: str) -> tuple[int, str, set[str]]:
    """Status, output and command lines of a program without network, with a canary in the variable of every key."""
    isolated_command = [*UNSHARE, str(ROOT / ".venv/rl/bin/python"), "-m", "support.no_network", *command]
    return watched(isolated_command, {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "tests")}, directory)


def test_only_the_loopback_interface_is_there(tmp_path):
    _, output, _ = run(tmp_path, "cat", "/proc/net/dev")
    assert [line.split(":")[0].strip() for line in output.splitlines()[2:]] == ["lo"], output


@pytest.mark.slow
def test_index_search_fine_tuning_and_traces_need_no_network_and_write_no_key(tmp_path):
    """The encoder is in the index, and the retrieval server of a job listens on the loopback interface.

    No key is in a log, record, provenance, cache, table or command line, of all that the run leaves.
    """
    directory = copy_workflow(tmp_path)
    (directory / ".venv").symlink_to(ROOT / ".venv")
    targets = ("results/retrieval_smoke.csv", "scores/sft-smoke/hotpotqa.jsonl")
    status, output, command_lines = run(directory, str(SNAKEMAKE), "--profile", "profiles/ci", *targets)
    assert status == 0, output[-4000:]
    assert all((directory / target).stat().st_size for target in targets)
    assert any("scripts.generate_traces" in line for line in command_lines)
    (directory / ".venv").unlink()
    assert_shown_nowhere(directory, [output, *command_lines])
