"""What a check found: a line of a table, with a remedy if it failed."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

from tir.common.errors import InfrastructureFault

TIMEOUT_S = 8.0  # of one request or command of a check


@dataclass(frozen=True)
class Finding:
    """Result of one check: a line of the table, and a remedy if it failed."""

    check: str
    ok: bool
    found: str
    remedy: str = ""


def require(findings: list[Finding]) -> None:
    """Raise `InfrastructureFault` if a check failed. The caller prints the table first."""
    failed = [finding.check for finding in findings if not finding.ok]
    if failed:
        raise InfrastructureFault(
            "this machine is not ready",
            where="preflight",
            why=f"{len(failed)} of {len(findings)} checks failed: " + ", ".join(failed),
            remedy="apply the remedies in the table above, then repeat the command",
        )


def table(findings: list[Finding]) -> str:
    """The findings as text; below each failure its remedy."""
    width = max(len(finding.check) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.check.ljust(width)}  {finding.found}")
        if not finding.ok:
            lines.append(f"      {' ' * width}  try: {finding.remedy}")
    return "\n".join(lines)


def run(command: list[str], *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command for at most TIMEOUT_S seconds.

    Raises `InfrastructureFault` if it fails, unless check=False; then the result has its status.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        done = subprocess.CompletedProcess(command, 1, "", f"{command[0]}: {error}")
    if check and done.returncode:
        raise InfrastructureFault(f"{command[0]} failed", where=" ".join(command), why=done.stderr.strip()[:200])
    return done
