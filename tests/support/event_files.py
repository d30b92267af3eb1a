"""TensorBoard's event files, read back."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def events(folder: Path) -> EventAccumulator:
    """All events of a run's folder."""
    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    """(step, value) of one curve."""
    return [(each.step, each.value) for each in events(folder).Scalars(tag)]
