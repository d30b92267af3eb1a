"""What this kernel lets an ordinary user build around a call, and the least that is accepted.

    level 3  namespaces + seccomp + Landlock
    level 2  seccomp + one of namespaces, Landlock     files, network and other processes are out of reach
    level 1  seccomp                                   the network and other processes are; files are not
    level 0  resource limits only

Each barrier is tried before a worker serves, in a process that is thrown away, and a first call then checks from inside
that what was built holds. Nothing is assumed from a version number, and nothing is left out silently.
"""

from __future__ import annotations

from collections.abc import Mapping

BARRIERS = ("namespaces", "seccomp", "landlock")
REMEDIES = {
    "namespaces": "sysctl user.max_user_namespaces and, on Ubuntu, kernel.apparmor_restrict_unprivileged_userns",
    "seccomp": "install libseccomp (Debian libseccomp2) and pyseccomp",
    "landlock": "a kernel from 5.13 with landlock in its list of security modules (`lsm=`)",
}


def level(missing: Mapping[str, str]) -> int:
    """The level that remains.

    Args:
        missing: barrier -> why it is not there.
    """
    if "seccomp" in missing:
        return 0
    return 1 + sum(name not in missing for name in ("namespaces", "landlock"))


def describe(missing: Mapping[str, str]) -> str:
    """One line: the level, what it is made of, and why the rest is not there."""
    present = [name for name in BARRIERS if name not in missing]
    text = f"Python sandbox: level {level(missing)} of 3 (resource limits{''.join(f', {name}' for name in present)})"
    return text + "".join(f"; no {name}: {why}" for name, why in missing.items())
