"""Fetch a model that others trained."""

from tir.cli import parser, run
from tir.data.models import fetch_model


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--name", required=True, help="model id: base, published or judge")
    arguments.add_argument("--output", required=True, help="model directory")
    options = arguments.parse_args()
    fetch_model(options.name, options.params, options.output)


if __name__ == "__main__":
    run(main)
