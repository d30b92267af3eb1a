"""verl's trainer; `tir.rl.launch` starts it as a separate process: `python -m tir.rl.entry key=value ...`.

It differs from `verl.trainer.main_ppo` in one point: the task runner runs in this process instead of a Ray actor. This
saves a Python process, and an error in the task runner ends this process. If TIR_FORK_ADDRESS is set, Ray's worker
processes are forks of this one (see `tir.rl.cpu.forkserver`).
"""

from __future__ import annotations

import gc
import os
import signal
from types import SimpleNamespace

FORK_ADDRESS = os.environ.get("TIR_FORK_ADDRESS")
if FORK_ADDRESS:
    gc.disable()  # until everything is imported: a search for garbage in modules is a fifth of the time
    # Ray reads its environment variables once, when it is imported. Forked workers inherit these values: the id of the
    # first job of this Ray instance, and as the process that workers must not outlive, this one.
    os.environ |= {"RAY_RAYLET_PID": str(os.getpid()), "RAY_JOB_ID": "01000000"}

import hydra  # noqa: E402
import ray  # noqa: E402
from verl.trainer.main_ppo import (  # noqa: E402
    TaskRunnerV1,
    auto_set_device,
    need_critic,
    need_reference_policy,
    run_ppo,
    validate_config,
)
from verl.trainer.ppo.v1.trainer_base import PPOTrainer  # noqa: E402

from tir.common.subprocesses import end_with_parent  # noqa: E402
from tir.common.time_limit import warning_time  # noqa: E402
from tir.common.tracking import run  # noqa: E402
from tir.rl import loopback, tracking  # noqa: E402
from tir.rl.cpu import forkserver  # noqa: E402
from tir.rl.deadline import Deadline  # noqa: E402


class LocalTaskRunner:
    """Runs verl's task runner in this process, through the two remote calls that `run_ppo` makes."""

    @classmethod
    def remote(cls) -> LocalTaskRunner:
        return cls()

    def __init__(self) -> None:
        self._runner = TaskRunnerV1.__ray_metadata__.modified_class()
        self.run = SimpleNamespace(remote=lambda config: ray.put(self._runner.run(config)))


def import_everything() -> None:
    """Import the modules that the processes of a run need, so that forks have them already."""
    import verl.trainer.ppo.v1
    import verl.workers.rollout.vllm_rollout.vllm_async_server  # noqa: F401

    import tir.rl.agent_loop
    import tir.rl.weights  # noqa: F401


@hydra.main(config_path="pkg://verl.trainer.config", config_name="ppo_trainer", version_base=None)
def main(config) -> None:
    """Compose and check the configuration, then train."""
    if warning := warning_time():
        when, lead = warning
        deadline = Deadline(when - lead / 2)
        PPOTrainer.on_step_begin = lambda trainer: deadline.on_step_begin(trainer)
    auto_set_device(config)
    tracking.install()
    loopback.hold_ports()
    validate_config(config=config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    run_ppo(config, task_runner_class=LocalTaskRunner)


def _interrupt(*_) -> None:
    raise KeyboardInterrupt("SIGTERM")


if __name__ == "__main__":
    if "TIR_PARENT" in os.environ:
        end_with_parent(signal.SIGTERM, int(os.environ["TIR_PARENT"]))
    if FORK_ADDRESS:
        import_everything()
        gc.freeze()  # else a search for garbage in a fork would also copy the pages of all modules
        gc.enable()
        forkserver.use_stand_in(os.environ["TIR_FORK_PYTHON"])
        forkserver.start(FORK_ADDRESS)
    signal.signal(signal.SIGTERM, _interrupt)
    run(main)
