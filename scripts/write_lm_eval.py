"""Write the trajectories and scores of a model as the results of lm-evaluation-harness, a folder."""

import os
import shutil
from pathlib import Path

from tir.analysis import exports, lm_eval
from tir.common import cli
from tir.common.files import only_writer
from tir.common.records import write_json, write_jsonl, write_provenance
from tir.workflow.digests import code_digest


def main() -> None:
    parse = cli.parser(__doc__)
    parse.add_argument("--traces", type=Path, nargs="+", required=True, help="trace records (JSON Lines)")
    parse.add_argument("--scores", type=Path, nargs="+", required=True, help="score records, in the same order")
    parse.add_argument("--system-prompt", required=True, help="text file")
    parse.add_argument("--output", type=Path, required=True, help="folder to write")
    given = parse.parse_args()
    found = {
        traces.stem: exports.of_benchmark(traces, scores)
        for traces, scores in zip(given.traces, given.scores, strict=True)
    }
    prompt = Path(given.system_prompt).read_text(encoding="utf-8")
    model = given.traces[0].parent.name
    contents = lm_eval.files(found, model=model, system_prompt=prompt, settings=given.params)
    with only_writer(given.output):
        shutil.rmtree(given.output, ignore_errors=True)
        for name, content in contents.items():
            (write_jsonl if isinstance(content, list) else write_json)(given.output / name, content)
    means = given.output / next(iter(contents))
    write_provenance(means, config=given.params, code=code_digest("scripts.write_lm_eval"))
    # Not in the folder, where the harness would take it for the newest results.
    os.replace(f"{means}.provenance.json", f"{given.output}.provenance.json")


if __name__ == "__main__":
    cli.run(main)
