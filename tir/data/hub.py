"""What is asked of the Hugging Face hub, its refusals told from its silence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from tir.errors import DataError, InfrastructureFault

Answer = TypeVar("Answer")


def hub_file(source: dict[str, Any]) -> str:
    """Path in the hub's cache of one file of a data set."""
    from huggingface_hub import hf_hub_download

    return from_hub(source, lambda: hf_hub_download(source["repo"], source["file"], revision=source.get("revision"),
                                                    repo_type="dataset"))


def from_hub(source: dict[str, Any], ask: Callable[[], Answer]) -> Answer:
    """What `ask` returns.

    Args:
        source: a `tir.config.Source` of kind hub as JSON.

    Raises:
        DataError: the hub has no such repository, revision or file, or does not let us have it.
        InfrastructureFault: it did not answer.
    """
    # HTTPError is the hub's own client's, whichever that is: its faults of the network are no OSErrors.
    from huggingface_hub.errors import (GatedRepoError, HFValidationError, HTTPError, RemoteEntryNotFoundError, RepositoryNotFoundError,
                                        RevisionNotFoundError)

    repo = source["repo"]
    try:
        return ask()
    except HFValidationError as error:
        raise DataError("not a repository's name", where=repo, why=_line(error), remedy="repo: OWNER/NAME") from None
    except GatedRepoError as error:
        raise DataError("the repository asks for consent", where=repo, why=_line(error),
                        remedy="accept its terms at its page, then HF_TOKEN=... and the same command again") from None
    except RepositoryNotFoundError as error:
        raise DataError("the hub has no such repository, or a private one", where=repo, why=_line(error),
                        remedy="correct its source in config.yaml, or set HF_TOKEN") from None
    except RevisionNotFoundError:
        raise DataError("the repository has no such revision", where=repo, why=f"revision {source.get('revision')}",
                        remedy="correct its source in config.yaml") from None
    except RemoteEntryNotFoundError:
        raise DataError("the repository has no such file", where=repo, why=f"{source.get('file')} at revision {source.get('revision') or 'main'}",
                        remedy="correct its source in config.yaml") from None
    except (HTTPError, OSError) as error:
        raise InfrastructureFault(
            "cannot fetch from the hub", where=repo, why=_line(error),
            remedy="check the network, or download by hand and use kind: local") from error


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
