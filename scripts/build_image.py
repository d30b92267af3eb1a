"""Build one container image."""

from tir.common.cli import parser, run
from tir.config.params import read
from tir.config.site import Images
from tir.workflow.images import RECIPES, build


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--name", required=True, choices=["base", *RECIPES])
    arguments.add_argument(
        "--output", required=True, help="image file (.sif); its description (JSON) is written beside it"
    )
    options = arguments.parse_args()
    build(options.name, options.output, read(options, images=Images).images)


if __name__ == "__main__":
    run(main, host=True)
