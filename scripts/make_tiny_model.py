"""Train the tiny tokenizer on the world's text and write it with a freshly initialised tiny model."""

from __future__ import annotations

from tir import cli
from tir.settings import from_params
from tir.tiny_model import TinyModelSettings, make_tiny_model
from tir.world.files import tokenizer_text


def main() -> None:
    parse = cli.parser(__doc__)
    parse.add_argument("--corpus", required=True, help="the world's passages, JSON Lines")
    parse.add_argument("--sft", required=True, help="the world's trajectories, Alpaca JSON")
    parse.add_argument("--output", required=True, help="model directory to write")
    arguments = parse.parse_args()
    settings = from_params(TinyModelSettings, arguments.params, "tiny_model")
    make_tiny_model(tokenizer_text(arguments.corpus, arguments.sft), arguments.output, settings)


if __name__ == "__main__":
    cli.run(main)
