"""Sentence encoder: prefix, tokeniser, transformer, mean pooling, L2 normalisation.

The encoder follows FlashRAG's, except that it never guesses prefixes or pooling from the model's name or path: a
renamed folder would silently lose e5's prefixes. torch is imported only when a model is loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, ValidationError, model_validator

from tir.common.errors import CheckpointError, ConfigError
from tir.common.model_files import MANIFEST, packaged_model
from tir.common.records import file_digest, read_json
from tir.retrieval.settings import EncoderSettings

if TYPE_CHECKING:
    from torch import Tensor

STATED = ("model", "query_prefix", "passage_prefix", "max_query_tokens", "max_passage_tokens")
CPU_TOKENS = 1024  # tokens per forward pass on a CPU; more exceed its caches and take up to twice the time per token


class EncoderConfig(EncoderSettings, frozen=True):
    """All settings of the encoder.

    `model`, `query_prefix`, `passage_prefix`, `max_query_tokens` and `max_passage_tokens` must be stated, because the
    embeddings depend on them. `retrieval.encoder` in docs/configuration.md describes the settings that are not below.

    Attributes:
        model: a directory, an installed package that contains the model, or a hub id "owner/name[@revision]".
        pooling: "mean" over the attention mask is the only choice.
        normalise: divide by the L2 norm, so that the inner product is the cosine.
        device: "cpu", "cuda" or "auto" (cuda if available).
        threads: CPU threads of the forward pass; 0: torch's default.
    """

    pooling: Literal["mean"] = "mean"
    normalise: bool = True
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    threads: int = Field(0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _stated(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        if missing := [name for name in STATED if name not in values]:
            raise ValueError(f"{', '.join(missing)} missing: the embeddings depend on it")
        return values

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], where: str = "encoder") -> EncoderConfig:
        """Build from a JSON object; raises `ConfigError` for an unknown, missing or invalid key."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            fault = error.errors()[0]
            reasons = {"extra_forbidden": "unknown key", "value_error": fault["msg"].removeprefix("Value error, ")}
            raise ConfigError(
                "invalid setting",
                where=".".join([where, *map(str, fault["loc"])]),
                why=reasons.get(fault["type"], f"{fault['input']!r}: {fault['msg']}"),
                remedy=f"known keys: {', '.join(cls.model_fields)}",
            ) from None

    def identity(self) -> dict[str, Any]:
        """The settings that change embeddings: all but batch size, device and threads."""
        settings = self.model_dump(exclude={"batch_size", "device", "threads"})
        settings["dtype"] = settings.pop("dtype")  # last, as in the manifests of existing indexes
        return settings

    def on(self, device: str, threads: int) -> EncoderConfig:
        """The same encoder on another device; on a CPU float32 replaces float16."""
        dtype = "float32" if device == "cpu" and self.dtype == "float16" else self.dtype
        return self.model_copy(update={"device": device, "threads": threads, "dtype": dtype})


def resolve_model(model: str) -> Path:
    """Directory with `config.json`, `tokenizer.json` and `model.safetensors` of `model`.

    `model` is tried as a directory, then as an installed package that contains exactly one such directory (this process
    then stops using the hub), then as a hub id `owner/name[@revision]`, downloaded or from the hub's cache.

    Raises:
        CheckpointError: the model is not found or cannot be downloaded.
    """
    if Path(model).is_dir():
        return Path(model)
    if directory := packaged_model(model):
        os.environ["HF_HUB_OFFLINE"] = "1"
        return directory
    if model.count("/") == 1 and not model.startswith((".", "/")):
        try:
            from huggingface_hub import snapshot_download

            repository, _, revision = model.partition("@")
            return Path(
                snapshot_download(
                    repository, revision=revision or None, allow_patterns=["*.json", "*.txt", "*.safetensors"]
                )
            )
        except Exception as error:
            raise CheckpointError(
                "cannot fetch model from the hub",
                where=model,
                why=str(error).splitlines()[0],
                remedy="download it on a machine with a network, then give its directory: encoder: {model: DIRECTORY}",
            ) from error
    raise CheckpointError(
        "encoder not found",
        where=model,
        why="it is not a directory, an installed package or a hub id",
        remedy="encoder: {model: DIRECTORY | PACKAGE | OWNER/NAME}",
    )


