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
import hashlib
import json
import os
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopMetrics, AgentLoopOutput

from tir.engines.base import Completion, Sampling
from tir.errors import EngineFault, InfrastructureFault
from tir.prompts import render_prompt
from tir.records import read_json
from tir.reward import Reward, RewardSettings, reward
from tir.rollout import RolloutSettings, Trajectory, rollout
from tir.tools import make_tools
from tir.tools.base import Tool

_ATTEMPTS = 3
_STOP_TAIL_TOKENS = 16  # a stop string is shorter than that


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
        settings=RolloutSettings(max_response_tokens=values["max_response_tokens"], tool_budget=tools["budget"],
                                 leading_space=tools["leading_space"], tool_tokens=tools["result_tokens"]),
        reward=RewardSettings(**values["reward"]), routes=routes, seed=values["seed"], records=Path(values["records"]),
        tools=stack.enter_context(make_tools(names, tools, values["endpoint"])),
        threads=ThreadPoolExecutor(2, thread_name_prefix="reward"))


class ServerEngine:
    """verl's rollout server as a `tir` engine, for one trajectory; counts turns and remembers what the server added.

    Args:
        client: verl's `LLMServerClient`.
        tokenizer: the policy's.
        end_ids: ids that end a text.
    """

    def __init__(self, client, tokenizer, end_ids: set[int]):
        self.client, self.tokenizer, self.end_ids = client, tokenizer, end_ids
        self.turns, self.seconds, self.extra_fields = 0, 0.0, {}

    async def generate(self, prompt_ids: list[int], *, max_tokens: int, sampling: Sampling, stop: tuple[str, ...],
                       request_id: str) -> Completion:
        """Continue one prompt; see `tir.engines.base.Engine`."""
        parameters = {
            "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": -1, "max_tokens": max_tokens,
            "repetition_penalty": sampling.repetition_penalty, "logprobs": True, "stop": list(stop),
            "include_stop_str_in_output": True, "skip_special_tokens": False,
            # Another seed per turn: the same one would draw the same random numbers after every tool result.
            "seed": None if sampling.seed is None else (sampling.seed + self.turns) % 2**31,
        }
        started = time.monotonic()
        try:
            output = await self.client.generate(request_id=request_id, prompt_ids=prompt_ids, sampling_params=parameters)
        except Exception as error:  # Ray or vLLM; never the model's fault
            raise EngineFault("the rollout server failed", where=request_id, why=str(error).strip()[-500:]) from error
        self.seconds += time.monotonic() - started
        self.turns += 1
        if output.stop_reason == "aborted":
            raise EngineFault("the rollout server aborted a request", where=request_id)
        self._remember(output.extra_fields)
        ids = list(output.token_ids)
        return Completion(ids, list(output.log_probs), self._finish(ids, max_tokens, stop))

    def _remember(self, fields: dict[str, Any]) -> None:
        # Versions of the weights a trajectory was generated with: the first turn's and the last turn's.
        first = self.extra_fields.get("min_global_steps", fields.get("min_global_steps"))
        self.extra_fields |= {**fields, "min_global_steps": first}

    def _finish(self, ids: list[int], max_tokens: int, stop: tuple[str, ...]) -> str:
        """Why the engine stopped; verl's answer does not say."""
        if ids and ids[-1] in self.end_ids:
            return "eos"
        tail = self.tokenizer.decode(ids[-_STOP_TAIL_TOKENS:], skip_special_tokens=False)
        if any(string in tail for string in stop):
            return "stop"
        return "length" if len(ids) >= max_tokens else "eos"


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
        tools = {name: resources.tools[name] for name in resources.routes[ability]}
        async for attempt in AsyncRetrying(retry=retry_if_exception_type(InfrastructureFault), reraise=True,
                                           stop=stop_after_attempt(_ATTEMPTS), wait=wait_exponential_jitter(0.5, 10)):
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


def end_ids(tokenizer) -> set[int]:
    """Ids that end a text: the tokenizer's end and, for Qwen2.5, its padding token (`<|endoftext|>`)."""
    return {tokenizer.eos_token_id, tokenizer.pad_token_id} - {None}


def request_seed(seed: int, step: int, index: int, session: int) -> int:
    """Seed of a trajectory: the same run, step, row and member of the group draw the same numbers."""
    text = f"{seed}:{step}:{index}:{session}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "big") % 2**31


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
    cause = {"type": type(error).__name__, "text": str(error), "traceback": "".join(traceback.format_exception(error)),
             "infrastructure": isinstance(error, InfrastructureFault)}
    with contextlib.suppress(FileExistsError), open(path, "x", encoding="utf-8") as file:
        json.dump(cause, file)
