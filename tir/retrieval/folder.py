"""A folder in which processes request a retrieval server and find its address.

    asked        a process that searches needs a server
    server.json  address, token and index digest of the server that is ready
    refused      there is no server now, and why: do not wait
    alive        a number that the folder's keeper increases every few seconds

The keeper is the process that starts servers and writes these files. The folder for all jobs of a run is on the shared
file system (`tir.retrieval.standing`), that for the processes of one job on the node's disk (`tir.retrieval.sidecar`).
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tir.common.records import read_json, write_json

ASKED, SERVER, REFUSED, ALIVE = "asked", "server.json", "refused", "alive"
BEAT_EVERY_S = 5.0
BEAT_LOST_S = 45.0  # a keeper whose number stays the same for so long is gone


@dataclass(frozen=True)
class Address:
    """Where a server listens.

    Attributes:
        url: base URL.
        token: bearer token; None: no token.
        index: digest of the index that every answer must come from; None: any index.
        dense: the index is dense, so every query has passages.
    """

    url: str
    token: str | None = None
    index: str | None = None
    dense: bool = False

    def __repr__(self) -> str:  # without the token, so that no log and no error shows it
        return f"Address({self.url}, index {self.index})"


def address_of(entry: dict[str, Any]) -> Address:
    """The address in an endpoint file, which has `url`, or `host` and `port`."""
    if "url" in entry:
        url = entry["url"]
    else:
        host = f"[{entry['host']}]" if ":" in entry["host"] else entry["host"]
        url = f"http://{host}:{entry['port']}"
    return Address(url, entry.get("token"), entry.get("index"), entry.get("dense", False))


class Folder:
    """One such folder.

    Directories are listed before a file is opened. A network file system can report for a minute that a new file does
    not exist, but reads a directory again when it is opened.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)

    def create(self) -> None:
        """Make the folder, readable by this user only."""
        self.path.mkdir(parents=True, mode=0o700)

    def exists(self) -> bool:
        """Whether there is such a folder."""
        return self.path.is_dir()

    def _names(self) -> list[str]:
        try:
            return os.listdir(self.path)
        except OSError:
            return []

    # --- for those who search ---------------------------------------------------------------------------------------

    def ask(self) -> None:
        """Say that a server is needed; call it again while waiting."""
        with contextlib.suppress(OSError):
            (self.path / ASKED).touch()

    def address(self) -> Address | None:
        """The address of the server that is ready, or None."""
        if SERVER not in self._names():
            return None
        try:
            return address_of(read_json(self.path / SERVER))
        except Exception:  # removed meanwhile
            return None

    def refusal(self) -> str | None:
        """Why there is no server now, or None."""
        with contextlib.suppress(OSError):
            return (self.path / REFUSED).read_text(encoding="utf-8") if REFUSED in self._names() else None
        return None

    # --- for the keeper ---------------------------------------------------------------------------------------------

    def take_request(self) -> bool:
        """Whether a process has requested a server since the last call."""
        if ASKED not in self._names():
            return False
        (self.path / ASKED).unlink(missing_ok=True)
        return True

    def publish(self, address: Address) -> None:
        """Say that a server is ready."""
        write_json(self.path / SERVER, asdict(address), private=True)

    def withdraw(self) -> None:
        """Say that the server is gone."""
        (self.path / SERVER).unlink(missing_ok=True)

    def refuse(self, why: str) -> None:
        """Say that there is no server now, so that no process waits for one."""
        (self.path / REFUSED).write_text(why, encoding="utf-8")

    def beat(self, number: int) -> None:
        """Write a heartbeat; call it every `BEAT_EVERY_S` seconds with another number."""
        (self.path / ALIVE).write_text(f"{number}\n")

    def allow(self) -> None:
        """Remove the refusal."""
        (self.path / REFUSED).unlink(missing_ok=True)


class Heartbeat:
    """Detects that the keeper of a folder has ended: the number in its file no longer changes.

    File times are not used, because the clocks of two machines differ, and network file systems cache times.
    """

    def __init__(self, path: str | os.PathLike):
        self._path, self._seen, self._changed = Path(path), "", time.monotonic()

    def lost(self) -> bool:
        """Whether the number has not changed for `BEAT_LOST_S`; call it every few seconds."""
        with contextlib.suppress(OSError):
            text = self._path.read_text()
            if text != self._seen:
                self._seen, self._changed = text, time.monotonic()
        return time.monotonic() - self._changed > BEAT_LOST_S
