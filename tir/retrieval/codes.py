"""One byte per value: int8 codes of vectors, and products with them that bound every exact score from above.

A shard's vector x is `mean + scale * code + rest`, with one mean per shard, one scale per row, and codes from -127 to
127. The rest is not stored. Its norm is at most `error * scale`, with one computed `error` per shard. So, for a query q
of norm 1,

    q . x  =  q . mean  +  scale * (q . code)  +  q . rest  <=  q . mean  +  scale * (q . code + error)

by the inequality of Cauchy and Schwarz. The query is coded too; its own rest is bounded in the same way. Any mean gives
a valid bound. The shard's own makes the codes finer where all vectors are similar, as those of e5 are.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tir.common.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

CHUNK_ROWS = 4096  # rows coded at a time
DIGIT = 128  # a query is coded as DIGIT * high + low, so that its own error is 128 times smaller than that of a row
ULP = 2.0**-24  # largest relative error of rounding to float32
SMALL = 1e-30  # scale of a row that equals the mean


@dataclass(frozen=True)
class Codes:
    """The codes of one shard.

    Attributes:
        codes: (rows, dim) int8.
        scales: (rows,) float32.
        mean: (dim,) float32.
        error: largest norm of a row's rest, divided by its scale.
        norm: largest norm of a row of `codes`.
        largest_scale: largest of `scales`.
    """

    codes: Tensor
    scales: Tensor
    mean: Tensor
    error: float
    norm: float
    largest_scale: float

    def to(self, device: str) -> Codes:
        """The same codes on another device."""
        return Codes(
            self.codes.to(device), self.scales.to(device), self.mean, self.error, self.norm, self.largest_scale
        )


def code(vectors: np.ndarray, where: str = "vectors") -> Codes:
    """Code the float16 (rows, dim) vectors of a shard; raises `DataError` if a value is infinite or not a number."""
    import torch

    rows, dim = vectors.shape
    chunks = range(0, rows, CHUNK_ROWS)
    total = np.zeros(dim)
    for start in chunks:
        total += vectors[start : start + CHUNK_ROWS].sum(axis=0, dtype=np.float64)
    if not np.isfinite(total).all():
        raise DataError(
            "vector is not finite",
            where=f"{where}, row {int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])}",
            why="it contains NaN, or a value beyond the range of float16",
            remedy="check the encoder's weights and dtype",
        )
    mean = (total / rows).astype(np.float32)
    codes, scales = np.empty((rows, dim), dtype=np.int8), np.empty(rows, dtype=np.float32)
    error = norm = 0.0
    for start in chunks:
        centred = vectors[start : start + CHUNK_ROWS].astype(np.float64) - mean
        scale = np.maximum(np.abs(centred).max(axis=1) / 127, SMALL).astype(np.float32)
        exact = centred / scale[:, None].astype(np.float64)
        rounded = np.clip(np.rint(exact), -127, 127)
        error = max(error, float(np.linalg.norm(exact - rounded, axis=1).max()))
        norm = max(norm, float(np.linalg.norm(rounded, axis=1).max()))
        codes[start : start + CHUNK_ROWS], scales[start : start + CHUNK_ROWS] = rounded, scale
    # The two norms are computed in float64; the factor covers its rounding.
    return Codes(
        *(torch.from_numpy(array) for array in (codes, scales, mean)),
        error * (1 + 1e-9),
        norm * (1 + 1e-9),
        float(scales.max()),
    )


def save(codes: Codes, path: Path) -> None:
    """Write the codes of a shard as one .safetensors file."""
    import torch
    from safetensors.torch import save_file

    bounds = torch.tensor([codes.error, codes.norm, codes.largest_scale], dtype=torch.float64)
    save_file({"codes": codes.codes, "scales": codes.scales, "mean": codes.mean, "bounds": bounds}, path)


def load(path: Path, shape: tuple[int, int], remedy: str) -> Codes:
    """Memory-map the codes of a shard; raises `DataError` if the file is damaged or has another shape."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
        codes = Codes(tensors["codes"], tensors["scales"], tensors["mean"], *tensors["bounds"].tolist())
        if codes.codes.shape != shape or codes.scales.shape != shape[:1]:
            raise ValueError(f"codes of {tuple(codes.codes.shape)}, expected {shape}")
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise DataError("not a complete file of codes", where=str(path), why=str(error), remedy=remedy) from None
    return codes


