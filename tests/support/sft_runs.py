"""Fine-tuning runs for tests."""

from tir.config.sft import Sft
from tir.sft.run import SftRun

ROW = {
    "instruction": "Use tools.",
    "input": "2+3?",
    "output": "<think>add</think><python>print(2+3)</python><result>\n5\n"
    "</result><think>so</think><answer>\\[ \\boxed{5} \\]</answer>",
}


def sft_run(*, device="cuda", leading_space=False, **sft) -> SftRun:
    """A run that differs from the default configuration in some keys of `sft`."""
    return SftRun(Sft(**({"processes": 8} if device == "cuda" else {}) | sft), device, leading_space)


TINY = dict(
    layout="system_role",
    mask_results=True,
    cutoff_tokens=128,
    holdout=0.1,
    epochs=2,
    batch_rows=4,
    learning_rate=1e-3,
    precision="fp32",
    deepspeed=None,
    attention="sdpa",
    logging_steps=2,
)


def on_cpu(**sft) -> SftRun:
    """A run with the settings `TINY`, except for the given keys."""
    return sft_run(device="cpu", **TINY | sft)
