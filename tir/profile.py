"""What a profile says of rules by their names: Snakemake takes a name that no rule has without a word, and the rule runs on defaults."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tir.config.faults import nearest
from tir.errors import ConfigError


def require_rules(asked: Mapping[str, Iterable[str]], known: Iterable[str]) -> None:
    """Raise a `ConfigError` that lists every name which is no rule's.

    Args:
        asked: option of the profile, e.g. `set-resources` -> names of rules it speaks of.
        known: names of the workflow's rules.
    """
    known = sorted(known)
    faults = []
    for option, names in asked.items():
        for name in names:
            if name not in known:
                near = nearest(name, known)
                faults.append(f"  {option}: {name}" + (f"; did you mean `{near}`?" if near else "; delete it"))
    if faults:
        raise ConfigError("\n".join(["names that no rule has", *faults]), where="profile")
