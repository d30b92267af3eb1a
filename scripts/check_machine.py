"""List missing system libraries. `make` runs this first, with any Python, before it installs anything.

The wheels contain all other libraries. Without these two a run would fail later with an unrelated error message.
"""

import ctypes
import platform
import sys

LIBRARIES = {"libnuma.so.1": ("libnuma1", "vLLM on a CPU"), "libseccomp.so.2": ("libseccomp2", "the Python sandbox")}


def missing() -> dict[str, str]:
    """Debian package -> name and use, of each library that cannot be loaded."""
    packages = {}
    for name, (package, use) in LIBRARIES.items():
        try:
            ctypes.CDLL(name)
        except OSError:
            packages[package] = f"{name} ({use})"
    return packages


def main() -> None:
    """Exit with an error and the command to paste if a library is missing."""
    if platform.system() != "Linux":
        sys.exit(f"this workflow needs Linux; this machine runs {platform.system()}")
    if packages := missing():
        sys.exit(
            f"missing system libraries: {', '.join(packages.values())}\n  try: apt-get install {' '.join(packages)}"
        )


if __name__ == "__main__":
    main()
