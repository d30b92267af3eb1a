"""A teacher behind an OpenAI-compatible API, as an engine of the rollout loop.

Two kinds of failure are kept apart. A request that the server answers with an error, a refusal or no usable reply costs
its question, with a reason (`TeacherLost`). A server that is gone, or accepts no request at all, stops the run
(`TeacherUnavailable`); the questions answered so far are kept.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import httpx
from pydantic import SecretStr

from tir.common.errors import InfrastructureFault
from tir.common.http import Refused, Service, ask_once
from tir.rollout.engines.base import Completion, Sampling
from tir.synthesis.characters import END, PER_TOKEN, CharacterTokenizer, messages_of
from tir.synthesis.prompts import CONTINUE

if TYPE_CHECKING:
    from tir.config.synthesis import Teacher

_REMEDY = (
    "start it or correct synthesis.teacher.endpoint in config.yaml, then run the same command again; "
    "the questions answered so far are kept"
)
_OPEN_CALL = re.compile(r"<(python|search)>(?!.*</\1>)", re.DOTALL)
_DENIED = (401, 402, 403, 404, 405)  # of the whole server, not of one request


class TeacherUnavailable(InfrastructureFault):
    """The teacher's server cannot be reached, or accepts no request."""


class TeacherLost(Exception):
    """The teacher gave no usable reply to one question.

    Attributes:
        reason: `refused`, `failed` or `unreadable`.
        why: what the server said.
    """

    def __init__(self, reason: str, why: str):
        self.reason, self.why = reason, why
        super().__init__(f"{reason}: {why}")


class ChatEngine:
    """See `tir.rollout.engines.base.Engine`; its tokens are characters.

    Args:
        teacher: the section `synthesis.teacher`, with an endpoint.
        key: bearer token, if the server needs one.
        attempts: largest number of attempts of a request.
    """

    def __init__(self, teacher: Teacher, key: SecretStr | None = None, *, attempts: int = 4):
        self.teacher, self.tokenizer = teacher, CharacterTokenizer()
        self._service = Service(
            teacher.endpoint or "",
            TeacherUnavailable,
            "the teacher",
            key=key,
            timeout_s=teacher.timeout_s,
            retry_budget_s=teacher.retry_s,
            attempts=attempts,
            concurrency=4 * teacher.concurrency,
            remedy=_REMEDY,
        )

    async def generate(
        self, prompt_ids: list[int], *, max_tokens: int, sampling: Sampling, stop: tuple[str, ...], request_id: str
    ) -> Completion:
        """Continue one prompt. Raises `TeacherLost` or `TeacherUnavailable`."""
        messages = messages_of(self.tokenizer.decode(prompt_ids))
        if messages[-1]["role"] == "assistant":
            messages.append({"role": "user", "content": CONTINUE})
        body = {
            "model": self.teacher.model,
            "messages": messages,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": max(1, max_tokens // PER_TOKEN),
            "stop": list(stop),
            **({} if sampling.seed is None else {"seed": sampling.seed}),
        }
        text, finish = await self._ask(body)
        text = self.tokenizer.decode(self.tokenizer(text, split_special_tokens=True)["input_ids"])
        if finish != "length":  # servers leave out the stop string, and do not say which one it was
            opened = _OPEN_CALL.search(text)
            text += f"</{opened[1]}>" if opened else ""
            finish = "stop" if opened or text.rstrip().endswith(stop) else "eos"
        return Completion([*map(ord, text + (END if finish == "eos" else ""))], finish=finish)

    async def _ask(self, body: dict[str, Any]) -> tuple[str, str]:
        """The text of the reply and its `finish_reason`."""
        try:
            content, finish = await self._service.post("/chat/completions", body, _reply)
        except Refused as refused:
            if refused.status in _DENIED:
                raise self._service.fault(str(refused)) from None
            raise TeacherLost("refused", str(refused)) from None
        except TeacherUnavailable as fault:
            # A server that answers at all has failed at this request only; a used-up quota concerns every request.
            if "status 429" in fault.why or not await asyncio.to_thread(self._answers):
                raise
            raise TeacherLost("unreadable" if "malformed answer" in fault.why else "failed", fault.why) from None
        if finish == "content_filter":
            raise TeacherLost("refused", "the server's content filter removed the reply")
        if not content or not content.strip():
            raise TeacherLost("unreadable", "the reply has no text")
        return content, finish

    def _answers(self) -> bool:
        try:
            ask_once("GET", f"{self.teacher.endpoint}/models", min(10.0, self.teacher.timeout_s))
        except httpx.HTTPError:
            return False
        return True

    async def close(self) -> None:
        """Nothing to close: the server is not ours."""


def _reply(answer: Any) -> tuple[str | None, str]:
    choice = answer["choices"][0]
    content = choice["message"].get("content")
    if choice["message"].get("refusal"):
        return None, "content_filter"
    if not isinstance(content, str | None):
        raise TypeError(f"content is {type(content).__name__}, not text")
    return content, choice.get("finish_reason") or "stop"
