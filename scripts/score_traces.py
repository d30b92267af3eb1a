"""Score the trajectories of one model on one benchmark: trace records -> score records (JSON Lines)."""

from tir.common import cli
from tir.common.records import read_jsonl, write_jsonl, write_provenance
from tir.common.schema import Task
from tir.config.params import read
from tir.scoring.score import score_traces
from tir.workflow.digests import code_digest


def main() -> None:
    parse = cli.parser(__doc__)
    parse.add_argument("--traces", required=True, help="trace records (JSON Lines)")
    parse.add_argument("--output", required=True, help="score records to write (JSON Lines)")
    arguments = parse.parse_args()
    given = read(arguments, task=Task, golds=str)
    records, report = score_traces(
        read_jsonl(arguments.traces, ("id", "sample", "gold", "answer", "finish")), task=given.task, golds=given.golds
    )
    write_jsonl(arguments.output, records)
    write_provenance(
        arguments.output,
        config=arguments.params,
        packages=("latex2sympy2_extended", "sympy"),
        code=code_digest("scripts.score_traces"),
        report=report,
    )


if __name__ == "__main__":
    cli.run(main)
