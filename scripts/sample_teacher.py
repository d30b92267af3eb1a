"""Synthesis, step 1: ask the teacher each question several times, with the tools of the question's task."""

import asyncio
import contextlib
import json
import sys
from pathlib import Path

from tir.common.cli import parser, run
from tir.common.keys import HELPER, read_key
from tir.common.model_files import read_model_manifest
from tir.common.records import file_digest, write_json
from tir.common.schema import Device
from tir.config.evaluation import EngineConfig
from tir.config.params import read, without
from tir.config.synthesis import SynthesisSampling, Teacher
from tir.config.tools import Tools
from tir.retrieval.sidecar import RETRIEVAL_HELP, retrieval
from tir.rollout.engines import make_engine
from tir.rollout.loop import RolloutSettings
from tir.synthesis.characters import PER_TOKEN
from tir.synthesis.prompts import VERSION
from tir.synthesis.questions import load_questions
from tir.synthesis.sampling import SamplingJob, sample_questions
from tir.synthesis.teacher import ChatEngine
from tir.tools.registry import asks_retrieval, by_tag, files_of, make_tools, modules
from tir.workflow.digests import code_digest


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--questions", required=True, help="questions, Parquet in the format of RL rows")
    arguments.add_argument("--model", required=True, help="directory of the teacher; unused with an endpoint")
    arguments.add_argument("--system-prompt", required=True, help="text file, the system prompt of the rows")
    arguments.add_argument("--index", required=True, help="index directory")
    arguments.add_argument("--retrieval", type=json.loads, default={}, help=RETRIEVAL_HELP)
    arguments.add_argument("--cache", required=True, help="directory of the samples so far")
    arguments.add_argument("--output", required=True, help="records to write (JSON Lines)")
    arguments.add_argument("--teacher", required=True, help="file to write: which teacher, prompts and code (JSON)")
    options = arguments.parse_args()
    asyncio.run(sample(options))


async def sample(options) -> None:
    kinds = {"teacher": Teacher, "sampling": SynthesisSampling, "max_questions": int | None}
    given = read(options, **kinds, tools=Tools, engine=EngineConfig, device=Device)
    teacher, plan, tools = given.teacher, given.sampling, given.tools
    questions = load_questions(options.questions, given.max_questions)
    routes = {task: plan.routes.get(task, []) for task in sorted({each.task for each in questions})}
    names = sorted({name for route in routes.values() for name in route})
    prompt = Path(options.system_prompt).read_text(encoding="utf-8") if teacher.prompts == "system" else None
    async with contextlib.AsyncExitStack() as stack:
        address = None
        if asks_retrieval(names):
            served = retrieval(options.index, log_path=f"{options.output}.retrieval.log", **options.retrieval)
            address = stack.enter_context(served)
        if teacher.endpoint:
            engine, per_token = ChatEngine(teacher, read_key(HELPER)), PER_TOKEN
        else:
            engine, per_token = make_engine(given.engine, options.model, device=given.device), 1
        stack.push_async_callback(engine.close)
        made = stack.enter_context(make_tools(names, tools, address))
        job = SamplingJob(
            teacher=teacher,
            sampling=plan,
            settings=RolloutSettings(_in_ids(tools, per_token), teacher.max_response_tokens * per_token),
            tools={task: by_tag(made, route) for task, route in routes.items()},
            system_prompt=prompt,
            per_token=per_token,
        )
        work = sample_key(options, given, names, prompt)
        outcomes = await sample_questions(
            engine, engine.tokenizer, questions, job, options.output, options.cache, work=work
        )
    print("questions:", ", ".join(f"{number} {name}" for name, number in outcomes.items()), file=sys.stderr)
    made_by = {name: work[name] for name in ("teacher", "questions", "code")}
    write_json(options.teacher, {**made_by, "prompts": teacher.prompts, "version": VERSION, "outcomes": outcomes})


def _in_ids(tools: Tools, per_token: int) -> Tools:
    """The section with limits in ids of the engine, which are characters for a teacher behind an API."""
    most = tools.result_tokens
    scaled = (
        {tag: each * per_token for tag, each in most.items()} if isinstance(most, dict) else most and most * per_token
    )
    return tools.model_copy(update={"result_tokens": scaled})


def sample_key(options, given, names: list[str], prompt: str | None) -> dict:
    """What determines a sample: not the budget, the number of questions, or how many are asked at the same time."""
    params = without(options.params, "max_questions")
    params["sampling"] = without(params["sampling"], "budget")
    params["teacher"] = without(params["teacher"], "concurrency")
    served = {"model": given.teacher.model, "revision": given.teacher.revision}
    return {
        "params": params,
        "prompt": prompt,
        "teacher": served if given.teacher.endpoint else read_model_manifest(options.model),
        "questions": file_digest(options.questions),
        "files": [file_digest(file) for file in files_of(names, given.tools, options.index)],
        "code": code_digest("scripts.sample_teacher", *modules(names)),
    }


if __name__ == "__main__":
    run(main)
