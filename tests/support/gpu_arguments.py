"""LLaMA-Factory's own check of recipes for GPUs, on a machine without one.

The arguments are parsed as in a process that torch's launcher started. The check believes that there is a GPU with
bfloat16. Two empty packages stand for `deepspeed` and `liger_kernel`, which the CPU environment has not.
"""

from __future__ import annotations

import json
import os
import subprocess
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from support.training_runs import SFT_PYTHON

_PACKAGES = {"deepspeed": "0.18.3", "liger_kernel": "0.6.4"}
_COMM = "from torch.distributed import is_initialized\ndef init_distributed(**_): pass\n"
_PROGRAM = """
    import dataclasses, json, os, sys
    from types import SimpleNamespace
    import transformers.training_args
    transformers.training_args.is_torch_bf16_gpu_available = lambda: True
    from llamafactory.hparams import get_train_args

    def parsed(recipe):
        model, data, training, tuning, _ = get_train_args(recipe)
        found = {}
        for each in (model, data, training, tuning):
            found |= {field.name: getattr(each, field.name, None) for field in dataclasses.fields(each)}
        if training.deepspeed:
            model = SimpleNamespace(config=SimpleNamespace(hidden_size=2048))
            training.hf_deepspeed_config.trainer_config_finalize(training, model, recipe["max_steps"])
            found["deepspeed"] = training.hf_deepspeed_config.config
        return found | {"mixed_precision": training.mixed_precision}

    for number, recipe in enumerate(json.load(open(sys.argv[1]))):
        if os.fork() == 0:  # the library keeps state in its process
            print("PARSED" + json.dumps([number, parsed(recipe)], default=str), flush=True)
            os._exit(0)
        if os.wait()[1]:
            sys.exit(f"recipe {number} is refused")
"""


def gpu_arguments(recipes: Sequence[Mapping[str, Any]], directory: Path) -> list[dict[str, Any]]:
    """What LLaMA-Factory reads from each recipe, by name; `deepspeed` is the configuration with its sizes filled in.

    Args:
        recipes: recipes for cuda; DeepSpeed's files that they name must exist.
        directory: folder for scratch files.
    """
    for name, version in _PACKAGES.items():
        for folder in (directory / name, directory / f"{name}-{version}.dist-info"):
            folder.mkdir(parents=True, exist_ok=True)
        (directory / name / "__init__.py").write_text(f"__version__ = {version!r}\n")
        facts = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        (directory / f"{name}-{version}.dist-info/METADATA").write_text(facts)
    (directory / "deepspeed/comm.py").write_text(_COMM)
    (directory / "recipes.json").write_text(json.dumps(recipes, default=str))
    launched = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    done = subprocess.run(
        [SFT_PYTHON, "-c", textwrap.dedent(_PROGRAM), directory / "recipes.json"],
        env=os.environ | launched | {"PYTHONPATH": str(directory)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [json.loads(line[6:]) for line in done.stdout.splitlines() if line.startswith("PARSED")]
    return [found for _, found in sorted(lines, key=lambda line: line[0])]
