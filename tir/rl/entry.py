"""verl's trainer, started by `tir.rl.launch` as a process of its own: `python -m tir.rl.entry key=value ...`.

The same steps as `verl.trainer.main_ppo`, except that the task runner lives in this process instead of in a Ray actor: one
Python process less to start, and its errors end this one.
"""

from __future__ import annotations

import os
import signal
import threading
from types import SimpleNamespace

import hydra
import ray
from verl.trainer.main_ppo import TaskRunnerV1, auto_set_device, need_critic, need_reference_policy, run_ppo, validate_config

from tir.rl import forkserver


class LocalTaskRunner:
    """verl's task runner behind the two remote calls that `run_ppo` makes."""

    @classmethod
    def remote(cls) -> LocalTaskRunner:
        return cls()

    def __init__(self) -> None:
        self._runner = TaskRunnerV1.__ray_metadata__.modified_class()
        self.run = SimpleNamespace(remote=self._run)

    def _run(self, config):
        # The rollout server's modules take longest to import and are needed last; another thread begins with them now.
        threading.Thread(target=_import_rollout, daemon=True).start()
        return ray.put(self._runner.run(config))


def _import_rollout() -> None:
    import verl.workers.rollout.vllm_rollout.vllm_async_server  # noqa: F401


@hydra.main(config_path="pkg://verl.trainer.config", config_name="ppo_trainer", version_base=None)
def main(config) -> None:
    """Compose the configuration, check it, train."""
    auto_set_device(config)
    validate_config(config=config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    run_ppo(config, task_runner_class=LocalTaskRunner)


def _interrupt(*_) -> None:
    raise KeyboardInterrupt("SIGTERM")


if __name__ == "__main__":
    if "TIR_FORK_ADDRESS" in os.environ:
        import verl.trainer.ppo.v1
        import tir.rl.agent_loop
        _import_rollout()
        forkserver.start(os.environ["TIR_FORK_ADDRESS"])
    signal.signal(signal.SIGTERM, _interrupt)
    main()
