"""Train the tiny tokenizer on the world's text and write it with a freshly initialised tiny model."""

from __future__ import annotations

from tir.common import cli
from tir.config.params import read
from tir.config.world import TinyModelSettings
from tir.world.files import tokenizer_text
from tir.world.tiny_model import make_tiny_model


def main() -> None:
    parse = cli.parser(__doc__)
    parse.add_argument("--corpus", required=True, help="the world's passages, JSON Lines")
    parse.add_argument("--sft", required=True, help="the world's trajectories, Alpaca JSON")
    parse.add_argument("--output", required=True, help="model directory to write")
    arguments = parse.parse_args()
    settings = read(arguments, tiny_model=TinyModelSettings).tiny_model
    make_tiny_model(tokenizer_text(arguments.corpus, arguments.sft), arguments.output, settings)


if __name__ == "__main__":
    cli.run(main)
