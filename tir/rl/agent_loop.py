"""An agent loop of verl that calls the project's rollout loop, so training and evaluation generate with the same code.

verl instantiates `TirAgentLoop` per trajectory from a YAML entry; the launcher writes its settings file (JSON):

    - name: tir
      _target_: tir.rl.agent_loop.TirAgentLoop
      settings: runs/rl/grpo/seed1/loop.json

The loop returns token ids, loss mask, log-probabilities and reward of a trajectory. A protocol violation or a wrong
answer lowers the reward. A fault of a tool or of the engine is retried; if it persists, the run ends with that error
(see `tir.rl.sampler`).
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import json
import os
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopMetrics, AgentLoopOutput
from verl.utils.device import get_device_name

from tir.common.errors import InfrastructureFault, SearchUnavailable
from tir.common.records import read_json
from tir.config.params import validated
from tir.config.rl import RewardRule
from tir.config.tools import Tools
from tir.rl.server_engine import ServerEngine
from tir.rollout.engines.base import Sampling, request_seed
from tir.rollout.loop import RolloutSettings, rollout
from tir.rollout.prompts import render_prompt
from tir.rollout.retry import retried
from tir.rollout.trajectory import Trajectory
from tir.scoring.reward import Reward, reward
from tir.tools.base import Tool
from tir.tools.registry import by_tag, make_tools

if get_device_name() == "cpu":
    import tir.rl.cpu.client  # noqa: F401


@dataclass(frozen=True)
class LoopResources:
    """Objects that the trajectories of one worker process share.

    Attributes:
        settings: limits of a rollout.
        reward: the reward rule.
        tools: tools by name.
        routes: names of the tools by ability.
        seed: seed of the run; the seed of each request is derived from it.
        records: directory of trajectory records.
        threads: threads that compute rewards.
    """

    settings: RolloutSettings
    reward: RewardRule
    tools: dict[str, Tool]
    routes: dict[str, list[str]]
    seed: int
    records: Path
    threads: ThreadPoolExecutor


@functools.cache
def loop_resources(path: str) -> LoopResources:
    """Read a settings file and start its tools, once per process; the tools stop when the process exits."""
    given = validated(
        read_json(path),
        path,
        tools=Tools,
        endpoint=str | None,
        reward=RewardRule,
        max_response_tokens=int,
        seed=int,
        records=Path,
    )
    routes = given.tools.routes
    names = sorted({name for ability in ("math", "qa") for name in routes[ability]})
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    return LoopResources(
        settings=RolloutSettings(given.tools, given.max_response_tokens),
        reward=given.reward,
        routes=routes,
        seed=given.seed,
        records=given.records,
        tools=stack.enter_context(make_tools(names, given.tools, given.endpoint)),
        threads=ThreadPoolExecutor(2, thread_name_prefix="reward"),
    )


class TirAgentLoop(AgentLoopBase):
    """Generates and scores one trajectory.

    Args:
        settings: path of the settings file.
    """

    def __init__(self, *arguments, settings: str, **keywords):
        super().__init__(*arguments, **keywords)
        with reported():
            self.resources = loop_resources(settings)

    async def run(self, sampling_params: dict[str, Any], **kwargs) -> AgentLoopOutput:
        """Generate and score one trajectory of a row.

        Args:
            sampling_params: temperature and top_p; verl validates with temperature 0.
            kwargs: the row (`raw_prompt`, `ability`, `reward_model`, `index`), and `global_steps` and `session_id`
                from verl.
        """
        with reported():
            return await self._run(sampling_params, **kwargs)

    async def _run(
        self,
        sampling_params: dict[str, Any],
        *,
        raw_prompt,
        ability: str,
        reward_model: dict,
        index: int,
        global_steps: int,
        session_id: int = 0,
        **_row,
    ) -> AgentLoopOutput:
        resources = self.resources
        validation = sampling_params["temperature"] == 0
        system, user = (message["content"] for message in raw_prompt)
        prompt_ids = render_prompt(self.tokenizer, system, user)
        seed = None if validation else request_seed(resources.seed, global_steps, int(index), session_id)
        sampling = Sampling(sampling_params["temperature"], sampling_params["top_p"], seed=seed)
        tools = by_tag(resources.tools, resources.routes[ability])
        name = f"{global_steps}-{index}-{session_id}"

        async def attempt() -> tuple[ServerEngine, Trajectory]:
            engine = ServerEngine(self.server_manager, self.tokenizer)
            return engine, await rollout(engine, self.tokenizer, prompt_ids, tools, resources.settings, sampling, name)

        engine, trajectory = await retried(attempt, but_not=SearchUnavailable)
        started = time.monotonic()
        golds = list(reward_model["ground_truth"])
        # In a thread, because comparing answers may wait for computer algebra in another process.
        score = await asyncio.get_running_loop().run_in_executor(
            resources.threads,
            functools.partial(reward, trajectory.segments, golds, ability, resources.reward, trajectory.executed),
        )
        scoring_seconds = time.monotonic() - started
        row = {"index": int(index), "session": session_id, "ability": ability, "question": user, "gold": golds}
        write_record(resources.records, "val" if validation else "train", global_steps, row, trajectory, score)
        return AgentLoopOutput(
            prompt_ids=prompt_ids,
            response_ids=trajectory.response_ids,
            response_mask=trajectory.response_mask,
            response_logprobs=trajectory.response_log_probs,
            reward_score=score.score,
            num_turns=len(trajectory.segments),
            metrics=AgentLoopMetrics(
                generate_sequences=engine.seconds, tool_calls=trajectory.tool_seconds, compute_score=scoring_seconds
            ),
            extra_fields={**engine.extra_fields, "reward_extra_info": {}},
        )


def write_record(directory: Path, kind: str, step: int, row: dict, trajectory: Trajectory, score: Reward) -> None:
    """Append one trajectory to `{kind}_{step}.{process id}.jsonl`; the launcher merges the files of a step."""
    record = {
        **row,
        "segments": [{"by": segment.by, "text": segment.text} for segment in trajectory.segments],
        "finish": trajectory.finish,
        "executed": trajectory.executed,
        "emitted": trajectory.emitted,
        "score": score.score,
        "accuracy": score.accuracy,
        "fault": score.fault,
        "bonus": score.bonus,
        "model_tokens": sum(trajectory.response_mask),
        "response_tokens": len(trajectory.response_ids),
        "seconds": round(trajectory.seconds, 4),
    }
    with open(directory / f"{kind}_{step}.{os.getpid()}.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Report an error, also of a tool that does not start, before verl gets it.

    verl would log the error and train on the rest of the batch. The sampler reads the report and ends the run.
    """
    try:
        yield
    except Exception as error:
        _report(error)
        raise


def _report(error: Exception) -> None:
    """Write the first error to `fault.json` in the run directory, where the sampler and the launcher read it."""
    path = Path(os.environ["TIR_RUN_DIRECTORY"]) / "fault.json"
    text = str(error).split("\n")[0]  # without the remedy: the launcher's error has its own
    cause = {
        "type": type(error).__name__,
        "text": text,
        "traceback": "".join(traceback.format_exception(error)),
        "infrastructure": isinstance(error, InfrastructureFault),
    }
    with contextlib.suppress(FileExistsError), open(path, "x", encoding="utf-8") as file:
        json.dump(cause, file)
