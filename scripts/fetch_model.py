"""Fetch a pretrained model from its configured source."""

from tir.common.cli import parser, run
from tir.config.params import read
from tir.config.sources import ModelSource
from tir.data.models import fetch_model


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--name", required=True, help="name of the model under `models`")
    arguments.add_argument("--output", required=True, help="model directory")
    arguments.add_argument("--chat", action="store_true", help="fail if the model has no chat template")
    arguments.add_argument("--trained", action="store_true", help="fail if the model cannot be trained")
    options = arguments.parse_args()
    source = read(options, source=ModelSource).source.model_dump(mode="json")
    fetch_model(options.name, source, options.output, chat=options.chat, trained=options.trained)


if __name__ == "__main__":
    run(main, host=True)
