"""Runs Snakemake many times, each time in a fork of one process that has imported everything already.

A plan takes a fifth of the time of the command `snakemake -n`, and begins with no state of an earlier plan. `Forks` in
`support/workflow_copy.py` starts this program with the Python of Snakemake. Each line of the input is a request, each
line of the output its answer:

    {"directory": "/copy", "arguments": ["-n"], "environment": {}, "fake": false, "stop_after": null}
    {"status": 0, "text": "...", "modules": ["tir.config", ...]}

With `fake`, jobs run, but each writes its outputs itself instead of running its command. With `stop_after: 3`, the
process dies when the fourth job has begun, as by SIGKILL. `modules` are those of the workflow that the run imported.
"""

import contextlib
import gc
import hashlib
import importlib
import inspect
import json
import os
import pathlib
import sys
import traceback

import snakemake.cli
from snakemake.shell import shell

LOCAL = ("aspo", "scripts", "tir")
_parsed = {}  # file, content -> what tir.workflow.digests._read returns for it
_home = os.getcwd()  # modules of the workflow in this folder stay imported
_arguments = {}  # folder, arguments, the profile's time -> what Snakemake makes of them


def main() -> None:
    sys.path.insert(0, _home)
    digests = importlib.import_module("tir.workflow.digests")
    for path in (each for part in LOCAL for each in pathlib.Path(part).rglob("*.py")):
        _parsed[path.as_posix(), path.read_bytes()] = digests._read(path.as_posix())
    for line in sys.stdin:
        request = json.loads(line)
        _read_arguments(request["directory"], request["arguments"])
        answer = _in_a_fork(request)
        for name in set(answer["modules"]) - sys.modules.keys():
            if not _is_local(name) or request["directory"] == _home:
                with contextlib.suppress(Exception):
                    importlib.import_module(name)
        gc.freeze()
        print(json.dumps(answer | {"modules": list(filter(_is_local, answer["modules"]))}), flush=True)


def _is_local(name: str) -> bool:
    return name.partition(".")[0] in LOCAL


def _in_a_fork(request: dict) -> dict:
    (reading, writing), (from_child, to_parent) = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.dup2(writing, 1)
            os.dup2(writing, 2)
            os.close(reading)
            _run(**request)
        except SystemExit as end:
            status = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.close(1), os.close(2), os.close(writing)
            with os.fdopen(to_parent, "w") as pipe:
                json.dump([name for name in sys.modules if name != "__main__"], pipe)
            os._exit(status)
    os.close(writing)
    os.close(to_parent)
    with os.fdopen(reading, errors="replace") as text, os.fdopen(from_child) as modules:
        answer = {"text": text.read(), "modules": json.loads(modules.read() or "[]")}
    return answer | {"status": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}


def _run(directory: str, arguments: list[str], environment: dict[str, str], fake: bool, stop_after: int | None) -> None:
    gc.disable()
    os.environ.update(environment)
    os.chdir(directory)
    sys.path[0] = directory
    _import_anew()
    if fake:
        shell.__new__ = _fake(stop_after)
    parser, parsed = _arguments[_key(directory, arguments)]
    sys.exit(not snakemake.cli.args_to_api(parsed, parser))


def _read_arguments(directory: str, arguments: list[str]) -> None:
    """Reading the arguments and the profile takes a third of a plan's time."""
    os.chdir(directory)
    if (key := _key(directory, arguments)) not in _arguments:
        _arguments[key] = snakemake.cli.parse_args(arguments)[:2]


def _key(directory: str, arguments: list[str]) -> tuple:
    return directory, *arguments, os.stat("profiles/laptop/config.yaml").st_mtime_ns


def _import_anew() -> None:
    """Forget the workflow's modules unless they are those of this folder; let digests parse only what was edited."""
    imported = [name for name in sys.modules if _is_local(name)]
    files = [pathlib.Path(sys.modules[name].__file__).relative_to(_home) for name in imported]
    if os.getcwd() != _home or any(
        not file.exists() or (file.as_posix(), file.read_bytes()) not in _parsed for file in files
    ):
        for name in imported:
            del sys.modules[name]
    digests = importlib.import_module("tir.workflow.digests")
    for cached in (digests._file, digests._read, digests.code_digest):
        cached.cache_clear()
    read = digests._read
    digests._read = lambda file: _parsed.get((file, (digests.ROOT / file).read_bytes())) or read(file)


def _fake(stop_after: int | None):
    """A replacement for Snakemake's `shell` that writes the outputs of the rule that calls it."""
    begun = []

    def run(cls, command, *_, bench_record=None, **__):
        job = inspect.currentframe().f_back.f_locals
        if "output" not in job:  # a command of onstart or onsuccess
            return
        if len(begun) == stop_after:
            os.kill(os.getpid(), 9)
        begun.append(job)
        if bench_record:
            bench_record.running_time = 0.0
        inputs = [each for each in map(pathlib.Path, job["input"]) if each.is_file()]
        made_of = [*job["params"], *(hashlib.md5(each.read_bytes()).hexdigest() for each in inputs)]
        for path in map(pathlib.Path, job["output"]):
            file = path if path.suffix else path / "part"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({"made": str(path), "of": made_of}) + "\n")

    return run


if __name__ == "__main__":
    main()
