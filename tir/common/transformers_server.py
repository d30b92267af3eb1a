"""A small OpenAI-compatible server with transformers, for a machine without a GPU.

It serves `GET /health`, `GET /v1/models` and `POST /v1/chat/completions` (n = 1, greedy, no streaming). With vLLM's
`structured_outputs: {choice: [...]}` the reply is the choice with the highest likelihood per token. So even a tiny
model gives readable verdicts; the calibration measures their accuracy.
"""

from __future__ import annotations

import argparse
import threading
import time
import uuid

import torch
import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict, Field
from transformers import AutoModelForCausalLM, AutoTokenizer


class Message(BaseModel):
    role: str
    content: str


class StructuredOutputs(BaseModel):
    choice: list[str] = Field(min_length=1)


class Request(BaseModel):
    """The supported part of a chat completion request; sampling other than greedy is an error."""

    model_config = ConfigDict(extra="ignore")
    model: str
    messages: list[Message] = Field(min_length=1)
    max_tokens: int = Field(16, ge=1, le=4096)
    temperature: float = 0.0
    n: int = 1
    structured_outputs: StructuredOutputs | None = None


class Replier:
    """Generates replies with one causal language model, one request at a time."""

    def __init__(self, model: str):
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        self._one_at_a_time = threading.Lock()

    @torch.inference_mode()
    def reply(self, messages: list[dict], max_tokens: int, choices: list[str] | None) -> str:
        """The greedy reply to chat messages, or the most likely of `choices`."""
        prompt = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = self.tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids
        room = getattr(self.model.config, "max_position_embeddings", 1 << 30) - max_tokens
        ids = ids[:, -room:]
        with self._one_at_a_time:
            if choices:
                return max(choices, key=lambda choice: self._likelihood(ids, choice))
            out = self.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, do_sample=False
            )
        return self.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)

    def _likelihood(self, ids: torch.Tensor, choice: str) -> float:
        """Mean log-likelihood per token of a choice after a prompt of shape (1, length)."""
        choice_ids = self.tokenizer(choice, return_tensors="pt", add_special_tokens=False).input_ids
        logits = self.model(torch.cat([ids, choice_ids], dim=1)).logits[0, ids.shape[1] - 1 : -1].float()
        return float(torch.log_softmax(logits, -1).gather(1, choice_ids[0][:, None]).mean())


def application(name: str, replier: Replier) -> FastAPI:
    """The web application that serves one model under one name."""
    app = FastAPI()

    @app.get("/health")
    def health() -> dict:
        return {"status": "healthy"}

    @app.get("/v1/models")
    def models() -> dict:
        return {"object": "list", "data": [{"id": name, "object": "model"}]}

    @app.post("/v1/chat/completions")
    def complete(request: Request) -> dict:
        if request.model != name:
            raise HTTPException(404, f"no model {request.model}; this server has {name}")
        if request.temperature or request.n != 1:
            raise HTTPException(400, "only temperature 0 and n = 1 are supported")
        choices = request.structured_outputs.choice if request.structured_outputs else None
        content = replier.reply([message.model_dump() for message in request.messages], request.max_tokens, choices)
        choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
        return {
            "id": uuid.uuid4().hex,
            "object": "chat.completion",
            "created": int(time.time()),
            "model": name,
            "choices": [choice],
        }

    return app


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--model", required=True, help="Hugging Face directory")
    parse.add_argument("--served-model-name", required=True, help="model name in requests")
    parse.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parse.add_argument("--port", type=int, required=True, help="port to listen on")
    options = parse.parse_args()
    torch.set_num_threads(1)
    uvicorn.run(
        application(options.served_model_name, Replier(options.model)),
        host=options.host,
        port=options.port,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