class CodedQueries:
    """Queries of norm 1, coded with two digits: `unit * (DIGIT * high + low) + rest`.

    Args:
        queries: (n, dim) float64 of norm 1, or 0.
    """

    def __init__(self, queries: np.ndarray):
        (n, dim), self._queries, self._norms = queries.shape, queries, np.linalg.norm(queries, axis=1)
        # The second term keeps `whole . code` below 2**31. It matters beyond 1,040 dimensions.
        unit = np.maximum(np.abs(queries).max(axis=1) / (127 * DIGIT), self._norms * DIGIT * dim**0.5 / 2**31)
        self.unit = np.maximum(unit, SMALL)
        whole = np.rint(queries / self.unit[:, None])
        high = np.rint(whole / DIGIT)
        self._half = -(-n // 4) * 4  # a GPU multiplies by 8 columns at least
        self.digits = np.zeros((2 * self._half, dim), dtype=np.int8)
        self.digits[:n], self.digits[self._half : self._half + n] = high, whole - DIGIT * high
        self._rest = np.linalg.norm(queries - self.unit[:, None] * whole, axis=1)
        self._whole = np.linalg.norm(whole, axis=1)

    def bounds(self, codes: Codes) -> tuple[np.ndarray, np.ndarray]:
        """`(gap, offset)`, (n,) float64 each, for which `score <= offset + unit * scale * (whole . code + gap)`.

        They contain the error of the codes, that of the query's own code, and the rounding of the last expression,
        evaluated in float32 up to the factor `unit`: `whole . code`, `+ gap` and `* scale` are rounded once each, and
        so is `gap`.
        """
        mean = codes.mean.numpy().astype(np.float64)
        gap = (self._norms * codes.error + self._rest * codes.norm) / self.unit
        largest = self.unit * codes.largest_scale * (self._whole * codes.norm + gap)
        rounding = 5 * ULP * largest + 1e-12 * self._norms * np.linalg.norm(mean)
        return gap, self._queries @ mean + rounding

    def multiply(self, codes: Tensor, digits: Tensor) -> Tensor:
        """`whole . code` as (rows, n) float32, of (rows, dim) int8; `digits` is `self.digits` on the same device."""
        import torch

        products, n = multiply(codes, digits), len(self.unit)
        return torch.add(products[:, self._half : self._half + n], products[:, :n], alpha=DIGIT).float()


@cache
def _integer_products_are_exact(device: str) -> bool:
    """Whether the device multiplies int8 exactly. CPUs without VNNI add pairs of products in 16 bits, and overflow."""
    import torch

    codes = torch.full((64, 256), 127, dtype=torch.int8)
    codes[1::2] = -127
    codes[32:] = torch.randint(-127, 128, (32, 256), generator=torch.Generator().manual_seed(0))
    with contextlib.suppress(RuntimeError):  # not implemented on this device
        for columns in (8, 16, 64):
            digits = codes[-columns:]
            products = torch._int_mm(codes.to(device), digits.to(device).T).cpu()
            if not torch.equal(products, codes.int() @ digits.int().T):
                return False
        return True
    return False


def multiply(codes: Tensor, digits: Tensor) -> Tensor:
    """Exact products (rows, digits) float32 or int32 of int8 `codes` (rows, dim) and int8 `digits` (digits, dim)."""
    import torch

    if _integer_products_are_exact(codes.device.type) and len(codes) > 16 and codes.shape[1] % 8 == 0:
        return torch._int_mm(codes, digits.T)
    # Integers below 2**24 and their sums are exact in float32, in any order of summation.
    exact = torch.float32 if codes.shape[1] * 127 * DIGIT < 2**24 else torch.float64
    return codes.to(exact) @ digits.to(exact).T
