"""The command line of an OpenAI-compatible server of one chat model on this machine."""

from __future__ import annotations

import os
import sys


def command(
    engine: str, model: str | os.PathLike, name: str, port: int, gpus: int, max_tokens: int | None = 4096
) -> list[str]:
    """The command line of vLLM's server, or of `tir.common.transformers_server`.

    Args:
        engine: `vllm` or `transformers`.
        model: directory of the model.
        name: name of the model in requests.
        port: port on 127.0.0.1.
        gpus: number of GPUs that the model is split over (vLLM).
        max_tokens: longest request and reply together (vLLM); None: as long as the model can.
    """
    options = ["--model", str(model), "--served-model-name", name, "--host", "127.0.0.1", "--port", str(port)]
    if engine == "vllm":
        # Sampling as the requests state it, not as the model's generation_config.json does (a penalty, for example).
        options += ["--tensor-parallel-size", str(gpus), "--seed", "0", "--generation-config", "vllm"]
        options += ["--max-model-len", str(max_tokens)] if max_tokens else []
        return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *options]
    return [sys.executable, "-m", "tir.common.transformers_server", *options]
