"""Fetching models, completely or not at all: interrupted downloads, hub errors, changed sources, damaged weights."""

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
from support.paths import ROOT

from tir.common.model_files import count_parameters, read_model_manifest

COMMIT = "c" * 40


def model_files(value: float, shards: int = 2) -> dict[str, bytes]:
    """A sharded model's files."""
    names = [f"model-{number:05}-of-{shards:05}.safetensors" for number in range(1, shards + 1)]
    index = {"weight_map": {f"w{number}": name for number, name in enumerate(names)}}
    weights = {name: save({f"w{number}": np.full((32, 32), value, np.float32)}) for number, name in enumerate(names)}
    return {
        "config.json": b"{}",
        "tokenizer.json": b"{}",
        "model.safetensors.index.json": json.dumps(index).encode(),
        **weights,
    }


class Hub:
    """A fake model hub with the repository `a/m` at one commit.

    Attributes:
        files: contents by name.
        broken: names of files whose download fails.
        downloads: names of downloaded files, in order.
    """

    def __init__(self):
        self.files, self.broken, self.downloads = model_files(1.0), set(), []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                path = self.path.partition("?")[0]
                file = re.fullmatch(rf"/a/m/resolve/{COMMIT}/(.*)", path)
                if path.startswith("/api/models/a/m/revision/") and not path.endswith(("/main", f"/{COMMIT}")):
                    self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
                elif path.startswith(f"/api/models/a/m/tree/{COMMIT}"):
                    entries = [
                        {"type": "file", "path": name, "size": len(data), "oid": "0"}
                        for name, data in hub.files.items()
                    ]
                    self.answer(200, json.dumps(entries).encode())
                elif re.fullmatch(r"/api/models/a/m(/revision/.*)?", path):
                    siblings = [{"rfilename": name} for name in hub.files]
                    self.answer(200, json.dumps({"id": "a/m", "sha": COMMIT, "siblings": siblings}).encode())
                elif file and file[1] in hub.broken:
                    self.answer(500, b"")
                elif file and file[1] in hub.files:
                    hub.downloads += [file[1]] * (self.command == "GET")
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


def fetch(output: Path, source: dict, hub_url: str = "http://127.0.0.1:9", *more) -> subprocess.CompletedProcess:
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub_url,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(output.parent / "hf"),
        "HF_HUB_DISABLE_XET": "1",
    }
    command = [sys.executable, "-m", "scripts.fetch_model", "--name", "base", "--output", str(output)]
    command += ["--params", json.dumps({"source": source}), *more]
    return subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True)


