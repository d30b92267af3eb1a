"""Trying a barrier where it does no harm: in a child that is thrown away."""

from __future__ import annotations

import os
from collections.abc import Callable


def trial(attempt: Callable[[Callable[[str], None]], None]) -> str:
    """Run an attempt in a forked child.

    Args:
        attempt: gets a function that reports from the child, or from a child of the child: `works`, or what does not.

    Returns:
        "" if the report was `works`, else what was reported or raised.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            attempt(lambda text: os.write(write, text.encode()))
        except Exception as error:  # noqa: BLE001  (the reason is the result)
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with open(read, encoding="utf-8", errors="replace") as file:
        answer = file.read()
    return "" if answer == "works" else answer or "the probe ended without a word"
