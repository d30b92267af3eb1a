"""Generate a model's trajectories on one benchmark."""

import asyncio
import contextlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tir.common.cli import parser, run
from tir.common.model_files import MANIFEST
from tir.common.records import file_digest, read_json
from tir.common.schema import Device, Task
from tir.config.evaluation import Evaluation
from tir.config.params import read
from tir.config.tools import Tools
from tir.data.benchmarks import load_items
from tir.retrieval.sidecar import RETRIEVAL_HELP, retrieval
from tir.rollout.engines import make_engine
from tir.rollout.engines.base import Sampling
from tir.rollout.helpers import make_helpers, models_asked
from tir.rollout.loop import RolloutSettings
from tir.rollout.traces import TraceJob, generate_traces
from tir.tools.registry import asks_retrieval, by_tag, files_of, make_tools, modules
from tir.workflow.digests import code_digest


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--model", required=True, help="model directory")
    arguments.add_argument("--items", required=True, help="benchmark file")
    arguments.add_argument("--system-prompt", required=True, help="text file")
    arguments.add_argument("--index", required=True, help="index directory")
    arguments.add_argument("--retrieval", type=json.loads, default={}, help=RETRIEVAL_HELP)
    arguments.add_argument("--helper-endpoint", default="none", help="an OpenAI-compatible server for helpers, or none")
    arguments.add_argument("--models", default="models", help="directory that has the helpers' models, by name")
    arguments.add_argument("--output", required=True, help="trace records to write (JSON Lines)")
    options = arguments.parse_args()
    asyncio.run(generate(options))


async def generate(options) -> None:
    kinds = {"evaluation": Evaluation, "tools": Tools, "device": Device, "task": Task, "n": int}
    given = read(options, **kinds, helper_models=dict[str, Any])
    evaluation, tools, names = given.evaluation, given.tools, given.tools.routes[given.task]
    prompt = Path(options.system_prompt).read_text(encoding="utf-8")
    prompt = f"\n{prompt}\n" if evaluation.prompt_newlines else prompt
    job = TraceJob(
        task=given.task,
        system_prompt=prompt,
        settings=RolloutSettings(tools, evaluation.max_response_tokens),
        sampling=Sampling(evaluation.temperature, evaluation.top_p, evaluation.repetition_penalty, evaluation.seed),
        samples=evaluation.samples,
        concurrency=evaluation.concurrency,
    )
    own_helpers = models_asked(evaluation.helpers) if options.helper_endpoint == "none" else []
    async with contextlib.AsyncExitStack() as stack:
        endpoint = None
        if asks_retrieval(names):
            endpoint = stack.enter_context(
                retrieval(options.index, log_path=f"{options.output}.retrieval.log", **options.retrieval)
            )
        engine = make_engine(evaluation.engine, options.model, device=given.device)
        stack.push_async_callback(engine.close)
        toolbox = by_tag(stack.enter_context(make_tools(names, tools, endpoint)), names)
        helpers = stack.enter_context(
            make_helpers(evaluation.helpers, options.helper_endpoint, options.models, f"{options.output}.helper.log")
        )
        await generate_traces(
            engine,
            engine.tokenizer,
            toolbox,
            load_items(options.items, given.n),
            job,
            options.output,
            work=resume_key(options, tools, given.task, prompt, own_helpers),
            helpers=helpers,
        )


def resume_key(options, tools: Tools, task: str, prompt: str, own_helpers: Iterable[str] = ()) -> dict:
    """Everything that determines a trajectory. Records of an interrupted job are kept only if this is unchanged.

    Of the tools, only those of the task's route count; of the helpers' models, those that the job serves itself.
    """
    route = tools.routes[task]
    models = [options.model, *(f"{options.models}/{name}" for name in own_helpers)]
    files = [options.items, *files_of(route, tools, options.index)]
    return {
        "params": options.params,
        "prompt": prompt,
        "models": [read_json(Path(model) / MANIFEST) for model in models],
        "files": [file_digest(file) for file in files],
        "code": code_digest("scripts.generate_traces", *modules(route)),
    }


if __name__ == "__main__":
    run(main)
