"""Judge the trajectories of one model on one benchmark: trace records -> verdicts (JSON Lines) and a report (JSON)."""

import contextlib
import sys
from typing import Any

from tir.common import cli
from tir.common.keys import JUDGE, read_key
from tir.common.model_server import command
from tir.common.records import read_json, read_jsonl, write_json, write_jsonl, write_provenance
from tir.common.schema import Task
from tir.config.judge import Judge
from tir.config.params import read
from tir.scoring.judge.cache import VerdictCache
from tir.scoring.judge.client import JudgeClient
from tir.scoring.judge.run import by_rules, judge_traces, summary
from tir.scoring.judge.sidecar import judge_server
from tir.workflow.digests import code_digest


def main() -> None:
    parse = cli.parser(__doc__)
    parse.add_argument("--traces", required=True, help="trace records (JSON Lines)")
    parse.add_argument(
        "--model", required=True, help="directory of the judge's model with its manifest; unused with --endpoint"
    )
    parse.add_argument("--endpoint", default="none", help="address of a running server; none: start one if needed")
    parse.add_argument("--cache", required=True, help="SQLite file of verdicts")
    parse.add_argument("--output", required=True, help="verdicts to write (JSON Lines)")
    parse.add_argument("--server-log", required=True, help="log file of a started server")
    arguments = parse.parse_args()
    given = read(arguments, judge=Judge, task=Task, stands=dict[str, Any] | None)
    judge = given.judge
    traces = read_jsonl(arguments.traces, ("id", "sample", "question", "gold", "answer", "segments"))
    rule_verdicts = by_rules(traces, given.task)
    manifest = given.stands or read_json(f"{arguments.model}/manifest.json")
    request = {"seed": judge.seed, "max_tokens": judge.max_tokens, "choices": judge.choices}
    cache = VerdictCache(arguments.cache, {"name": judge.name, "manifest": manifest, **request})
    sidecar = judge_server(
        lambda port: command(judge.engine, arguments.model, judge.name, port, judge.gpus),
        log_path=arguments.server_log,
    )
    with contextlib.closing(cache), sidecar as start:

        def client() -> JudgeClient:
            endpoint = start if arguments.endpoint == "none" else arguments.endpoint
            return JudgeClient(endpoint, judge, cache, api_key=read_key(JUDGE))

        rows, report = judge_traces(traces, rule_verdicts, client, judge)
    print(summary(report), file=sys.stderr)
    write_json(f"{arguments.output}.report.json", {"model": judge.name, **report})
    write_jsonl(arguments.output, rows)
    write_provenance(
        arguments.output,
        config=arguments.params,
        seed=judge.seed,
        packages=("httpx", "vllm", "transformers"),
        code=code_digest("scripts.judge_traces"),
    )


if __name__ == "__main__":
    cli.run(main)
