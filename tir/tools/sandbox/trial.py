"""Try a barrier in a throw-away child, so that it does not restrict this process."""

from __future__ import annotations

import os
from collections.abc import Callable


def trial(attempt: Callable[[Callable[[str], None]], None]) -> str:
    """Run an attempt in a forked child.

    Args:
        attempt: function that gets a `report` function and must call it, in the child or a child of it, with "works" or
            with the reason why the barrier does not work.

    Returns:
        "" if the report was "works", else the reported reason or the exception's message.
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
    return "" if answer == "works" else answer or "the probe ended without a report"
