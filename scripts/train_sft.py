"""Fine-tune the base model with LLaMA-Factory; a model directory per epoch. Run again to continue a killed run."""

from __future__ import annotations

from tir import cli
from tir.model_files import check_weights
from tir.settings import from_params
from tir.sft.recipe import SftSettings
from tir.sft.train import train


def main() -> None:
    parse = cli.parser(__doc__)
    parse.add_argument("--base", required=True, help="directory of the model to start from")
    parse.add_argument("--data", required=True, help="trajectories, Alpaca JSON")
    parse.add_argument("--run-dir", required=True, help="directory of the run's state and log")
    parse.add_argument("--models-dir", required=True, help="directory that receives sft-epoch{n}")
    arguments = parse.parse_args()
    check_weights(arguments.base)
    train(arguments.base, arguments.data, arguments.run_dir, arguments.models_dir,
          from_params(SftSettings, arguments.params, "sft"))


if __name__ == "__main__":
    cli.run(main)
