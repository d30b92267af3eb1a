"""One exception type per cause, each saying what is wrong, where, why, and what to do about it.

Two families must never be confused. A *model fault* (bad code, no answer) is data and raises nothing. An
*infrastructure fault* (server gone, quota, a worker that never came) is raised, retried, and stops the stage with a
named cause; it is never scored as a wrong answer or an empty result.
"""

from __future__ import annotations


class TirError(Exception):
    """A failure a user can act on, rendered as one paragraph.

    Args:
        what: the fault in a few words.
        where: `file:key`, a path, or an address.
        why: the reason, with the offending value.
        remedy: the line to type or paste.
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

    def __reduce__(self):  # keyword-only arguments would be lost on the way out of a worker process
        return (_rebuild, (type(self), self.what, self.where, self.why, self.remedy))


def _rebuild(cls, what, where, why, remedy):
    return cls(what, where=where, why=why, remedy=remedy)


class ConfigError(TirError):
    """The configuration is wrong; raised before a graph exists."""


class DataError(TirError):
    """An input file is missing, corrupt, of the wrong shape, or fails its checksum."""


class CheckpointError(TirError):
    """A model directory cannot be read or does not match its manifest."""


class InfrastructureFault(TirError):
    """A service or a machine failed; retried by the caller, never scored."""


class SearchUnavailable(InfrastructureFault):
    """The retrieval or web-search service cannot be reached or answers nonsense."""


class ToolUnavailable(InfrastructureFault):
    """A tool's worker could not be started, or a call waited too long for one."""


class EngineFault(InfrastructureFault):
    """The generation engine died or refused a request it should accept."""


class JudgeUnavailable(InfrastructureFault):
    """The judge's server cannot be reached, or its replies cannot be read as verdicts."""


class HelperUnavailable(InfrastructureFault):
    """The server of an inference-time helper cannot be reached or answers nonsense."""
