"""Generate a model's trajectories on one benchmark."""

import asyncio
import contextlib
from pathlib import Path

from tir.cli import parser, run
from tir.data.benchmarks import load_items
from tir.engines import make_engine
from tir.engines.base import Sampling
from tir.helpers import make_helpers
from tir.records import file_digest, read_json
from tir.retrieval.sidecar import starting_server
from tir.rollout import RolloutSettings
from tir.settings import merged
from tir.tools.registry import asks_retrieval, by_tag, files_of, make_tools, modules
from tir.traces import TraceJob, generate_traces
from tir.workflow import code_digest


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--model", required=True, help="model directory")
    arguments.add_argument("--items", required=True, help="benchmark file")
    arguments.add_argument("--system-prompt", required=True, help="text file")
    arguments.add_argument("--index", required=True, help="index directory")
    arguments.add_argument("--endpoint", default="none", help="a standing retrieval server, or none")
    arguments.add_argument("--helper-endpoint", default="none", help="an OpenAI-compatible server for helpers, or none")
    arguments.add_argument("--output", required=True)
    options = arguments.parse_args()
    asyncio.run(generate(options))


async def generate(options) -> None:
    wanted = merged(options.params, options.operation)
    tools, names = wanted["tools"], wanted["tools"]["routes"][wanted["task"]]
    prompt = Path(options.system_prompt).read_text(encoding="utf-8")
    prompt = f"\n{prompt}\n" if wanted["prompt_newlines"] else prompt
    job = TraceJob(
        task=wanted["task"], system_prompt=prompt, samples=wanted["samples"], concurrency=wanted["concurrency"],
        settings=RolloutSettings.of(tools, wanted["max_response_tokens"]),
        sampling=Sampling(wanted["temperature"], wanted["top_p"], wanted["repetition_penalty"], wanted["seed"]))
    async with contextlib.AsyncExitStack() as stack:
        endpoint = None
        if asks_retrieval(names):
            endpoint = stack.enter_context(starting_server(
                options.index, endpoint=None if options.endpoint == "none" else options.endpoint,
                log_path=f"{options.output}.retrieval.log"))
        engine = make_engine(wanted["engine"]["kind"], options.model, device=wanted["device"],
                             dtype=wanted["engine"]["dtype"], max_batch=wanted["engine"]["max_batch"])
        stack.push_async_callback(engine.close)
        toolbox = by_tag(stack.enter_context(make_tools(names, tools, endpoint and endpoint())), names)
        helpers = stack.enter_context(make_helpers(wanted["helpers"], options.helper_endpoint))
        await generate_traces(engine, engine.tokenizer, toolbox, load_items(options.items, wanted["n"]), job,
                              options.output, work=the_work(options, prompt), helpers=helpers)


def the_work(options, prompt: str) -> dict:
    """Names the work for resuming: all that decides a trajectory; of the tools only what the task's route calls."""
    params, tools = options.params, options.params["tools"]
    route = tools["routes"][params["task"]]
    files = [options.items, *files_of(route, tools, options.index)]
    return {"params": params, "prompt": prompt, "model": read_json(Path(options.model) / "manifest.json"),
            "files": [file_digest(file) for file in files], "code": code_digest("scripts.generate_traces", *modules(route))}


if __name__ == "__main__":
    run(main)
