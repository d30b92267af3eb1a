"""Exact search: codes, bounds, and the results of all scanners against a float64 search of all rows."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.tiny_retrieval import WORDS, corpus, dense_directory, model_directory  # noqa: F401  (fixtures)

from tir.common.errors import ConfigError, DataError
from tir.retrieval import codes as codes_module
from tir.retrieval import dense, scanners
from tir.retrieval.codes import CodedQueries, code, load, save
from tir.retrieval.index import load_index
from tir.retrieval.scan import Scanner, Vectors, search
from tir.retrieval.scanners import CodeScanner, FlatScanner, JoinedScanner

DIM = 24
QUERIES = 11


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _cases() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Vectors that make a bound fail or a tie matter, and queries for them."""
    random = np.random.default_rng(0)
    normal = random.normal(size=(1000, DIM))
    queries = _unit(random.normal(size=(QUERIES, DIM)))
    centre = np.ones(DIM) / DIM**0.5
    # Like e5: all scores are between 0.7 and 0.9.
    narrow = _unit(centre + 0.5 * _unit(normal)), _unit(centre + 0.5 * queries)
    mixed = normal * 10.0 ** random.integers(-6, 4, size=(1000, 1))
    repeated = _unit(normal[:40])[random.integers(40, size=1000)]
    zeros = _unit(normal) * (random.random((1000, 1)) < 0.5)
    steps = random.integers(-1, 2, size=(1000, DIM)) / 4  # many equal scores
    return {
        "normal": (_unit(normal), queries),
        "narrow": narrow,
        "one row": (_unit(normal[:1]), queries),
        "few rows": (_unit(normal[:7]), queries),
        "repeated rows": (repeated, np.vstack([queries[:-1], _unit(repeated[:1])])),
        "one row repeated": (np.repeat(_unit(normal[:1]), 1000, axis=0), queries),
        "zero rows": (zeros, -np.abs(queries)),
        "only zeros": (np.zeros((1000, DIM)), queries),
        "equal scores": (steps, random.integers(-1, 2, size=(QUERIES, DIM)) / 2),
        "norms from 1e-6 to 1e4": (mixed, queries * 10.0 ** random.integers(-5, 9, size=(QUERIES, 1))),
        "largest float16": (np.sign(normal) * 65504, queries * 1e10),
        "smallest float16": (np.sign(normal) * 6e-8, queries),
        "a zero query": (_unit(normal), np.vstack([queries[:-1], np.zeros((1, DIM))])),
        "one large value": (np.where(random.random(normal.shape) < 0.01, 1000, normal), queries),
    }


