"""Build one container image."""

from tir.cli import parser, run
from tir.images import RECIPES, build
from tir.site import Images


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--name", required=True, choices=["base", *RECIPES])
    arguments.add_argument("--output", required=True, help="the .sif; its description goes beside it")
    options = arguments.parse_args()
    build(options.name, options.output, Images.model_validate(options.params))


if __name__ == "__main__":
    run(main)
