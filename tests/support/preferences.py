"""Hand-written trajectories as trace records, for tests of DPO."""

from support.qwen_like import qwen_like_tokenizer

from tir.config.rl import RewardRule
from tir.dpo.pairs import Member, member

CALL = "<think>add</think><python>print(2+3)</python>"
RESULT = "<result>\n5\n</result>"
RIGHT = r"<think>so five</think><answer>\[ \boxed{5} \]</answer><|im_end|>"
WRONG = r"<think>so six, or not</think><answer>\[ \boxed{6} \]</answer><|im_end|>"
BROKEN = r"five<|im_end|>"


def trace(sample: int, *texts: str, item: str = "0", gold: str = "5", tokenizer=None) -> dict:
    """A trace record of math; a text that begins with `<result>` is a tool's, every other one the model's."""
    tokenizer = tokenizer or qwen_like_tokenizer()
    segments = [
        {
            "by": "tool" if text.startswith("<result>") else "model",
            "text": text.removesuffix("<|im_end|>"),
            "token_ids": tokenizer(text, add_special_tokens=False)["input_ids"],
        }
        for text in texts
    ]
    calls = sum(each["by"] == "tool" for each in segments)
    return {
        "id": item,
        "sample": sample,
        "task": "math",
        "question": "2+3?",
        "gold": [gold],
        "segments": segments,
        "n_python": calls,
        "n_search": 0,
    }


def labelled(*trajectories: tuple[str, ...]) -> list[Member]:
    """The members of a prompt whose trajectories have these texts."""
    return [member(trace(number, *texts), RewardRule()) for number, texts in enumerate(trajectories)]
