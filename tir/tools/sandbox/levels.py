"""Sandbox levels: which barriers this kernel lets an ordinary user put around a call.

    level 3  namespaces + seccomp + Landlock
    level 2  seccomp + one of namespaces, Landlock     no access to files, network or other processes
    level 1  seccomp                                   no access to network or other processes; files are accessible
    level 0  resource limits only

A worker tries each barrier in a throw-away process before it serves calls, and its first call checks from inside that
the barriers hold. No barrier is assumed from a kernel version, and every missing barrier is reported.
"""

from __future__ import annotations

from collections.abc import Mapping

BARRIERS = ("namespaces", "seccomp", "landlock")
REMEDIES = {
    "namespaces": "allow user namespaces: sysctl -w user.max_user_namespaces=10000 and, on Ubuntu, "
    "kernel.apparmor_restrict_unprivileged_userns=0",
    "seccomp": "install libseccomp (apt-get install libseccomp2) and pyseccomp",
    "landlock": "boot a kernel from 5.13 with landlock in its list of security modules (`lsm=`)",
}


def level(missing: Mapping[str, str]) -> int:
    """The sandbox level.

    Args:
        missing: missing barriers, from name to reason.
    """
    if "seccomp" in missing:
        return 0
    return 1 + sum(name not in missing for name in ("namespaces", "landlock"))


def describe(missing: Mapping[str, str]) -> str:
    """One line with the level, the barriers present, and the reason for each missing one."""
    present = [name for name in BARRIERS if name not in missing]
    text = f"Python sandbox: level {level(missing)} of 3 (resource limits{''.join(f', {name}' for name in present)})"
    return text + "".join(f"; no {name}: {why}" for name, why in missing.items())
