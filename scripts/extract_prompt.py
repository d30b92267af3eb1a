"""Write the system prompt: the configured text, or the most frequent instruction of the SFT data."""

import hashlib
from collections import Counter

from tir.common.cli import parser, run
from tir.common.errors import DataError
from tir.common.records import write_text
from tir.config.params import read
from tir.data.alpaca import read_alpaca


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--sft", nargs="?", help="Alpaca rows, JSON; may be left empty if --params has a prompt")
    arguments.add_argument("--output", required=True, help="text file to write")
    options = arguments.parse_args()
    given = read(options, prompt=str | None, sha256=str | None)
    prompt = given.prompt or instruction(options.sft, given.sha256)
    write_text(options.output, prompt.strip())


def instruction(sft: str, expected: str | None) -> str:
    """The most frequent instruction of the SFT data; raises `DataError` if its sha256 is not the expected one."""
    prompt, _ = Counter(row["instruction"] for row in read_alpaca(sft)).most_common(1)[0]
    actual = hashlib.sha256(prompt.strip().encode()).hexdigest()
    if expected and expected != actual:
        raise DataError(
            "the SFT data has another system prompt than the configured one",
            where=f"{sft}: instruction",
            why=f"its sha256 is {actual}, data.prompt_sha256 is {expected}",
            remedy=f"data:\n    prompt_sha256: {actual}",
        )
    return prompt


if __name__ == "__main__":
    run(main)
