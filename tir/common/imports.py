"""Import large libraries without Python's search for garbage."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Pause garbage collection within the block, and exempt all objects that then exist from it.

    Modules are never garbage, but Python looks for garbage again and again while it imports them. With torch and
    transformers this takes a tenth of the CPU time, with LLaMA-Factory or verl a fifth to a quarter.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
