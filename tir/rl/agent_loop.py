"""verl's agent loop around the project's one rollout loop: the same code generates training trajectories and traces.

verl instantiates `TirAgentLoop` per trajectory from a YAML entry that names a settings file (JSON, written by the launcher):

    - name: tir
      _target_: tir.rl.agent_loop.TirAgentLoop
      settings: runs/rl/grpo/seed1/loop.json

The trajectory, its mask, its sampling log-probabilities and its reward leave the loop together. A broken protocol or a wrong
answer is a reward; a fault of a tool or of the engine is retried and then ends the run by name (see `tir.rl.sampler`).
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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    retry_if_not_exception_type,
    stop_after_attempt,
    wait_exponential_jitter,
)
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopMetrics, AgentLoopOutput

from tir.engines.base import Sampling, request_seed
from tir.errors import InfrastructureFault, SearchUnavailable
from tir.prompts import render_prompt
from tir.records import read_json
from tir.reward import Reward, RewardSettings, reward
from tir.rl.server_engine import ServerEngine, end_ids
from tir.rollout import RolloutSettings, rollout
from tir.trajectory import Trajectory
from tir.tools.base import Tool
from tir.tools.registry import by_tag, make_tools

_ATTEMPTS = 3


@dataclass(frozen=True)
class LoopResources:
    """What the trajectories of one worker process share: settings, tools, and threads that compare answers.

    Attributes:
        settings: limits of a rollout.
        reward: the reward rule.
        tools: by name. routes: names by ability.
        seed: the run's; every request's seed follows from it.
        records: directory of trajectory records.
    """

    settings: RolloutSettings
    reward: RewardSettings
    tools: dict[str, Tool]
    routes: dict[str, list[str]]
    seed: int
    records: Path
    threads: ThreadPoolExecutor


@functools.cache
def loop_resources(path: str) -> LoopResources:
    """Read a settings file and start its tools, once per process; they end with the process."""
    values = read_json(path)
    tools, routes = values["tools"], values["tools"]["routes"]
    names = sorted({name for ability in ("math", "qa") for name in routes[ability]})
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    return LoopResources(
        settings=RolloutSettings.of(tools, values["max_response_tokens"]),
        reward=RewardSettings(**values["reward"]), routes=routes, seed=values["seed"], records=Path(values["records"]),
        tools=stack.enter_context(make_tools(names, tools, values["endpoint"])),
        threads=ThreadPoolExecutor(2, thread_name_prefix="reward"))


class TirAgentLoop(AgentLoopBase):
    """One trajectory: render, roll out, score.

    Args:
        settings: path of the settings file.
    """

    def __init__(self, *arguments, settings: str, **keywords):
        super().__init__(*arguments, **keywords)
        self.resources = loop_resources(settings)

    async def run(self, sampling_params: dict[str, Any], **kwargs) -> AgentLoopOutput:
        """Generate and score one trajectory of a row.

        Args:
            sampling_params: verl's temperature and top_p; temperature 0 is validation.
            kwargs: the row (`raw_prompt`, `ability`, `reward_model`, `index`) and verl's `global_steps`, `session_id`.
        """
        try:
            return await self._run(sampling_params, **kwargs)
        except Exception as error:
            # verl would log this and train on what is left of the batch; the sampler ends the run instead, with this text.
            report_fault(error)
            raise

    async def _run(self, sampling_params: dict[str, Any], *, raw_prompt, ability: str, reward_model: dict, index: int,
                   global_steps: int, session_id: int = 0, **_row) -> AgentLoopOutput:
        resources = self.resources
        validation = sampling_params["temperature"] == 0
        system, user = (message["content"] for message in raw_prompt)
        prompt_ids = render_prompt(self.tokenizer, system, user)
        seed = None if validation else request_seed(resources.seed, global_steps, int(index), session_id)
        sampling = Sampling(sampling_params["temperature"], sampling_params["top_p"], seed=seed)
        tools = by_tag(resources.tools, resources.routes[ability])
        # The search client has retried for its own budget by the time it gives up.
        again = retry_if_exception_type(InfrastructureFault) & retry_if_not_exception_type(SearchUnavailable)
        async for attempt in AsyncRetrying(retry=again, reraise=True, stop=stop_after_attempt(_ATTEMPTS),
                                           wait=wait_exponential_jitter(0.5, 10)):
            with attempt:
                engine = ServerEngine(self.server_manager, self.tokenizer, end_ids(self.tokenizer))
                trajectory = await rollout(engine, self.tokenizer, prompt_ids, tools, resources.settings, sampling,
                                           f"{global_steps}-{index}-{session_id}")
        started = time.monotonic()
        golds = list(reward_model["ground_truth"])
        # Equivalence may need computer algebra in another process; the event loop stays free.
        score = await asyncio.get_running_loop().run_in_executor(
            resources.threads, functools.partial(reward, trajectory.segments, golds, ability, resources.reward,
                                                 trajectory.executed))
        scoring_seconds = time.monotonic() - started
        row = {"index": int(index), "session": session_id, "ability": ability, "gold": golds}
        write_record(resources.records, "val" if validation else "train", global_steps, row, trajectory, score)
        return AgentLoopOutput(
            prompt_ids=prompt_ids, response_ids=trajectory.response_ids, response_mask=trajectory.response_mask,
            response_logprobs=trajectory.response_log_probs, reward_score=score.score, num_turns=len(trajectory.segments),
            metrics=AgentLoopMetrics(generate_sequences=engine.seconds, tool_calls=trajectory.tool_seconds,
                                     compute_score=scoring_seconds),
            extra_fields={**engine.extra_fields, "reward_extra_info": {}})


def write_record(directory: Path, kind: str, step: int, row: dict, trajectory: Trajectory, score: Reward) -> None:
    """Append one trajectory to `{kind}_{step}.{process}.jsonl`; the launcher merges the files of a step."""
    record = {
        **row, "segments": [{"by": segment.by, "text": segment.text} for segment in trajectory.segments],
        "finish": trajectory.finish, "executed": trajectory.executed, "emitted": trajectory.emitted,
        "score": score.score, "accuracy": score.accuracy, "fault": score.fault, "bonus": score.bonus,
        "response_tokens": len(trajectory.response_ids), "seconds": round(trajectory.seconds, 4),
    }
    with open(directory / f"{kind}_{step}.{os.getpid()}.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")


def report_fault(error: BaseException) -> None:
    """Write the cause of the first failure to the run's `fault.json`, for the sampler and the launcher."""
    path = Path(os.environ["TIR_RUN_DIRECTORY"]) / "fault.json"
    text = str(error).split("\n")[0]  # a remedy, on the next line, is for who reads this fault by itself
    cause = {"type": type(error).__name__, "text": text, "traceback": "".join(traceback.format_exception(error)),
             "infrastructure": isinstance(error, InfrastructureFault)}
    with contextlib.suppress(FileExistsError), open(path, "x", encoding="utf-8") as file:
        json.dump(cause, file)
