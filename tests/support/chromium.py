"""Chromium without a window, driven over its debugging pipe; needs no package and no open port."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

PROGRAM = Path("/usr/bin/chromium")
OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --remote-debugging-pipe"
).split()


class Browser:
    """One page of a headless Chromium. Messages are JSON objects that end with a zero byte, on descriptors 3 and 4."""

    def __init__(self, width: int = 1280, height: int = 900):
        self._profile = tempfile.mkdtemp(prefix="tir-chromium-")
        theirs, self._write = os.pipe()
        self._read, ours = os.pipe()
        line = [str(PROGRAM), *OPTIONS, f"--user-data-dir={self._profile}", f"--window-size={width},{height}"]
        # A shell puts the pipes on the descriptors that Chromium expects.
        command = f'exec "$@" 3<&{theirs} 4>&{ours}'
        self._process = subprocess.Popen(
            ["bash", "-c", command, "bash", *line, "about:blank"],
            pass_fds=(theirs, ours),
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        os.close(theirs)
        os.close(ours)
        self._buffer, self._number, self._session, self.events = b"", 0, None, []
        targets = self._send("Target.getTargets")["targetInfos"]
        page = next(each["targetId"] for each in targets if each["type"] == "page")
        self._session = self._send("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._send(f"{domain}.enable")
        self.resize(width, height)

    def _message(self) -> dict:
        while b"\0" not in self._buffer:
            block = os.read(self._read, 1 << 20)
            if not block:
                raise RuntimeError("Chromium ended")
            self._buffer += block
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _send(self, method: str, **params) -> dict:
        self._number += 1
        request = {"id": self._number, "method": method, "params": params}
        request |= {"sessionId": self._session} if self._session else {}
        os.write(self._write, json.dumps(request).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def open(self, page: Path | str, fragment: str = "") -> None:
        """Load a file or an address anew and wait until its scripts have run."""
        address = page.as_uri() if isinstance(page, Path) else page
        self.events.clear()
        self._send("Page.navigate", url="about:blank")
        self._send("Page.navigate", url=f"{address}{fragment}")
        self.wait("document.readyState === 'complete' && location.protocol !== 'about:'")

    def run(self, script: str):
        """The value of an expression in the page; awaits a promise."""
        found = self._send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, condition: str, seconds: float = 20) -> None:
        """Wait until an expression is true."""
        loop = f"""new Promise((resolve) => {{
            const until = Date.now() + {seconds * 1000};
            const look = () => {{
              const found = Boolean({condition});
              if (found || Date.now() > until) resolve(found); else setTimeout(look, 20);
            }};
            look();
        }})"""
        for _ in range(5):  # a navigation ends the script of the old page
            with contextlib.suppress(AssertionError):
                assert self.run(loop), condition
                return
        raise AssertionError(f"not true within {seconds} s: {condition}")

    def press(self, key: str) -> None:
        """Press and release a key that writes one character."""
        for kind in ("keyDown", "keyUp"):
            self._send("Input.dispatchKeyEvent", type=kind, key=key, text=key if kind == "keyDown" else "")

    def resize(self, width: int, height: int) -> None:
        """Set the size of the window in pixels."""
        self._send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def picture(self, path: Path) -> None:
        """Write a picture of the window (PNG)."""
        path.write_bytes(base64.b64decode(self._send("Page.captureScreenshot")["data"]))

    @property
    def requests(self) -> list[str]:
        """Addresses that the page asked for since `open`."""
        found = [each for each in self.events if each.get("method") == "Network.requestWillBeSent"]
        return [each["params"]["request"]["url"] for each in found]

    @property
    def faults(self) -> list[str]:
        """Errors that the page or its security policy reported since `open`."""
        kinds = ("Runtime.exceptionThrown", "Log.entryAdded")
        return [json.dumps(each["params"]) for each in self.events if each.get("method") in kinds]

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._send("Browser.close")
        os.close(self._write)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        self._process.wait()
        os.close(self._read)
        shutil.rmtree(self._profile, ignore_errors=True)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
