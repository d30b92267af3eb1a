"""GPUs of a profile must divide the effective batches; which number it is does not belong to the experiment."""

import pytest
from support.configuration import PAPER

from tir.common.errors import ConfigError
from tir.config.experiment import load
from tir.config.judge import Judge
from tir.config.params import params
from tir.config.profile import require_divisors, require_judge_gpus, require_server_gpus
from tir.config.site import RetrievalServer

CONFIG = load(PAPER, ["config.yaml"])


@pytest.mark.parametrize("gres", ["'gpu:h100:8'", "'gpu:a100:4'", "'gpu:1'", "'gpu:h100:' + str(attempt)", ""])
def test_the_papers_batches_run_on_8_4_and_1_gpus(gres):
    require_divisors({"sft": gres, "rl": gres, "traces": "'gpu:a10g:3'"}, CONFIG)


def test_gpus_that_do_not_divide_a_step_are_refused_with_a_line_to_paste():
    with pytest.raises(ConfigError) as caught:
        require_divisors({"sft": "'gpu:h100:16'", "rl": "gpu:a100:6"}, CONFIG)
    assert str(caught.value).splitlines() == [
        "profile: GPUs of the profile do not fit the configuration",
        "  sft: 16 GPUs do not divide a step: sft_pilots.smoke.batch_rows is 8",
        "  try: set-resources: {sft: {gres: \"'gpu:h100:8'\"}}",
        "  rl: 6 GPUs do not divide a step: rl.mini_batch_prompts x rl.group_size is 128",
        "  try: set-resources: {rl: {gres: \"'gpu:a100:4'\"}}",
    ]


def test_gpus_of_one_machine_are_checked_too():
    require_divisors({}, CONFIG, 8)
    with pytest.raises(ConfigError, match=r"6 GPUs do not divide a step: sft.batch_rows is 128.*\n  try: .*gpu=4\]"):
        require_divisors({}, CONFIG, 6)


@pytest.mark.parametrize("machine, fits", [(1, 1), (2, 2), (3, 2)])
def test_a_judge_that_is_split_over_more_gpus_than_the_machine_has_is_refused(machine, fits):
    with pytest.raises(
        ConfigError, match=rf"^judge.gpus: .*: 4; .*gpu={machine}\.\n  try: judge: {{gpus: {fits}}}.*rules}}"
    ):
        require_judge_gpus(CONFIG.judge, {}, machine)


def test_a_judge_that_is_split_over_more_gpus_than_its_job_requests_is_refused():
    with pytest.raises(ConfigError) as caught:
        require_judge_gpus(CONFIG.judge, {"judge": "'gpu:a100:2'"}, 0)
    assert str(caught.value).splitlines() == [
        "judge.gpus: fewer GPUs than the judge is split over: 4; the profile states gpu:a100:2.",
        "  try: set-resources: {judge: {gres: \"'gpu:a100:4'\"}}  # or judge: {gpus: 2}  # if the model fits there; "
        "or judge: {kind: rules}, without a judge",
    ]
    for gres in ("'gpu:a100:4'", "'gpu:8'", "'gpu:h100:' + str(4 * attempt)"):
        require_judge_gpus(CONFIG.judge, {"judge": gres}, 0)


def test_a_judge_that_fits_a_cluster_or_an_engine_without_tensor_parallelism_is_accepted():
    for judge, machine in ((CONFIG.judge, 4), (CONFIG.judge, 0), (Judge(engine="transformers"), 1)):
        require_judge_gpus(judge, {}, machine)


@pytest.mark.parametrize(
    "machine, paste",
    [
        (4, 'site: {retrieval_server: {gpus: "3"}}  # and in the profile, resources: [gpu=2, ...]; or gpus: "" for'),
        (1, 'site: {retrieval_server: {gpus: ""}}  # it then uses the CPU'),
    ],
)
def test_a_retrieval_server_on_all_gpus_of_the_jobs_is_refused(machine, paste):
    with pytest.raises(ConfigError) as caught:
        require_server_gpus(RetrievalServer(runs_on="local"), machine)
    assert str(caught.value).startswith("site.retrieval_server.gpus: ") and f"\n  try: {paste}" in str(caught.value)


def test_a_retrieval_server_elsewhere_or_on_gpus_of_its_own_is_accepted():
    require_server_gpus(RetrievalServer(runs_on="local"), 0)
    for server in ({"runs_on": "slurm"}, {"runs_on": "local", "gpus": "3"}, {"runs_on": "local", "gpus": ""}):
        require_server_gpus(RetrievalServer(**server), 4)


def test_the_number_of_gpus_is_no_parameter_of_a_rule():
    """A run on another number of GPUs, or with other micro-batches, is the same run."""
    other = load(
        PAPER
        | {
            "sft": PAPER["sft"] | {"processes": 4, "micro_batch_tokens": 4096, "gradient_checkpointing": True},
            "rl": PAPER["rl"] | {"processes": 4},
        },
        ["config.yaml"],
    )
    assert params(sft=other.sft, rl=other.rl) == params(sft=CONFIG.sft, rl=CONFIG.rl)
