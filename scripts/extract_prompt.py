"""The system prompt, taken from the instruction column of the SFT data and checked by its hash."""

import hashlib
from collections import Counter

from tir.cli import parser, run
from tir.data.alpaca import read_alpaca
from tir.errors import DataError
from tir.records import write_text


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--sft", required=True, help="Alpaca rows, JSON")
    arguments.add_argument("--output", required=True)
    options = arguments.parse_args()
    prompt, _ = Counter(row["instruction"] for row in read_alpaca(options.sft)).most_common(1)[0]
    prompt = prompt.strip()
    wanted, found = options.params.get("sha256"), hashlib.sha256(prompt.encode()).hexdigest()
    if wanted and wanted != found:
        raise DataError("not the expected system prompt", where=f"{options.sft}: instruction",
                        why=f"sha256 is {found}, config.yaml says {wanted}", remedy=f"data:\n    prompt_sha256: {found}")
    write_text(options.output, prompt)


if __name__ == "__main__":
    run(main)