def model_facts(model: str, directory: Path) -> dict[str, Any]:
    """Origin of an encoder, `{"source": ..., "revision": ...}`, for information; `model_digest` identifies it.

    Source and revision are read from the manifest that `scripts.fetch_model` wrote into the directory. Without a
    manifest the source is `model`, and the revision that of the hub's snapshot or of the package, or None.
    """
    if (directory / MANIFEST).exists():
        facts = read_json(directory / MANIFEST)
        return {"source": facts.get("source", model), "revision": facts.get("commit") or facts.get("version")}
    revision = directory.name if directory.parent.name == "snapshots" else None
    with contextlib.suppress(metadata.PackageNotFoundError, ValueError):
        revision = revision or metadata.version(model)
    return {"source": model, "revision": revision}


def model_digest(directory: Path) -> str:
    """sha256 over the checksums of configuration, tokenizer and weights; an index must be searched with this model."""
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
        # By default OpenMP threads spin while they wait, and take the cores of the engine on the same machine: with two
        # busy cores a query took 25 times as long. OpenMP reads this variable once, when it is loaded.
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
            raise ConfigError(
                "float16 needs a GPU", where="encoder.dtype", why="the device is cpu", remedy="dtype: float32"
            )
        settings = read_json(self.directory / "config.json")
        self.dim: int = settings.get("hidden_size") or settings["dim"]
        try:
            tokenizer_text = (self.directory / "tokenizer.json").read_text(encoding="utf-8")
            self._tokenizers = {kind: Tokenizer.from_str(tokenizer_text) for kind in ("query", "passage")}
        except Exception as error:
            raise CheckpointError(
                "cannot read tokenizer",
                where=str(self.directory / "tokenizer.json"),
                why=str(error),
                remedy="download the model again",
            ) from None
        for kind, tokenizer in self._tokenizers.items():
            # Override padding and truncation of tokenizer.json (MiniLM's file sets both to 128).
            tokenizer.no_padding()
            tokenizer.enable_truncation(getattr(config, f"max_{kind}_tokens"))
        self._embed = self._load(settings)

    def _load(self, settings: dict[str, Any]) -> Callable[[list[list[int]]], Tensor]:
        """Load the model; returns a function from the token ids of n texts, sorted by length, to (n, dim)."""
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
                raise ConfigError(
                    "longer than the model's positions",
                    where=f"encoder.{key}",
                    why=f"{getattr(self.config, key)} > {settings['max_position_embeddings']}",
                    remedy=f"{key}: {settings['max_position_embeddings']}",
                )
        try:
            weights = load_file(self.directory / "model.safetensors", device=str(self.device))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                "cannot read weights",
                where=str(self.directory / "model.safetensors"),
                why=str(error),
                remedy="download the model again",
            ) from None
        return BertEncoder(
            settings,
            {
                name: tensor.to(self._dtype) if tensor.is_floating_point() else tensor
                for name, tensor in weights.items()
            },
        )

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
            kind: selects the prefix and the length limit.

        Returns:
            (n, dim) float32, in the order of `texts`; rows have unit norm if `normalise`.
        """
        torch = self._torch
        prefix = self.config.query_prefix if kind == "query" else self.config.passage_prefix
        encodings = self._tokenizers[kind].encode_batch_fast([prefix + text for text in texts])
        token_ids = [encoding.ids for encoding in encodings]
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        with torch.inference_mode():
            for rows in self._batches([len(ids) for ids in token_ids]):
                embeddings = self._embed([token_ids[row] for row in rows]).float()
                if self.config.normalise:
                    embeddings = torch.nn.functional.normalize(embeddings, dim=-1)
                vectors[rows] = embeddings.cpu().numpy()
        return vectors

    def _batches(self, lengths: list[int]) -> Iterator[list[int]]:
        """Row numbers of each forward pass. Texts are sorted by length, which reduces padding and attention blocks."""
        max_tokens = CPU_TOKENS if self.device.type == "cpu" else float("inf")
        batch: list[int] = []
        tokens = 0
        for row in sorted(range(len(lengths)), key=lengths.__getitem__):
            batch_tokens = (len(batch) + 1) * lengths[row] if self._pads else tokens + lengths[row]
            if batch and (len(batch) == self.config.batch_size or batch_tokens > max_tokens):
                yield batch
                batch, tokens = [], 0
            batch.append(row)
            tokens += lengths[row]
        if batch:
            yield batch
