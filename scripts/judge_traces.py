"""Judge the trajectories of one model on one benchmark: trace records -> verdicts (JSON Lines) and a report (JSON)."""

import contextlib
import os
import sys

from tir import cli
from tir.judge.cache import VerdictCache
from tir.judge.client import JudgeClient
from tir.judge.run import by_rules, judge_traces, summary
from tir.judge.sidecar import command, judge_server
from tir.records import read_json, read_jsonl, write_json, write_jsonl, write_provenance
from tir.settings import merged
from tir.workflow import code


def main() -> None:
    parse = cli.parser(__doc__)
    parse.add_argument("--traces", required=True, help="trace records (JSON Lines)")
    parse.add_argument("--model", required=True, help="directory of the judge's model, with its manifest, unless a server stands")
    parse.add_argument("--endpoint", default="none", help="a server that runs already, or none: start one if needed")
    parse.add_argument("--cache", required=True, help="SQLite file of verdicts")
    parse.add_argument("--output", required=True, help="verdicts to write (JSON Lines)")
    parse.add_argument("--server-log", required=True)
    arguments = parse.parse_args()
    wanted, traces = merged(arguments.params, arguments.operation), read_jsonl(arguments.traces)
    ruled = by_rules(traces, wanted["task"])
    request = {key: wanted[key] for key in ("seed", "max_tokens", "choices")}
    manifest = wanted.get("stands") or read_json(f"{arguments.model}/manifest.json")
    identity = {"name": wanted["name"], "manifest": manifest, **request}
    cache = VerdictCache(arguments.cache, identity)
    own = judge_server(lambda port: command(wanted["engine"], arguments.model, wanted["name"], port, wanted["gpus"]),
                       log_path=arguments.server_log)
    with contextlib.closing(cache), own as start:

        def client() -> JudgeClient:
            endpoint = start if arguments.endpoint == "none" else arguments.endpoint
            return JudgeClient(endpoint, wanted["name"], cache, **request, api_key=os.environ.get("JUDGE_API_KEY"),
                               **{key: wanted[key] for key in ("attempts", "concurrency", "timeout_s")})

        rows, report = judge_traces(traces, ruled, client,
                                    **{key: wanted[key] for key in ("rule_first", "audit", "max_unreadable",
                                                                     "min_calibration")})
    print(summary(report), file=sys.stderr)
    write_json(f"{arguments.output}.report.json", {"model": wanted["name"], **report})
    write_jsonl(arguments.output, rows)
    write_provenance(arguments.output, config=arguments.params, seed=wanted["seed"], packages=("httpx", "vllm", "transformers"),
                     code=code("scripts.judge_traces"))


if __name__ == "__main__":
    cli.run(main)
