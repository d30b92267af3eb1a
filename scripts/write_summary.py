"""Write the summary of a run: HTML at --output, the same sentences as JSON beside it."""

from pathlib import Path

from tir.analysis import summary
from tir.analysis.origin import describe
from tir.analysis.tables.files import html_page
from tir.common import cli
from tir.common.records import write_json, write_provenance, write_text
from tir.workflow.digests import code_digest


def main() -> None:
    parse = cli.parser(__doc__)
    parse.add_argument("--output", required=True, help="HTML file to write")
    parse.add_argument("--results", default="results", help="folder of the tables and figures")
    parse.add_argument("--model", nargs="*", default=[], help="manifest of the model whose parameters the label counts")
    arguments = parse.parse_args()
    results, output = Path(arguments.results), Path(arguments.output)
    origin = describe(arguments.params, map(Path, arguments.model))
    found = summary.sections(results, arguments.params, origin)
    figures = [results / f"{name}.png" for name in arguments.params["figures"]]
    write_text(output, html_page("Summary", summary.as_html(found, figures)))
    write_json(output.with_suffix(".json"), found)
    for path in (output, output.with_suffix(".json")):
        write_provenance(path, config=arguments.params, code=code_digest("scripts.write_summary"))


if __name__ == "__main__":
    cli.run(main)
