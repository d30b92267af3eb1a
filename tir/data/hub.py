"""Requests to the Hugging Face hub. Maps refusals to DataError and network failures to InfrastructureFault.

A branch or tag is resolved to a commit once. `OUTPUT.source.json` keeps the commit, and a later fetch of the same
source takes it, also if the branch has moved.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tir.common.errors import DataError, InfrastructureFault
from tir.common.keys import HUB, Redaction, read_key
from tir.common.records import read_json, write_json

Answer = TypeVar("Answer")


def pin_file(output: str | os.PathLike) -> Path:
    """The file beside an output that says from which commit it was fetched: {repo, revision, commit}."""
    return Path(f"{output}.source.json")


def pinned(source: dict[str, Any], output: str | os.PathLike) -> str | None:
    """The revision to fetch: the commit that an earlier fetch of this source found, else the configured revision."""
    file = pin_file(output)
    kept = read_json(file) if file.exists() else {}
    same = (kept.get("repo"), kept.get("revision")) == (source["repo"], source.get("revision"))
    return kept["commit"] if same else source.get("revision")


def pin(source: dict[str, Any], output: str | os.PathLike, commit: str) -> None:
    """Keep the commit of a fetched source for later fetches."""
    write_json(pin_file(output), {"repo": source["repo"], "revision": source.get("revision"), "commit": commit})


def hub_file(source: dict[str, Any], output: str | os.PathLike) -> str:
    """Download one file of a data set and pin its commit; returns its path in the hub's cache."""
    from huggingface_hub import hf_hub_download

    revision = pinned(source, output)
    path = from_hub(
        source,
        lambda token: hf_hub_download(
            source["repo"], source["file"], revision=revision, repo_type="dataset", token=token
        ),
        revision,
    )
    folders = Path(path).parts  # .../snapshots/COMMIT/FILE
    pin(source, output, folders[folders.index("snapshots") + 1])
    return path


def from_hub(source: dict[str, Any], request: Callable[[str | None], Answer], revision: str | None = None) -> Answer:
    """Run a request to the hub and return its result.

    Args:
        source: a `tir.config.Source` of kind hub as JSON.
        request: function that calls `huggingface_hub` with the key in HF_TOKEN. None: its own, from `hf auth login`.
        revision: the revision that it asks for, for errors.

    Raises:
        ConfigError: HF_TOKEN is not a valid key.
        DataError: the repository, revision or file does not exist or is not accessible.
        InfrastructureFault: the hub did not answer.
    """
    # HTTPError is the base class of the network errors of huggingface_hub's HTTP client, which are not OSErrors.
    from httpx import InvalidURL
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        HTTPError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repo, key = source["repo"], read_key(HUB)
    # What, why (None: the hub's own words) and remedy. A gated repository is also one that is not found.
    refusals = {
        HFValidationError: ("not a valid repository name", None, "repo: OWNER/NAME"),
        GatedRepoError: (
            "the repository is gated",
            None,
            "accept the terms on the repository's page, export HF_TOKEN=..., then run the same command again",
        ),
        RepositoryNotFoundError: (
            "the repository does not exist or is private",
            None,
            "correct the source in config.yaml, or export HF_TOKEN=... for a private repository",
        ),
        RevisionNotFoundError: (
            "the repository has no such revision",
            f"revision {revision}",
            "correct revision of this source in config.yaml; if it is right, delete its .source.json",
        ),
        RemoteEntryNotFoundError: (
            "the repository has no such file",
            f"{source.get('file')} at revision {revision or 'main'}",
            "correct file of this source in config.yaml",
        ),
    }

    def first_line(error: Exception) -> str:  # the hub's answer is part of it
        return Redaction(key).in_error((str(error).strip() or type(error).__name__).splitlines()[0])

    try:
        return request(key.get_secret_value() if key else None)
    except tuple(refusals) as error:
        what, why, remedy = next(texts for kind, texts in refusals.items() if isinstance(error, kind))
        raise DataError(what, where=repo, why=why or first_line(error), remedy=remedy) from None
    except (HTTPError, OSError, InvalidURL, ValueError, ImportError) as error:
        raise InfrastructureFault(
            "cannot fetch from the hub",
            where=repo,
            why=first_line(error),
            remedy="check the network, HTTPS_PROXY, ALL_PROXY and SSL_CERT_FILE, or download by hand and use "
            "`kind: local` with `path:` in config.yaml",
        ) from None  # its traceback has the request's headers
