"""Update the results in README.md and docs/tour.md from a finished `make demo`; in docs/study.md from `make study`."""

import shutil
from pathlib import Path

from tir.analysis.pages import blocks, fill, study_blocks
from tir.common.cli import run
from tir.common.errors import DataError

PAGES = ("README.md", "docs/tour.md")
FIGURES = ("figure1.png", "figure4.png")
STUDY, STUDY_PAGE = Path("study"), Path("docs/study.md")  # folder of `make study`; it need not have run


def main() -> None:
    root = Path()
    texts = {page: fill(Path(page).read_text(encoding="utf-8"), blocks(root)) for page in PAGES}
    if (STUDY / "results/study/effects.csv").is_file():
        texts[str(STUDY_PAGE)] = fill(STUDY_PAGE.read_text(encoding="utf-8"), study_blocks(STUDY))
    for name in FIGURES:
        if not (root / "results" / name).is_file():
            raise DataError("a figure is missing", where=f"results/{name}", why="no finished run", remedy="make demo")
    for page, text in texts.items():
        Path(page).write_text(text, encoding="utf-8")
    Path("docs/images").mkdir(exist_ok=True)
    for name in FIGURES:
        shutil.copyfile(root / "results" / name, Path("docs/images", name))
    if (diagram := STUDY / "results/study/phase.png").is_file():
        shutil.copyfile(diagram, "docs/images/phase.png")


if __name__ == "__main__":
    run(main)
