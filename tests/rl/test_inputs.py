"""The tools of an agent loop: how many programs run at the same time on the job's cores."""

import pytest
from support.rl_inputs import TOOLS, rl_run

from tir.rl.inputs import RunInputs, loop_tools

INPUTS = RunInputs(*["-"] * 4)


@pytest.mark.parametrize(("processes", "cores", "workers"), [(8, 64, 8), (8, 8, 2), (1, 64, 16), (2, 8, 4)])
def test_the_sandboxes_of_all_agent_loops_share_the_cores_of_the_job(processes, cores, workers):
    assert loop_tools(rl_run(processes=processes), INPUTS, cores).python.workers == workers


def test_a_stated_number_of_sandboxes_and_a_run_without_gpus_keep_theirs():
    stated = TOOLS.model_copy(update={"python": TOOLS.python.model_copy(update={"workers": 3})})
    assert loop_tools(rl_run(tools=stated), INPUTS, 64).python.workers == 3
    assert loop_tools(rl_run(device="cpu"), INPUTS, 2).python.workers is None
