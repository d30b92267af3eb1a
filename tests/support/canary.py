"""A key that is easy to find, in all forms in which a program may write it, and programs that run with it."""

import base64
import json
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from support.paths import ROOT
from support.processes import descendants

from tir.common.keys import VARIABLES

CANARY = "sk-Canary/0123+456\"789'ab<cd"
ENCODED = [
    CANARY,
    repr(CANARY),
    json.dumps(CANARY),
    quote(CANARY),
    CANARY.upper(),
    CANARY.encode().hex(),
    *(base64.b64encode(b"u" * before + CANARY.encode()).decode() for before in range(4)),
]
PARTS = [form[start : start + 12] for form in ENCODED[:6] for start in range(len(form) - 11)]


# Every part of 12 characters contains one of these, of which there are a sixth as many.
BLOCKS = {form[start : start + 6].lower() for form in ENCODED[:6] for start in range(0, len(form) - 5, 6)}


def shows_the_key(text: str) -> bool:
    lower = text.lower()
    return (
        any(block in lower for block in BLOCKS)
        and any(part.lower() in lower for part in PARTS)
        or any(form[4:-4] in text for form in ENCODED)
    )


# Also keys that this project does not read, as those of trackers that the libraries below it may look for.
OTHERS = ("TIR_SEARCH_TOKEN", "WANDB_API_KEY", "SWANLAB_API_KEY", "OPENAI_API_KEY")
EVERYWHERE = {name: CANARY for name in (*VARIABLES, *OTHERS, *(f"APPTAINERENV_{name}" for name in VARIABLES))}


def watched(command: list, environment: dict[str, str], directory: Path = ROOT) -> tuple[int, str, set[str]]:
    """Run a program with all keys set; returns its status, its output, and the command lines of all its processes.

    `environment` is the rest of its environment, and may set a key in another form.
    """
    command_lines = set()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            list(map(str, command)),
            cwd=directory,
            env=EVERYWHERE | {"TIR_TRACEBACK": "1"} | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        while process.poll() is None:
            for pid in (process.pid, *descendants(process.pid)):
                try:
                    command_lines.add(open(f"/proc/{pid}/cmdline").read())
                except OSError:
                    continue
            time.sleep(0.1)
        output.seek(0)
        return process.returncode, output.read().decode(), command_lines


def assert_shown_nowhere(directory: Path, texts: Iterable[str]) -> None:
    """In no name and content of a file, also of binary ones, and in none of the texts."""
    for path in directory.rglob("*"):
        assert not shows_the_key(path.name), path
        if path.is_file():
            assert not shows_the_key(path.read_bytes().decode("latin-1")), path
    for text in texts:
        assert not shows_the_key(text), text
