"""Score the trajectories of one model on one benchmark: trace records -> score records (JSON Lines)."""

from tir import cli
from tir.records import read_jsonl, write_jsonl, write_provenance
from tir.scoring.score import judgement_index, score_traces
from tir.workflow import code


def main() -> None:
    parse = cli.parser(__doc__)
    parse.add_argument("--traces", required=True, help="trace records (JSON Lines)")
    parse.add_argument("--judge", nargs="?", help="judge records: id, sample, verdict, cached (JSON Lines); may be left empty")
    parse.add_argument("--output", required=True, help="score records to write (JSON Lines)")
    arguments = parse.parse_args()
    judgements = judgement_index(read_jsonl(arguments.judge)) if arguments.judge else None
    records, report = score_traces(read_jsonl(arguments.traces), judgements=judgements, **arguments.params)
    write_jsonl(arguments.output, records)
    write_provenance(
        arguments.output,
        config=arguments.params,
        packages=("math-verify", "sympy"),
        code=code("scripts.score_traces"),
        report=report,
    )


if __name__ == "__main__":
    cli.run(main)
