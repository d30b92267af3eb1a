"""A tiny random sentence encoder, a tiny corpus and a fake index, for tests of retrieval."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from support.processes import alive

from tir.common.errors import DataError
from tir.retrieval.app import create_app
from tir.retrieval.bert import weight_shapes
from tir.retrieval.bm25 import BM25Config
from tir.retrieval.build import build_index
from tir.retrieval.client import SearchClient
from tir.retrieval.encoder import EncoderConfig
from tir.retrieval.folder import Folder
from tir.retrieval.passage import Passage
from tir.retrieval.server import bind

WORDS = "river mountain king queen castle battle treaty ocean bridge poet engine planet forest island harbour".split()


def quiet(_: str) -> None:
    """Discard a progress message of an index build."""


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory) -> Path:
    """A BERT of 2 layers with random weights, and its tokenizer."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    directory = tmp_path_factory.mktemp("model")
    letters = "0123456789abcdefghijklmnopqrstuvwxyz"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", ":", "query", "passage", *WORDS, *letters]
    tokens += [f"##{letter}" for letter in letters]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_padding(length=16)  # set in all-MiniLM's tokenizer.json too; the encoder must ignore it
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "model_type": "bert",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "hidden_act": "gelu",
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "vocab_size": len(vocabulary),
        "pad_token_id": 0,
        "architectures": ["BertModel"],
    }
    (directory / "config.json").write_text(json.dumps(config))
    shapes, generator = weight_shapes(config), torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in shapes.items():
        weights[f"{name}.weight"] = torch.randn(shape, generator=generator) * 0.3
        if not name.endswith("embeddings"):
            weights[f"{name}.bias"] = torch.randn(shape[0], generator=generator) * 0.1
    save_file(weights, directory / "model.safetensors")
    return directory


def encoder_config(model: Path | str, **changes) -> EncoderConfig:
    return EncoderConfig(
        **{
            "model": str(model),
            "query_prefix": "query: ",
            "passage_prefix": "passage: ",
            "max_query_tokens": 16,
            "max_passage_tokens": 32,
            "device": "cpu",
            "threads": 1,
            **changes,
        }
    )


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
    build_index(corpus, output, encoder_config(model_directory), shard_rows=100, log=quiet)
    return output


@pytest.fixture(scope="session")
def bm25_directory(tmp_path_factory, corpus) -> Path:
    output = tmp_path_factory.mktemp("bm25") / "index"
    build_index(corpus, output, BM25Config(), log=quiet)
    return output


class FakeIndex:
    """Returns `k` passages that contain the query; records its batches in `batches`."""

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
        return [
            [Passage(str(rank), f'"{query}"\nrank {rank}', 1.0 - rank / 10) for rank in range(k)] for query in queries
        ]


@contextlib.contextmanager
def serving(index, *, port: int = 0, **options):
    """Run the server's application in a thread on a local port; yields its URL and the uvicorn server."""
    import uvicorn

    listener = bind("127.0.0.1", port)
    app = create_app(index, **options)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=10))
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


def server_pids(endpoint: str) -> list[int]:
    """Ids of the retrieval servers that listen on the port of `endpoint`."""
    port = int(endpoint.rsplit(":", 1)[1])
    pids = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if "tir.retrieval.server" in (path / "cmdline").read_text() and alive(int(path.name)):
                sockets = [os.readlink(entry) for entry in (path / "fd").iterdir()]
                inodes = [
                    line.split()[9]
                    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
                    if line.split()[3] == "0A" and int(line.split()[1].split(":")[1], 16) == port
                ]
                if any(f"socket:[{inode}]" in sockets for inode in inodes):
                    pids.append(int(path.name))
    return pids


def search(endpoint: str, query: str = "king") -> int:
    """Search once; returns the number of passages."""
    return len(SearchClient(endpoint, top_k=2).batch_search_sync([query])[0])


def url_of(endpoint: str) -> str:
    """URL of the server that the job uses now."""
    return Folder(endpoint).address().url
