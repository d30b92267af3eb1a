"""The test of an image, run in its Python environment: `python -m tir.workflow.image_test NAME [cuda or cpu]`.

Imports what the image's stages import, also what they import only at first use, and checks that the libraries still
have the arguments that the stages give them on a GPU, and read the variables of `tir.common.environment`. It needs no
driver. `%test` runs it when an image is built, `make images-check` without building one.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterable
from functools import reduce
from pathlib import Path

from tir.common import environment
from tir.common.records import versions
from tir.workflow.images import RECIPES

SHOWN = (
    "torch",
    "transformers",
    "llamafactory",
    "deepspeed",
    "verl",
    "vllm",
    "ray",
    "faiss-cpu",
    "faiss-gpu-cuvs",
    "pandas",
    "scipy",
)


def faults(name: str, hardware: str) -> list[str]:
    """Imports that fail, and arguments and variables that no installed library has, one line each."""
    recipe = RECIPES[name]
    found = []
    for module in (*recipe.imports, *(recipe.cuda_imports if hardware == "cuda" else ())):
        try:
            importlib.import_module(module)
        except BaseException as error:  # libraries also end the process at import
            found.append(f"import {module}: {type(error).__name__}: {error}")
    if hardware == "cuda" and not found:
        found = [fault for place, names in recipe.cuda_calls for fault in unknown_arguments(place, names.split())]
    return found + unread_variables()


def unknown_arguments(place: str, names: Iterable[str]) -> list[str]:
    """Arguments that a function, method or class does not have; `place` is `module:name` or `module:Class.name`."""
    module, _, path = place.partition(":")
    try:
        called = inspect.signature(reduce(getattr, path.split("."), importlib.import_module(module)))
    except (ImportError, AttributeError) as error:
        return [f"{place}: {type(error).__name__}: {error}"]
    return [f"{place} has no argument {name}" for name in names if name not in called.parameters]


def unread_variables() -> list[str]:
    """Variables of `tir.common.environment` whose library is installed here and does not mention them any more."""
    found = []
    for variable, (_, file) in environment.FIXED.items():
        package, _, rest = file.partition("/")
        spec = importlib.util.find_spec(package)
        if spec and spec.origin:
            path = Path(spec.origin).parent / rest
            if not path.exists() or f'"{variable}"' not in path.read_text(encoding="utf-8"):
                found.append(f"{file} does not read {variable}")
    return found


def main() -> None:
    name, hardware = sys.argv[1], (sys.argv[2:] or ["cuda"])[0]
    environment.prepare()
    found = faults(name, hardware)
    print(f"{name}:", ", ".join(f"{key} {value}" for key, value in versions(*SHOWN).items()), flush=True)
    sys.exit("\n".join(found) or None)


if __name__ == "__main__":
    main()
