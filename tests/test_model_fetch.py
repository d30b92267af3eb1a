"""A model is fetched whole or not at all: a hub that stops half-way, refuses or is silent, other sources, damaged weights."""

import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save
from test_config import ROOT

from tir.model_files import read_model_manifest

COMMIT = "c" * 40


def model_files(value: float, shards: int = 2) -> dict[str, bytes]:
    """A sharded model's files."""
    names = [f"model-{number:05}-of-{shards:05}.safetensors" for number in range(1, shards + 1)]
    index = {"weight_map": {f"w{number}": name for number, name in enumerate(names)}}
    weights = {name: save({f"w{number}": np.full((32, 32), value, np.float32)}) for number, name in enumerate(names)}
    return {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors.index.json": json.dumps(index).encode(), **weights}


class Hub:
    """As much of a model hub as a download asks for: repository `a/m` at one commit. `broken` names files it fails to give."""

    def __init__(self):
        self.files, self.broken, self.given = model_files(1.0), set(), []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                path = self.path.partition("?")[0]
                file = re.fullmatch(rf"/a/m/resolve/{COMMIT}/(.*)", path)
                if path.startswith("/api/models/a/m/revision/") and not path.endswith(("/main", f"/{COMMIT}")):
                    self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
                elif path.startswith(f"/api/models/a/m/tree/{COMMIT}"):
                    entries = [{"type": "file", "path": name, "size": len(data), "oid": "0"} for name, data in hub.files.items()]
                    self.answer(200, json.dumps(entries).encode())
                elif re.fullmatch(r"/api/models/a/m(/revision/.*)?", path):
                    siblings = [{"rfilename": name} for name in hub.files]
                    self.answer(200, json.dumps({"id": "a/m", "sha": COMMIT, "siblings": siblings}).encode())
                elif file and file[1] in hub.broken:
                    self.answer(500, b"")
                elif file and file[1] in hub.files:
                    hub.given += [file[1]] * (self.command == "GET")
                    self.answer(200, hub.files[file[1]], {"ETag": f'"{file[1]}"', "X-Repo-Commit": COMMIT})
                else:
                    self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})

            do_HEAD = do_GET

            def answer(self, status, body, headers=()):
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **dict(headers)}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body if self.command == "GET" else b"")

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def hub():
    hub = Hub()
    yield hub
    hub.server.shutdown()


def fetch(output: Path, source: dict, hub_url: str = "http://127.0.0.1:9") -> subprocess.CompletedProcess:
    environment = {**os.environ, "HF_ENDPOINT": hub_url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(output.parent / "hf"), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "scripts.fetch_model", "--name", "base", "--output", str(output), "--params", json.dumps(source)]
    return subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True)


def there(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "manifest.json"}


def test_a_download_that_stops_goes_on_and_leaves_nothing_half(tmp_path, hub):
    source, output, last = {"kind": "hub", "repo": "a/m"}, tmp_path / "models/base", "model-00002-of-00002.safetensors"
    hub.broken = {last}
    stopped = fetch(output, source, hub.url)
    assert stopped.returncode and "a/m: cannot fetch from the hub" in stopped.stderr and "Traceback" not in stopped.stderr, stopped.stderr
    assert not output.exists()
    hub.broken, hub.given = set(), []
    done = fetch(output, source, hub.url)
    assert done.returncode == 0, done.stderr
    assert hub.given == [last] and there(output) == hub.files
    assert read_model_manifest(output)["commit"] == COMMIT
    assert [path.name for path in output.parent.iterdir()] == ["base"]


def test_a_silent_hub_is_infrastructure_and_keeps_the_model(tmp_path, hub):
    source, output = {"kind": "hub", "repo": "a/m"}, tmp_path / "models/base"
    assert fetch(output, source, hub.url).returncode == 0
    silent = fetch(output, source)
    assert silent.returncode and "cannot fetch from the hub" in silent.stderr and "kind: local" in silent.stderr, silent.stderr
    assert there(output) == hub.files


@pytest.mark.parametrize(("source", "words"), [
    ({"repo": "a/other"}, "a/other: the hub has no such repository"), ({"repo": "a/m", "revision": "v9"}, "a/m: the repository has no such revision: revision v9"),
    ({"repo": "a/m--n"}, "a/m--n: not a repository's name"),
])
def test_what_the_hub_refuses_is_no_fault_of_the_network(tmp_path, hub, source, words):
    refused = fetch(tmp_path / "base", {"kind": "hub", **source}, hub.url)
    assert refused.returncode and words in refused.stderr and "check the network" not in refused.stderr, refused.stderr


def local(directory: Path, files: dict[str, bytes]) -> dict:
    directory.mkdir()
    for name, data in files.items():
        (directory / name).write_bytes(data)
    return {"kind": "local", "path": str(directory)}


def test_another_source_leaves_no_file_of_the_one_before(tmp_path):
    output = tmp_path / "models/base"
    for number, shards in enumerate((3, 1)):
        files = model_files(float(number), shards)
        assert fetch(output, local(tmp_path / str(number), files)).returncode == 0
        assert there(output) == files


@pytest.mark.parametrize(("change", "words"), [
    ({"model-00002-of-00002.safetensors": None}, "model-00002-of-00002.safetensors: weights missing: model.safetensors.index.json names them"),
    ({"model-00001-of-00002.safetensors": b"half"}, "model-00001-of-00002.safetensors: unreadable weights"),
    ({"tokenizer.json": None}, "a model without a tokenizer"), ({"config.json": None}, "not a model directory"),
])
def test_a_model_that_is_not_whole_is_refused_and_named_at_its_source(tmp_path, change, words):
    whole, output = model_files(0.0), tmp_path / "models/base"
    assert fetch(output, local(tmp_path / "good", whole)).returncode == 0
    bad = {name: data for name, data in (whole | change).items() if data is not None}
    refused = fetch(output, local(tmp_path / "bad", bad))
    assert refused.returncode and words in refused.stderr and f"{tmp_path}/bad" in refused.stderr, refused.stderr
    assert there(output) == whole
    (tmp_path / "bad/extra.safetensors").write_bytes(b"half")
    assert fetch(output, {"kind": "local", "path": str(tmp_path / "bad")}).returncode
    for path in (tmp_path / "bad").iterdir():
        path.unlink()
    for name, data in whole.items():
        (tmp_path / "bad" / name).write_bytes(data)
    assert fetch(output, {"kind": "local", "path": str(tmp_path / "bad")}).returncode == 0 and there(output) == whole
