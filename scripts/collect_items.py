"""Write every trajectory of a run as one row of a Parquet file; without --params, all records that exist now."""

import sys
from pathlib import Path

from tir.analysis.items import collect, write
from tir.analysis.origin import describe
from tir.common import cli
from tir.common.records import write_provenance
from tir.workflow.digests import code_digest


def main() -> None:
    parse = cli.parser(__doc__)
    parse.add_argument("--output", required=True, help="Parquet file to write")
    parse.add_argument("--root", default=".", help="folder of the workflow, with traces/ and scores/")
    parse.add_argument("--model", nargs="*", default=[], help="manifest of the model whose parameters the label counts")
    arguments = parse.parse_args()
    given = arguments.params
    decides = given.get("judge_decides", False)
    found = collect(arguments.root, given.get("records"), judged=given.get("judged"), judge_decides=decides)
    for note in found.notes:
        print(note, file=sys.stderr)
    write(found.rows, arguments.output, describe(given, map(Path, arguments.model)))
    write_provenance(arguments.output, config=given, packages=("pyarrow",), code=code_digest("scripts.collect_items"))
    print(f"{len(found.rows)} trajectories: {arguments.output}", file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
