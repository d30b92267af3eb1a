"""Shared style of all figures: the paper's palette and hatches, legible in grey and for colour-blind readers.

Models differ in hue, lightness, and hatch (bars) or marker and dash (lines). The paper's palette (Figure 2) is kept:
published dark grey with diagonals, SFT blue with dots, GRPO green, ASPO red.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from tir.common.files import atomic_path
from tir.common.records import write_provenance

TEXT_WIDTH = 5.5  # inches, one column of the paper's layout


@dataclass(frozen=True)
class Look:
    """How one model or arm is drawn."""

    colour: str
    hatch: str = ""
    marker: str = "o"
    dash: Any = "-"


LOOKS = {
    "published": Look("#4d4d4d", "////", "s", (0, (4, 2))),
    "sft": Look("#5aa2d6", "....", "D", (0, (1, 1.5))),
    "sft_medium": Look("#b9d9f0", "oo", "d", (0, (1, 2.5))),
    "grpo": Look("#7ac68a", "", "o", "-"),
    "aspo": Look("#cf4339", "\\\\\\\\", "^", "-"),
    "gamma_only": Look("#b97400", "xxxx", "v", (0, (5, 1, 1, 1))),
    "alpha_only": Look("#8da0cb", "----", "P", (0, (3, 1))),
    "beta_only": Look("#cc79a7", "||||", "X", (0, (2, 1))),
    "aspo_original": Look("#762a83", "++++", "*", (0, (6, 2))),
}
_OTHERS = (
    Look("#1b7f79", "oo", "<", (0, (3, 1, 1, 1))),
    Look("#a6761d", "**", ">", (0, (1, 1))),
    Look("#666699", "//..", "h", (0, (7, 2))),
    Look("#b3b3b3", "OO", "d", (0, (2, 2))),
)
POSITIVE, NEGATIVE, NEUTRAL = "#3f9a50", "#b2182b", "#b8b8b8"
CATEGORY_LOOKS = {
    "python_only": Look("#33638d", "////"),
    "search_only": Look("#e6b45a", "...."),
    "no_tools": Look("#d9d9d9", ""),
    "mixed": Look("#7a3b69", "xxxx"),
}

_SETTINGS = {
    "figure.dpi": 100,
    "savefig.dpi": 300,
    "figure.constrained_layout.use": True,
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "hatch.linewidth": 0.5,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "svg.hashsalt": "tir",
    "svg.fonttype": "path",
}


def look(label: str) -> Look:
    """The look of a model or arm by its label, id or arm name ("GRPO @ 30", "grpo-step30-seed1", "gamma-only @ 30").

    An unknown name gets one of four spare looks, always the same one.
    """
    name = re.sub(r"\W+", "_", re.split(r"\s*@|-step", label.lower())[0]).strip("_")
    if name in LOOKS:
        return LOOKS[name]
    family = next((known for known in ("published", "sft") if name.startswith(known)), None)
    return LOOKS[family] if family else _OTHERS[sum(name.encode()) % len(_OTHERS)]


def looks(labels: Iterable[str]) -> dict[str, Look]:
    """The looks of the labels in one figure: `look`, where a look already used is replaced by an unused one, if any."""
    chosen: dict[str, Look] = {}
    for label in dict.fromkeys(labels):
        preferred = look(label)
        candidates = (preferred, *_OTHERS, *LOOKS.values())
        chosen[label] = next((each for each in candidates if each not in chosen.values()), preferred)
    return chosen


def bar_style(of: Look) -> dict[str, Any]:
    """Keyword arguments of a bar."""
    return {"facecolor": of.colour, "hatch": of.hatch, "edgecolor": "white" if of.hatch else of.colour, "linewidth": 0}


def draw_intervals(
    axes: Axes,
    places: np.ndarray,
    scores: np.ndarray,
    lows: np.ndarray,
    highs: np.ndarray,
    *,
    horizontal: bool = False,
) -> None:
    """Error bars with a white outline, visible on dark and light bars."""
    lengths = np.clip([scores - lows, highs - scores], 0, None)
    position = (
        {"x": scores, "y": places, "xerr": lengths} if horizontal else {"x": places, "y": scores, "yerr": lengths}
    )
    error_bars = axes.errorbar(**position, fmt="none", ecolor="#1a1a1a", elinewidth=0.7, capsize=1.6, capthick=0.7)
    for artist in (*error_bars.lines[1], *error_bars.lines[2]):
        artist.set_path_effects([withStroke(linewidth=1.9, foreground="white", alpha=0.85)])


def ordered(arms: Iterable[str]) -> list[str]:
    """Arms in the palette's order (baselines first), then unknown arms by name."""
    known = list(LOOKS)
    return sorted(arms, key=lambda arm: (known.index(arm) if arm in known else len(known), arm))


def line_style(of: Look) -> dict[str, Any]:
    """Keyword arguments of a line with markers."""
    return {
        "color": of.colour,
        "linestyle": of.dash,
        "marker": of.marker,
        "markeredgecolor": "white",
        "markeredgewidth": 0.4,
    }


@contextmanager
def style() -> Iterator[None]:
    """Apply the shared matplotlib settings within the block; the caller's settings are restored afterwards."""
    with mpl.rc_context():
        mpl.use("agg")
        mpl.rcParams.update(_SETTINGS)
        yield


def save(figure: Figure, output: str | os.PathLike, *, config: Any, code: str = "") -> list[Path]:
    """Write `output` (PNG) and the same figure as SVG beside it, with provenance. Equal figures give equal bytes."""
    output, written = Path(output), []
    for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
        path = output.with_suffix(suffix)
        with style(), atomic_path(path) as temporary:
            figure.savefig(temporary, format=suffix[1:], metadata=metadata)
        write_provenance(path, config=config, packages=("matplotlib", "numpy"), code=code)
        written.append(path)
    return written
