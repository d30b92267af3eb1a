"""verl's trainer, started by `tir.rl.launch` as a process of its own: `python -m tir.rl.entry key=value ...`.

The same steps as `verl.trainer.main_ppo`, except that the task runner lives in this process instead of in a Ray actor: one
Python process less to start, and its errors end this one. With TIR_FORK_ADDRESS set, Ray's other processes are forks of
this one (see `tir.rl.forkserver`).
"""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

FORK_ADDRESS = os.environ.get("TIR_FORK_ADDRESS")
if FORK_ADDRESS:
    # Ray reads its settings once, when it is imported, and a worker then wants to know its job (the first of our own
    # Ray) and the process it must not outlive. A fork inherits what was read here: this process, which owns Ray's.
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

from tir.rl import forkserver  # noqa: E402
from tir.rl.deadline import Deadline  # noqa: E402
from tir.subprocesses import end_with_parent  # noqa: E402
from tir.time_limit import warning_time  # noqa: E402


class LocalTaskRunner:
    """verl's task runner behind the two remote calls that `run_ppo` makes."""

    @classmethod
    def remote(cls) -> LocalTaskRunner:
        return cls()

    def __init__(self) -> None:
        self._runner = TaskRunnerV1.__ray_metadata__.modified_class()
        self.run = SimpleNamespace(remote=lambda config: ray.put(self._runner.run(config)))


def import_everything() -> None:
    """Import what any process of a run imports, so that its forks need not."""
    import verl.trainer.ppo.v1
    import verl.workers.rollout.vllm_rollout.vllm_async_server  # noqa: F401

    import tir.rl.agent_loop
    import tir.rl.plugin
    import tir.rl.weights  # noqa: F401


@hydra.main(config_path="pkg://verl.trainer.config", config_name="ppo_trainer", version_base=None)
def main(config) -> None:
    """Compose the configuration, check it, train."""
    if warning := warning_time():
        when, lead = warning
        watch = Deadline(when - lead / 2)
        PPOTrainer.on_step_begin = lambda trainer: watch.on_step_begin(trainer)
    auto_set_device(config)
    validate_config(config=config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    run_ppo(config, task_runner_class=LocalTaskRunner)


def _interrupt(*_) -> None:
    raise KeyboardInterrupt("SIGTERM")


if __name__ == "__main__":
    if "TIR_PARENT" in os.environ:
        end_with_parent(signal.SIGTERM, int(os.environ["TIR_PARENT"]))
    if FORK_ADDRESS:
        import_everything()
        forkserver.use_stand_in(os.environ["TIR_FORK_PYTHON"])
        forkserver.start(FORK_ADDRESS)
    signal.signal(signal.SIGTERM, _interrupt)
    main()
