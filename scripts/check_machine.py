"""Name the system libraries that this machine lacks. Run by `make` before anything is installed, with any Python.

Wheels carry all of their libraries but these: without them a run would fail half-way, in words that do not say so.
"""

import ctypes
import platform
import sys

LIBRARIES = {"libnuma.so.1": ("libnuma1", "vLLM on a CPU"), "libseccomp.so.2": ("libseccomp2", "the Python sandbox")}


def missing() -> dict[str, str]:
    """Debian package and use of each library that cannot be loaded."""
    found = {}
    for name, (package, use) in LIBRARIES.items():
        try:
            ctypes.CDLL(name)
        except OSError:
            found[package] = f"{name} ({use})"
    return found


def main() -> None:
    """Exit with the line to paste if something is missing."""
    if platform.system() != "Linux":
        sys.exit(f"{platform.system()} found; this needs Linux")
    if lacks := missing():
        sys.exit(f"missing: {', '.join(lacks.values())}\n  try: apt-get install {' '.join(lacks)}")


if __name__ == "__main__":
    main()
