"""Sentence encoder: prefix, tokenise, transformer, mean pooling over the mask, L2 normalisation.

The numbers follow UPSTREAM.md 1.7 (FlashRAG's encoder); unlike it, nothing is guessed from the model's name or path:
a renamed folder would silently lose e5's prefixes. torch is imported when a model is loaded, not before.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tir.errors import CheckpointError, ConfigError
from tir.records import file_digest, read_json

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = ("float32", "float16", "bfloat16")
CPU_TOKENS = 1024  # per forward pass on a CPU: larger activations leave its caches, at up to twice the time per token


@dataclass(frozen=True)
class EncoderConfig:
    """Everything that decides an embedding. What has no default must be stated.

    Args:
        model: a directory, an importable package that carries the model, or a hub id ("owner/name", "owner/name@revision").
        query_prefix: put before every query ("query: " for e5).
        passage_prefix: put before every passage ("passage: " for e5).
        max_query_tokens: queries are cut at this many tokens, special ones included (upstream 128).
        max_passage_tokens: likewise for passages (upstream's index 512).
        pooling: "mean" over the attention mask; the only one so far.
        normalise: divide by the L2 norm, so that the inner product is the cosine.
        dtype: of weights and activations; float16 needs a GPU.
        batch_size: most texts per forward pass (upstream 256); a CPU takes fewer, see `CPU_TOKENS`.
        device: "cpu", "cuda" or "auto" (cuda if there is one).
        threads: CPU threads of the forward pass; 0 leaves torch's choice.
    """

    model: str
    query_prefix: str
    passage_prefix: str
    max_query_tokens: int
    max_passage_tokens: int
    pooling: str = "mean"
    normalise: bool = True
    dtype: str = "float32"
    batch_size: int = 256
    device: str = "auto"
    threads: int = 0

    def __post_init__(self):
        if self.pooling != "mean":
            raise ConfigError("unknown pooling", where="encoder.pooling", why=repr(self.pooling), remedy="mean")
        if self.dtype not in DTYPES:
            raise ConfigError("unknown dtype", where="encoder.dtype", why=repr(self.dtype), remedy=f"one of {DTYPES}")
        for key in ("max_query_tokens", "max_passage_tokens", "batch_size"):
            if getattr(self, key) < 1:
                raise ConfigError("must be positive", where=f"encoder.{key}", why=str(getattr(self, key)))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], where: str = "encoder") -> EncoderConfig:
        """Build from a JSON object; raises `ConfigError` for an unknown or a missing key."""
        known = {field.name: field for field in fields(cls)}
        required = [name for name, field in known.items() if field.default is MISSING]
        for name in values:
            if name not in known:
                raise ConfigError("unknown key", where=f"{where}.{name}", remedy=f"known keys: {', '.join(known)}")
        for name in required:
            if name not in values:
                raise ConfigError("key missing", where=f"{where}.{name}", remedy=f"state it: {name}: ...",
                                  why="it decides the embeddings and is never guessed")
        return cls(**values)

    def identity(self) -> dict[str, Any]:
        """The part that changes embeddings; batch size, device and threads do not."""
        return {key: value for key, value in asdict(self).items() if key not in ("batch_size", "device", "threads")}

    def on(self, device: str, threads: int) -> EncoderConfig:
        """The same encoder for queries on this machine; a CPU computes in float32 what a GPU did in float16."""
        return replace(self, device=device, threads=threads,
                       dtype="float32" if device == "cpu" and self.dtype == "float16" else self.dtype)


def resolve_model(model: str) -> Path:
    """Directory that holds `config.json`, `tokenizer.json` and `model.safetensors` of `model`.

    Looked up in this order: a directory; an installed package that carries exactly one such directory (the hub is then
    switched off for this process); a hub id, downloaded or from the hub's cache, `owner/name@revision` for one revision.

    Raises:
        CheckpointError: nothing is found; says what was tried.
    """
    if Path(model).is_dir():
        return Path(model)
    name = model.replace("-", "_")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is not None and spec.submodule_search_locations:
        os.environ["HF_HUB_OFFLINE"] = "1"
        for location in spec.submodule_search_locations:
            found = [path.parent for path in sorted(Path(location).rglob("config.json"))
                     if (path.parent / "model.safetensors").exists()]
            if len(found) == 1:
                return found[0]
        raise CheckpointError("package does not carry one model", where=model,
                              why=f"looked for config.json beside model.safetensors in {location}")
    if model.count("/") == 1 and not model.startswith((".", "/")):
        try:
            from huggingface_hub import snapshot_download

            repository, _, revision = model.partition("@")
            return Path(snapshot_download(repository, revision=revision or None,
                                          allow_patterns=["*.json", "*.txt", "*.safetensors"]))
        except Exception as error:
            raise CheckpointError("cannot fetch model from the hub", where=model, why=str(error).splitlines()[0],
                                  remedy="download it on a machine with a network and give its directory") from error
    raise CheckpointError("encoder not found", where=model, why="no such directory, package or hub id",
                          remedy="encoder: {model: DIRECTORY | PACKAGE | OWNER/NAME}")


def model_revision(model: str, directory: Path) -> str | None:
    """The revision of a hub's snapshot, or the version of the package that carries the model; None for a directory."""
    if directory.parent.name == "snapshots":
        return directory.name
    try:
        return metadata.version(model)
    except (metadata.PackageNotFoundError, ValueError):
        return None


def model_digest(directory: Path) -> str:
    """sha256 over the digests of the weights and the tokenizer: what an index must be searched with."""
    files = [directory / "config.json", directory / "tokenizer.json", *sorted(directory.glob("*.safetensors"))]
    listing = "".join(f"{path.name} {file_digest(path)}\n" for path in files)
    return hashlib.sha256(listing.encode()).hexdigest()


class Encoder:
    """A loaded sentence encoder.

    Args:
        config: see `EncoderConfig`.

    Raises:
        CheckpointError: the model cannot be found or read.
    """

    def __init__(self, config: EncoderConfig):
        # Threads that spin while they wait take the cores of the engine beside us: with two busy cores a query took 25
        # times as long. Read once, when the OpenMP runtime loads.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        import torch
        from tokenizers import Tokenizer

        self.config = config
        self.directory = resolve_model(config.model)
        self._torch = torch
        automatic = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(automatic if config.device == "auto" else config.device)
        if config.threads:
            torch.set_num_threads(config.threads)
        self._dtype = getattr(torch, config.dtype)
        if self.device.type == "cpu" and self._dtype == torch.float16:
            raise ConfigError("float16 needs a GPU", where="encoder.dtype", remedy="dtype: float32")
        settings = read_json(self.directory / "config.json")
        self.dim: int = settings.get("hidden_size") or settings["dim"]
        try:
            tokenizer_text = (self.directory / "tokenizer.json").read_text(encoding="utf-8")
            self._tokenizers = {kind: Tokenizer.from_str(tokenizer_text) for kind in ("query", "passage")}
        except Exception as error:
            raise CheckpointError("cannot read tokenizer", where=str(self.directory / "tokenizer.json"),
                                  why=str(error)) from None
        for kind, tokenizer in self._tokenizers.items():
            # The file may carry its own padding and truncation (128 in MiniLM's); ours are explicit.
            tokenizer.no_padding()
            tokenizer.enable_truncation(getattr(config, f"max_{kind}_tokens"))
        self._pooled = self._load(settings)

    def _load(self, settings: dict[str, Any]) -> Callable[[list[list[int]]], Tensor]:
        """The model with its pooling: n texts' token ids, shortest first, to (n, dim)."""
        self._pads = settings.get("model_type") != "bert"
        if self._pads:
            from transformers import AutoModel

            model = AutoModel.from_pretrained(self.directory, dtype=self._dtype).to(self.device).eval()
            return lambda texts: self._mean_of_padded(model, texts, settings.get("pad_token_id") or 0)
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from tir.retrieval.bert import BertEncoder

        for key in ("max_query_tokens", "max_passage_tokens"):
            if getattr(self.config, key) > settings["max_position_embeddings"]:
                raise ConfigError("longer than the model's positions", where=f"encoder.{key}",
                                  why=f"{getattr(self.config, key)} > {settings['max_position_embeddings']}")
        try:
            weights = load_file(self.directory / "model.safetensors", device=str(self.device))
        except (OSError, SafetensorError) as error:
            raise CheckpointError("cannot read weights", where=str(self.directory / "model.safetensors"),
                                  why=str(error)) from None
        return BertEncoder(settings, {name: tensor.to(self._dtype) if tensor.is_floating_point() else tensor
                                      for name, tensor in weights.items()})

    def _mean_of_padded(self, model, texts: list[list[int]], pad_id: int) -> Tensor:
        torch, length = self._torch, len(texts[-1])
        ids = torch.tensor([text + [pad_id] * (length - len(text)) for text in texts], device=self.device)
        mask = torch.tensor([[1] * len(text) + [0] * (length - len(text)) for text in texts], device=self.device)
        states = model(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).to(states.dtype)
        return (states * weights).sum(1) / weights.sum(1)

    def encode(self, texts: Sequence[str], kind: Literal["query", "passage"] = "passage") -> np.ndarray:
        """Embed texts.

        Args:
            texts: n strings, without prefix.
            kind: which prefix and length limit apply.

        Returns:
            (n, dim) float32, in the order of `texts`, rows of unit norm if `normalise`.
        """
        torch = self._torch
        prefix = self.config.query_prefix if kind == "query" else self.config.passage_prefix
        encodings = self._tokenizers[kind].encode_batch_fast([prefix + text for text in texts])
        token_ids = [encoding.ids for encoding in encodings]
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        with torch.inference_mode():
            for rows in self._batches([len(ids) for ids in token_ids]):
                pooled = self._pooled([token_ids[row] for row in rows]).float()
                if self.config.normalise:
                    pooled = torch.nn.functional.normalize(pooled, dim=-1)
                vectors[rows] = pooled.cpu().numpy()
        return vectors

    def _batches(self, lengths: list[int]) -> Iterator[list[int]]:
        """Row numbers of each forward pass, shortest texts first: similar lengths waste little on padding, and equal ones
        are one block of attention."""
        most_tokens = CPU_TOKENS if self.device.type == "cpu" else float("inf")
        batch: list[int] = []
        tokens = 0
        for row in sorted(range(len(lengths)), key=lengths.__getitem__):
            computed = (len(batch) + 1) * lengths[row] if self._pads else tokens + lengths[row]
            if batch and (len(batch) == self.config.batch_size or computed > most_tokens):
                yield batch
                batch, tokens = [], 0
            batch.append(row)
            tokens += lengths[row]
        if batch:
            yield batch
