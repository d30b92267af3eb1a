"""`tir-sandbox`: print the sandbox level of this machine, and run a program in the sandbox."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tir.common.cli import command
from tir.common.errors import ConfigError, DataError, ToolUnavailable

_INSTALL = "pip install '.[sandbox]'  # in a clone of the repository"
_STATUS = {"ok": 0, "error": 1, "timeout": 124}  # 124 is the status of timeout(1)


def main() -> None:
    """Command line."""
    command(_main, _INSTALL)


def _main() -> None:
    parse = argparse.ArgumentParser(
        "tir-sandbox", description="Run untrusted Python without root and without a container."
    )
    commands = parse.add_subparsers(metavar="COMMAND", required=True)
    check = commands.add_parser(
        "check",
        help="print the sandbox level of this machine, and the reason for every missing barrier",
        description="Start a worker, try every barrier, and print the sandbox level and the reason for every missing "
        "barrier. The exit status is 1 if the level is below --minimum-level.",
    )
    run = commands.add_parser(
        "run",
        help="run one program and print its output",
        description="Run one program and print its output; if it raises an exception, print both to standard error. "
        "Exit status: 0 for success, 1 if the program raised an exception or could not be run, 124 for a timeout.",
    )
    run.add_argument("file", metavar="FILE", help="the program; - reads standard input")
    run.add_argument("--timeout-s", type=float, default=5.0, help="time limit in seconds (default: 5)")
    run.add_argument("--memory-mb", type=int, default=2048, help="address space in MiB (default: 2048)")
    run.add_argument(
        "--output-chars", type=int, default=65536, help="longest output in characters, both ends kept (default: 65536)"
    )
    for subcommand, function in ((check, _check), (run, _run)):
        subcommand.add_argument(
            "--minimum-level", type=int, default=2, choices=range(4), help="lowest accepted sandbox level (default: 2)"
        )
        subcommand.set_defaults(call=function)
    arguments = parse.parse_args()
    arguments.call(arguments)


def _check(arguments: argparse.Namespace) -> None:
    from tir.tools.sandbox import call, levels
    from tir.tools.sandbox.worker import Worker

    try:
        worker = Worker(call.Settings(timeout_s=10.0, memory_mb=2048, output_bytes=65536))
    except OSError as error:
        raise ToolUnavailable(
            "the Python worker does not start", where=sys.executable, why=str(error), remedy=_INSTALL
        ) from None
    worker.close()
    print(levels.describe(worker.missing))
    reached = levels.level(worker.missing)
    if reached < arguments.minimum_level:
        raise ConfigError(
            f"the sandbox reaches level {reached}, --minimum-level is {arguments.minimum_level}",
            why="; ".join(f"no {name} ({why})" for name, why in worker.missing.items()),
            remedy="; or ".join(levels.REMEDIES[name] for name in worker.missing),
        )


def _run(arguments: argparse.Namespace) -> None:
    from tir.tools.python_tool import PythonTool

    try:
        code = Path("/dev/stdin" if arguments.file == "-" else arguments.file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            "cannot read the program", where=arguments.file, why=str(error), remedy="give a UTF-8 file, or - for stdin"
        ) from None
    with PythonTool(
        workers=1,
        timeout_s=arguments.timeout_s,
        memory_mb=arguments.memory_mb,
        output_chars=arguments.output_chars,
        empty_output="",
        minimum_level=arguments.minimum_level,
    ) as python:
        result = python.run(code)
    if result.text:
        print(result.text, file=sys.stdout if result.status == "ok" else sys.stderr)
    sys.exit(_STATUS[result.status])


if __name__ == "__main__":
    main()