def _truth(vectors: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The contract: scores in float64, rounded to 6 decimals, then row numbers."""
    scores = np.round(np.einsum("nd,md->nm", queries.astype(np.float64), vectors.astype(np.float64)), 6)
    rows = np.lexsort((np.broadcast_to(np.arange(len(vectors)), scores.shape), -scores), axis=-1)[:, :k]
    return np.take_along_axis(scores, rows, 1), rows


def _scanners(shards: list[np.ndarray]) -> dict[str, Scanner]:
    """Every form of scan; those for GPUs run on the CPU here."""
    coded = [code(shard) for shard in shards]
    halves = [FlatScanner([shard], dtype="float16") for shard in shards]
    return {
        "codes": CodeScanner(coded),
        "codes on several devices": JoinedScanner([CodeScanner([shard]) for shard in coded]),
        "float32": FlatScanner(shards),
        "float16": FlatScanner(shards, dtype="float16"),
        "float16 on several devices": JoinedScanner(halves),
    }


@pytest.mark.parametrize("name", _cases())
def test_search_equals_a_float64_search_of_all_rows(name, monkeypatch):
    monkeypatch.setattr(scanners, "BLOCK_ROWS", 100)
    monkeypatch.setattr(scanners, "GPU_BLOCK_ROWS", 100)
    vectors, queries = _cases()[name]
    vectors, queries = vectors.astype(np.float16), queries.astype(np.float32)
    shards = np.array_split(vectors, min(3, len(vectors)))
    for form, scanner in _scanners(shards).items():
        for k in (1, 5, 400):
            scores, rows = _truth(vectors, queries, k)
            found = search(scanner, Vectors(shards), queries, k)
            assert np.array_equal(found[1], rows), (form, k)
            assert np.array_equal(found[0], scores), (form, k)
        one = [search(scanner, Vectors(shards), queries[number : number + 1], 5)[1] for number in range(QUERIES)]
        assert np.array_equal(np.concatenate(one), _truth(vectors, queries, 5)[1]), form


@pytest.mark.parametrize("name", _cases())
def test_no_other_row_scores_above_the_last_bound(name, monkeypatch):
    monkeypatch.setattr(scanners, "BLOCK_ROWS", 70)
    vectors, queries = _cases()[name]
    vectors = vectors.astype(np.float16)
    shards = np.array_split(vectors, min(3, len(vectors)))
    norms = np.linalg.norm(queries, axis=1, keepdims=True)
    queries = queries / np.where(norms, norms, 1)
    exact = queries @ vectors.astype(np.float64).T
    for form, scanner in _scanners(shards).items():
        for m in {1, min(20, len(vectors)), len(vectors)}:
            bounds, rows = scanner.candidates(queries, m)
            assert bounds.shape == rows.shape == (QUERIES, m), form
            assert (np.diff(bounds) <= 0).all() and all(len(set(row)) == m for row in rows.tolist()), form
            found = np.take_along_axis(exact, rows, 1)
            assert (found <= bounds + 1e-12 * np.abs(found)).all(), (form, m)
            others = exact.copy()
            np.put_along_axis(others, rows, -np.inf, 1)
            assert (others.max(axis=1) <= bounds[:, -1] + 1e-12 * np.abs(bounds[:, -1])).all(), (form, m)


def test_scores_exceed_a_bound_without_the_error_of_the_codes():
    """So the two tests above would notice a bound that is too small."""
    vectors, queries = _cases()["narrow"]
    vectors = vectors.astype(np.float16)
    bounds, rows = CodeScanner([replace(code(vectors), error=0.0)]).candidates(queries, len(vectors))
    exact = queries @ vectors.astype(np.float64).T
    assert (np.take_along_axis(exact, rows, 1) > bounds).mean() > 0.3


def test_nearly_all_queries_are_proven_at_the_first_try(monkeypatch):
    random = np.random.default_rng(0)
    vectors = _unit(random.normal(size=(20_000, 128))).astype(np.float16)
    queries = _unit(random.normal(size=(50, 128))).astype(np.float32)
    asked = []
    for scanner in (CodeScanner([code(vectors)]), FlatScanner([vectors]), FlatScanner([vectors], dtype="float16")):
        candidates = scanner.candidates
        monkeypatch.setattr(scanner, "candidates", lambda q, m, call=candidates: asked.append(len(q)) or call(q, m))
        search(scanner, Vectors([vectors]), queries, 5)
    assert asked == [50, 50, 50]


def test_undecided_queries_ask_for_more_rows_and_then_read_all(monkeypatch):
    vectors = np.repeat(np.eye(8, dtype=np.float16), 4000, axis=0)
    asked, scanner = [], FlatScanner([vectors])
    candidates = scanner.candidates
    monkeypatch.setattr(scanner, "candidates", lambda q, m: asked.append((len(q), m)) or candidates(q, m))
    random = np.random.default_rng(0)
    queries = np.vstack([np.eye(8, dtype=np.float32)[3:4], random.normal(size=(2, 8)).astype(np.float32)])
    found = search(scanner, Vectors([vectors]), queries, 4)
    assert asked == [(3, 12), (3, 192)]
    assert np.array_equal(found[1], _truth(vectors, queries, 4)[1]) and found[1][0].tolist() == [*range(12000, 12004)]


def test_faiss_searches_the_tensors_of_torch_on_a_gpu(monkeypatch):
    """With a stand-in for the GPU build's `knn_gpu`: its arguments, and what it cannot select, which torch does.

    FAISS uses the current GPU, so this must be the scanner's: a server with several GPUs has a scanner on each.
    """
    vectors, queries = (rows.astype(np.float16) for rows in _cases()["normal"])
    scanner, calls, current = FlatScanner([vectors] * 3, dtype="float16"), [], []
    expected = scanner.candidates(queries.astype(np.float64), 20)

    def knn_gpu(resources, queries, vectors, k, metric):
        calls.append((resources, queries.dtype, vectors.dtype, k, metric, *current))
        return torch.topk(queries.float() @ vectors.float().T, k)

    @contextlib.contextmanager
    def on(device):
        current.append(device)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", on)
    scanner._resources = "resources"
    monkeypatch.setattr(scanner._faiss, "knn_gpu", knn_gpu, raising=False)
    bounds, rows = scanner.candidates(queries.astype(np.float64), 20)
    assert calls == [("resources", torch.float16, torch.float16, 20, scanner._faiss.METRIC_INNER_PRODUCT, "cpu")]
    assert np.allclose(bounds, expected[0], atol=1e-6) and bounds.shape == rows.shape == (QUERIES, 20)
    assert scanner.candidates(queries.astype(np.float64), 2049)[1].shape == (QUERIES, 2049) and len(calls) == 1


@pytest.mark.parametrize("dim", [32, 12, 2048])
@pytest.mark.parametrize("exact_integers", [True, False])
def test_products_of_codes_are_exact(dim, exact_integers, monkeypatch):
    """Also without exact integer products, in dimensions that a GPU cannot multiply, and near an overflow."""
    monkeypatch.setattr(codes_module, "_integer_products_are_exact", lambda device: exact_integers)
    vectors = np.where(np.arange(40)[:, None] % 2, 1.0, -1.0) * np.ones((40, dim))
    vectors[5:20] = np.random.default_rng(0).normal(size=(15, dim))
    coded = code(vectors.astype(np.float16))
    queries = CodedQueries(_unit(np.vstack([np.ones((1, dim)), vectors[5:9]])))
    half = len(queries.digits) // 2
    whole = 128 * queries.digits[:half].astype(np.int64) + queries.digits[half:]
    expected = coded.codes.numpy().astype(np.int64) @ whole[:5].T
    products = queries.multiply(coded.codes, torch.from_numpy(queries.digits))
    assert np.abs(expected).max() < 2**31
    assert np.array_equal(products.numpy(), expected.astype(np.float32))


def test_codes_take_half_of_the_bytes(tmp_path):
    vectors = _unit(np.random.default_rng(0).normal(size=(1000, 768))).astype(np.float16)
    save(code(vectors), tmp_path / "codes")
    assert (tmp_path / "codes").stat().st_size <= 0.51 * vectors.nbytes
    loaded, coded = load(tmp_path / "codes", vectors.shape, ""), code(vectors)
    assert torch.equal(loaded.codes, coded.codes) and torch.equal(loaded.scales, coded.scales)
    assert (loaded.error, loaded.norm, loaded.largest_scale) == (coded.error, coded.norm, coded.largest_scale)
    with pytest.raises(DataError, match="not a complete file of codes(.|\n)*rebuild"):
        load(tmp_path / "codes", (999, 768), "rebuild")


def test_the_mean_makes_codes_of_narrow_scores_finer():
    vectors, _ = _cases()["narrow"]
    centred, plain = code(vectors.astype(np.float16)), np.abs(vectors).max(axis=1) / 127
    assert centred.scales.mean() < 0.8 * plain.mean()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_errors(value):
    vectors = np.zeros((9, 8), dtype=np.float16)
    vectors[4, 3] = value
    with pytest.raises(DataError, match="shard 1, row 4: vector is not finite"):
        code(vectors, "shard 1")
    shards, queries = [np.zeros((9, 8), dtype=np.float16)], np.zeros((3, 8), dtype=np.float32)
    queries[2, 0] = value
    with pytest.raises(DataError, match="query 2: query embedding is not finite"):
        search(FlatScanner(shards), Vectors(shards), queries, 5)


def test_gpus_hold_float16_or_codes_or_are_too_small(monkeypatch):
    shards = [np.zeros((1000, 64), dtype=np.float16)] * 3
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no GPU found(.|\n)*device: auto"):
        scanners.visible_gpus()
    coded = [code(shard) for shard in shards]
    made = {}
    monkeypatch.setattr(
        scanners, "FlatScanner", lambda shards, device, dtype: made.setdefault(device, (dtype, len(shards)))
    )
    monkeypatch.setattr(scanners, "CodeScanner", lambda shards, device: made.setdefault(device, ("int8", len(shards))))
    monkeypatch.setattr(scanners, "JoinedScanner", lambda scanners: scanners)
    for free, form in ((128_000, "float16"), (68_000, "int8")):
        made.clear()
        monkeypatch.setattr(scanners, "_free_bytes", lambda device, free=free: 2 * free + scanners.GPU_WORK_BYTES)
        scanners.gpu_scanner(shards, coded, ["cuda:0", "cuda:1"])
        assert made == {"cuda:0": (form, 2), "cuda:1": (form, 1)}
    monkeypatch.setattr(scanners, "_free_bytes", lambda device: 10**6)
    with pytest.raises(ConfigError, match=r"index does not fit: 0\.\d GB needed per GPU as float16; 0\.\d GB"):
        scanners.gpu_scanner(shards, coded, ["cuda:0"])


@pytest.mark.parametrize("resident_bytes", [dense.RESIDENT_BYTES, 0], ids=["float32", "codes"])
@pytest.mark.parametrize("threads", [1, 2])
def test_index_search_is_exact(dense_directory, monkeypatch, resident_bytes, threads):
    monkeypatch.setattr(dense, "RESIDENT_BYTES", resident_bytes)
    index = load_index(dense_directory, device="cpu", threads=threads)
    vectors = np.concatenate([np.load(path) for path in sorted(dense_directory.glob("vectors-*.npy"))])
    assert vectors.dtype == np.float16 and len(vectors) == len(index) == 300
    queries = index.encoder.encode([f"{first} and {second}" for first in WORDS for second in WORDS[:7]], kind="query")
    for k in (1, 5, 300):
        scores, rows = index.search_vectors(queries, k)
        expected = _truth(vectors, queries, k)
        assert np.array_equal(rows, expected[1]) and np.array_equal(scores, expected[0])
    assert index.search_vectors(queries, 1000)[1].shape[1] == 300
