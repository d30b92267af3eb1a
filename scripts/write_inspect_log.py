"""Write the trajectories and scores of a model on a benchmark as an evaluation log of inspect_ai (.eval)."""

from pathlib import Path

from inspect_ai.log import write_eval_log

from tir.analysis.inspect_log import created_at, eval_log
from tir.common import cli
from tir.common.files import atomic_path
from tir.common.records import read_jsonl, write_provenance
from tir.workflow.digests import code_digest


def main() -> None:
    parse = cli.parser(__doc__)
    parse.add_argument("--traces", required=True, help="trace records (JSON Lines)")
    parse.add_argument("--scores", required=True, help="score records (JSON Lines)")
    parse.add_argument("--system-prompt", required=True, help="text file")
    parse.add_argument("--output", required=True, help="log to write, .eval")
    arguments = parse.parse_args()
    traces = Path(arguments.traces)
    log = eval_log(
        read_jsonl(traces, ("id", "sample", "segments", "finish")),
        read_jsonl(arguments.scores, ("id", "sample", "correct")),
        model=traces.parent.name,
        benchmark=traces.stem,
        system_prompt=Path(arguments.system_prompt).read_text(encoding="utf-8"),
        created=created_at(traces),
        settings=arguments.params,
    )
    with atomic_path(arguments.output) as temporary:
        write_eval_log(log, temporary, format="eval")
    write_provenance(
        arguments.output,
        config=arguments.params,
        packages=("inspect-ai",),
        code=code_digest("scripts.write_inspect_log"),
    )


if __name__ == "__main__":
    cli.run(main)
