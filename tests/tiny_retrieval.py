"""A tiny random sentence encoder, a tiny corpus and a fake index, for the tests of retrieval."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tir.errors import DataError
from tir.retrieval.bert import weight_shapes
from tir.retrieval.bm25 import BM25Config
from tir.retrieval.build import build_index
from tir.retrieval.encoder import EncoderConfig
from tir.retrieval.passage import Passage
from tir.retrieval.server import bind, create_app

ROOT = Path(__file__).resolve().parents[1]
WORDS = "river mountain king queen castle battle treaty ocean bridge poet engine planet forest island harbour".split()


def quiet(_: str) -> None:
    """Swallows a build's progress."""


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory) -> Path:
    """A BERT of 2 layers with random weights, and its tokenizer."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    directory = tmp_path_factory.mktemp("model")
    letters = "0123456789abcdefghijklmnopqrstuvwxyz"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", ":", "query", "passage", *WORDS, *letters]
    pieces += [f"##{letter}" for letter in letters]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_padding(length=16)  # as all-MiniLM's own file does; it must not matter
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "hidden_act": "gelu", "intermediate_size": 64, "max_position_embeddings": 64,
        "type_vocab_size": 2, "layer_norm_eps": 1e-12,
        "vocab_size": len(vocabulary), "pad_token_id": 0, "architectures": ["BertModel"]}
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
        return [[Passage(str(rank), f'"{query}"\nrank {rank}', 1.0 - rank / 10) for rank in range(k)]
                for query in queries]


@contextlib.contextmanager
def serving(index, **options):
    """The application on a real port, in a thread; yields its URL and the uvicorn server."""
    import uvicorn

    listener = bind("127.0.0.1", 0)
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
