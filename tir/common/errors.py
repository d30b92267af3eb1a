"""Typed errors, one exception type per cause. Each message says what is wrong, where, why, and what to do.

Two kinds of faults must never be confused. A *model fault* (bad code, no answer) is data and raises nothing. An
*infrastructure fault* (an unreachable server, a used-up quota, no free worker) is raised and retried; if it persists,
it stops the stage. It is never scored as a wrong answer or an empty result.
"""

from __future__ import annotations


class TirError(Exception):
    """A failure that the user can act on, printed as a short message without a traceback.

    Args:
        what: the fault in a few words.
        where: `file:key`, a path, or an address.
        why: the reason, with the invalid value.
        remedy: a line to type or paste.
    """

    def __init__(self, what: str, *, where: str = "", why: str = "", remedy: str = ""):
        self.what, self.where, self.why, self.remedy = what, where, why, remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        if self.why:
            text += f": {self.why}"
        text = text if "\n" in text else text.rstrip(".") + "."
        return f"{text}\n  try: {self.remedy}" if self.remedy else text

    def __reduce__(self):  # by default pickling, e.g. out of a worker process, loses keyword-only arguments
        return (_rebuild, (type(self), self.what, self.where, self.why, self.remedy))


def _rebuild(cls, what, where, why, remedy):
    return cls(what, where=where, why=why, remedy=remedy)


class ConfigError(TirError):
    """The configuration is invalid."""


class DataError(TirError):
    """An input file is missing, corrupt, in the wrong format, or has the wrong checksum."""


class OutputInUse(TirError):
    """Another process writes the same output."""


class CheckpointError(TirError):
    """A model directory cannot be read or does not match its manifest."""


class InfrastructureFault(TirError):
    """A service or a machine failed; the caller retries, and the fault is never scored."""


class SearchUnavailable(InfrastructureFault):
    """The retrieval or web search service cannot be reached, or its answers are malformed."""


class WrongIndex(SearchUnavailable):
    """A retrieval server answers from another index than the one that the job was given."""


class ToolUnavailable(InfrastructureFault):
    """A tool's worker could not be started, or a call waited too long for a free worker."""


class EngineFault(InfrastructureFault):
    """The generation engine died, or refused a valid request."""


class JudgeUnavailable(InfrastructureFault):
    """The judge's server cannot be reached, or its replies contain no verdict."""


class HelperUnavailable(InfrastructureFault):
    """The server of an inference-time helper cannot be reached, or its answers are malformed."""
