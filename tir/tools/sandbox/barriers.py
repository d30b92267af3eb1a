"""The barriers around the calls of one worker: each is probed, then built as far as possible before the first call."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from typing import Any

from tir.tools.sandbox import files, namespaces, syscalls
from tir.tools.sandbox.levels import BARRIERS


@dataclass(frozen=True)
class Barriers:
    """The barriers around each call; None where a barrier is missing.

    Attributes:
        namespaces: this worker's `Namespaces`.
        seccomp: a filter for the first process of a PID namespace; without namespaces each call builds its own.
        landlock: rules that let a call write only in `directory`.
        readable: files and directory trees that a call may read.
        directory: a call's working directory, the only one it may write.
    """

    namespaces: namespaces.Namespaces | None
    seccomp: Any | None
    landlock: Any | None
    readable: tuple[str, ...]
    directory: str

    def within(self, directory: str) -> Barriers:
        """The same barriers with another writable directory."""
        landlock = _rules(self.readable, directory) if self.landlock else None
        return replace(self, landlock=landlock, directory=directory)


def build(without: tuple[str, ...] = ()) -> tuple[Barriers, dict[str, str]]:
    """Probe each barrier and build those that work; afterwards this process is inside its namespaces.

    Args:
        without: barriers to leave out.

    Returns:
        The barriers, and the missing ones as a mapping from name to reason.
    """
    readable = tuple(namespaces.system_files())
    probes = {"namespaces": lambda: namespaces.probe(readable), "seccomp": syscalls.probe, "landlock": files.probe}
    reasons = {name: "left out on request" if name in without else probes[name]() for name in BARRIERS}
    missing = {name: reason for name, reason in reasons.items() if reason}
    # The new root contains no symbolic links to the libraries, so later imports need resolved paths.
    sys.path[:] = dict.fromkeys(os.path.realpath(path) for path in sys.path)
    return Barriers(
        namespaces=None if "namespaces" in missing else namespaces.Namespaces(readable),
        seccomp=None if "seccomp" in missing else syscalls.build_filter(pid=1, own_root=True),
        landlock=None if "landlock" in missing else _rules(readable, "/tmp"),
        readable=readable,
        directory="/tmp",
    ), missing


def _rules(readable: tuple[str, ...], directory: str):
    return files.build_rules(
        [path for path in readable if os.path.exists(path)],
        [path for path in namespaces.DEVICES if os.path.exists(path)],
        directory,
    )