def contents(directory: Path) -> dict[str, bytes]:
    """Files of a model directory without the manifest."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "manifest.json"}


def test_interrupted_download_continues_and_creates_no_incomplete_model(tmp_path, hub):
    source, output, last = {"kind": "hub", "repo": "a/m"}, tmp_path / "models/base", "model-00002-of-00002.safetensors"
    hub.broken = {last}
    failed = fetch(output, source, hub.url)
    assert failed.returncode and "a/m: cannot fetch from the hub" in failed.stderr, failed.stderr
    assert "Traceback" not in failed.stderr and not output.exists(), failed.stderr
    hub.broken, hub.downloads = set(), []
    done = fetch(output, source, hub.url)
    assert done.returncode == 0, done.stderr
    assert hub.downloads == [last] and contents(output) == hub.files
    assert read_model_manifest(output)["commit"] == COMMIT
    assert sorted(path.name for path in output.parent.iterdir()) == ["base", "base.source.json"]


def test_a_branch_is_resolved_once_and_later_fetches_take_the_same_commit(tmp_path, hub):
    source, output = {"kind": "hub", "repo": "a/m", "revision": "main"}, tmp_path / "models/base"
    pin = {"repo": "a/m", "revision": "main", "commit": "b" * 40}
    output.parent.mkdir()
    (output.parent / "base.source.json").write_text(json.dumps(pin))
    moved = fetch(output, source, hub.url)  # the hub has only COMMIT, so asking for another commit fails
    assert moved.returncode and f"the repository has no such revision: revision {'b' * 40}" in moved.stderr
    other = fetch(output, {"kind": "hub", "repo": "a/m", "revision": COMMIT}, hub.url)
    assert other.returncode == 0, other.stderr  # another revision in the configuration is another source
    assert json.loads((output.parent / "base.source.json").read_text()) == pin | {"revision": COMMIT, "commit": COMMIT}


def test_unreachable_hub_is_a_fault_and_keeps_the_model(tmp_path, hub):
    source, output = {"kind": "hub", "repo": "a/m"}, tmp_path / "models/base"
    assert fetch(output, source, hub.url).returncode == 0
    failed = fetch(output, source)
    assert failed.returncode and "cannot fetch from the hub" in failed.stderr and "kind: local" in failed.stderr, (
        failed.stderr
    )
    assert contents(output) == hub.files


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"repo": "a/other"}, "a/other: the repository does not exist or is private"),
        ({"repo": "a/m", "revision": "v9"}, "a/m: the repository has no such revision: revision v9"),
        ({"repo": "a/m--n"}, "a/m--n: not a valid repository name"),
    ],
)
def test_refusal_of_the_hub_is_a_data_error(tmp_path, hub, source, message):
    failed = fetch(tmp_path / "base", {"kind": "hub", **source}, hub.url)
    assert failed.returncode and message in failed.stderr and "check the network" not in failed.stderr, failed.stderr


def local_source(directory: Path, files: dict[str, bytes]) -> dict:
    directory.mkdir()
    for name, data in files.items():
        (directory / name).write_bytes(data)
    return {"kind": "local", "path": str(directory)}


def test_model_of_a_new_source_contains_no_file_of_the_old_source(tmp_path):
    output = tmp_path / "models/base"
    for number, shards in enumerate((3, 1)):
        files = model_files(float(number), shards)
        assert fetch(output, local_source(tmp_path / str(number), files)).returncode == 0
        assert contents(output) == files


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model-00002-of-00002.safetensors": None},
            "model-00002-of-00002.safetensors: weights missing: model.safetensors.index.json lists them",
        ),
        ({"model-00001-of-00002.safetensors": b"half"}, "model-00001-of-00002.safetensors: unreadable weights"),
        ({"tokenizer.json": None}, "the model has no tokenizer"),
        ({"config.json": None}, "not a model directory"),
    ],
)
def test_incomplete_model_raises_with_the_path_of_its_source(tmp_path, change, message):
    complete, output = model_files(0.0), tmp_path / "models/base"
    assert fetch(output, local_source(tmp_path / "good", complete)).returncode == 0
    incomplete = {name: data for name, data in (complete | change).items() if data is not None}
    source = local_source(tmp_path / "bad", incomplete)
    failed = fetch(output, source)
    assert failed.returncode and message in failed.stderr and f"{tmp_path}/bad" in failed.stderr, failed.stderr
    assert contents(output) == complete
    (tmp_path / "bad/extra.safetensors").write_bytes(b"half")
    assert fetch(output, source).returncode
    for path in (tmp_path / "bad").iterdir():
        path.unlink()
    for name, data in complete.items():
        (tmp_path / "bad" / name).write_bytes(data)
    assert fetch(output, source).returncode == 0 and contents(output) == complete


@pytest.mark.parametrize("kind", ["hub", "local"])
def test_the_second_copy_of_the_weights_in_mistrals_format_is_left_out(tmp_path, hub, kind):
    both = hub.files | {"consolidated.safetensors": save({"w": np.ones(4, np.float32)}), "params.json": b"{}"}
    both["tekken.json"] = b"{}"
    source, hub.files = local_source(tmp_path / "mistral", both), both
    source = source if kind == "local" else {"kind": "hub", "repo": "a/m"}
    done = fetch(tmp_path / "models/base", source, hub.url)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "models/base").keys() == both.keys() - {"consolidated.safetensors", "tekken.json"}
    assert count_parameters(tmp_path / "models/base") == 2 * 32 * 32


def test_model_of_a_package_is_copied_and_its_version_recorded(tmp_path, monkeypatch):
    carried, output = tmp_path / "site/carried_model/model", tmp_path / "models/encoder"
    carried.mkdir(parents=True)
    (tmp_path / "site/carried_model/__init__.py").touch()
    (tmp_path / "site/carried_model-1.2.dist-info").mkdir()
    (tmp_path / "site/carried_model-1.2.dist-info/METADATA").write_text("Name: carried-model\nVersion: 1.2\n")
    files = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": save({"w": np.ones(4, np.float32)})}
    for name, data in files.items():
        (carried / name).write_bytes(data)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    done = fetch(output, {"kind": "package", "package": "carried_model"})
    assert done.returncode == 0 and contents(output) == files, done.stderr
    assert read_model_manifest(output)["version"] == "1.2"
    absent = fetch(output, {"kind": "package", "package": "no_such_model"})
    assert absent.returncode and "models.base.package: no such package: no_such_model is not installed" in absent.stderr
    assert contents(output) == files


def test_chat_model_without_template_is_refused_with_a_remedy(tmp_path):
    files, output, chat = model_files(0.0), tmp_path / "models/base", ("http://127.0.0.1:9", "--chat")
    source = local_source(tmp_path / "plain", files | {"tokenizer_config.json": b'{"eos_token": "</s>"}'})
    refused = fetch(output, source, *chat)
    assert refused.returncode and not output.exists()
    assert f"{tmp_path}/plain: the model has no chat template: tokenizer_config.json has no key" in refused.stderr
    template = refused.stderr.strip().splitlines()[-1]
    (tmp_path / "plain/chat_template.jinja").write_text(template)
    assert template.startswith("{% for m in messages %}") and fetch(output, source, *chat).returncode == 0
    named = json.dumps({"chat_template": template}).encode()
    source = local_source(tmp_path / "named", files | {"tokenizer_config.json": named})
    assert fetch(output, source, *chat).returncode == 0 and fetch(tmp_path / "encoder", source).returncode == 0


def test_a_base_model_that_cannot_be_trained_is_refused_before_anything_else_runs(tmp_path):
    files = model_files(1.0) | {"config.json": b'{"final_logit_softcapping": 30.0}'}
    (tmp_path / "models").mkdir()
    source = local_source(tmp_path / "gemma", files)
    assert fetch(tmp_path / "models/other", source).returncode == 0  # as a judge, for example
    done = fetch(tmp_path / "models/base", source, "http://127.0.0.1:9", "--trained")
    assert done.returncode and "cannot be trained here" in done.stdout + done.stderr
    assert not (tmp_path / "models/base").exists()


@pytest.mark.parametrize(
    "decoder, declared, written",
    [
        ({"type": "ByteLevel"}, "LlamaTokenizerFast", "PreTrainedTokenizerFast"),
        ({"type": "Sequence", "decoders": [{"type": "ByteLevel"}]}, "LlamaTokenizer", "PreTrainedTokenizerFast"),
        ({"type": "ByteLevel"}, "Qwen2Tokenizer", "Qwen2Tokenizer"),
        ({"type": "Metaspace"}, "LlamaTokenizerFast", "LlamaTokenizerFast"),
    ],
)
def test_a_byte_level_tokenizer_does_not_keep_llamas_class(tmp_path, decoder, declared, written):
    files = model_files(1.0) | {
        "tokenizer.json": json.dumps({"decoder": decoder}).encode(),
        "tokenizer_config.json": json.dumps({"tokenizer_class": declared, "model_max_length": 16384}).encode(),
    }
    (tmp_path / "models").mkdir()
    assert fetch(tmp_path / "models/base", local_source(tmp_path / "distilled", files)).returncode == 0
    settings = json.loads((tmp_path / "models/base/tokenizer_config.json").read_text())
    assert settings == {"tokenizer_class": written, "model_max_length": 16384}
