"""The HTTP interfaces of the retrieval server: FlashRAG's, and Search-R1's `/retrieve`.

    GET  /health                                          {"status": "healthy", "retrievers": {"total", "available"}}
    POST /search       {query, top_n=10, return_score}    [{id, contents}, ...]  or  [[...], [scores]]
    POST /batch_search {query: [...], top_n, ...}         [[...], ...]           or  [[[...], ...], [[scores], ...]]
    POST /retrieve     {queries: [...], topk=3, return_scores}
                       {"result": [[{id, contents}, ...], ...]}  or  {"result": [[{document, score}, ...], ...]}

Every answer has the index digest in the header `x-index-digest`. A request may ask for at most 4,096 queries and
40,960 passages in all. When the files of the index change, `/health` and searches answer 503.
"""

from __future__ import annotations

import contextlib
import difflib
import hmac
import time
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel, Field, model_validator

from tir.common.errors import TirError
from tir.common.unicode import replace_surrogates
from tir.retrieval.batching import MicroBatcher
from tir.retrieval.client import INDEX_HEADER, TOKEN_VARIABLE
from tir.retrieval.index import Index

MOST_QUERIES, MOST_PASSAGES = 4096, 40_960
Query = Annotated[
    str, AfterValidator(replace_surrogates)
]  # a lone surrogate would fail the tokenizer and the whole batch
Count = Annotated[int, Field(ge=1, le=1000)]
Queries = Annotated[list[Query], Field(max_length=MOST_QUERIES)]


class Body(BaseModel):
    """Body of a request. An unknown field is refused: it would be a misspelt one, or one of the other interface."""

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        for name in given if isinstance(given, dict) else ():
            if name not in cls.model_fields:
                shown = replace_surrogates(name[:40])
                near = difflib.get_close_matches(shown, cls.model_fields, 1, 0.5)
                meant = f"did you mean `{near[0]}`?" if near else f"the fields are {', '.join(cls.model_fields)}"
                raise ValueError(f"unknown field `{shown}`: {meant}")
        return given


class SearchRequest(Body):
    """Body of /search."""

    query: Query
    top_n: Count = 10
    return_score: bool = False


class BatchSearchRequest(Body):
    """Body of /batch_search."""

    query: Queries
    top_n: Count = 10
    return_score: bool = False

    @model_validator(mode="after")
    def _bounded(self) -> BatchSearchRequest:
        _check_passages(len(self.query), self.top_n, "top_n")
        return self


class RetrieveRequest(Body):
    """Body of /retrieve, as Search-R1's clients send it."""

    queries: Queries
    topk: Count | None = None
    return_scores: bool = False

    @model_validator(mode="after")
    def _bounded(self) -> RetrieveRequest:
        self.topk = self.topk or 3  # as Search-R1's server
        _check_passages(len(self.queries), self.topk, "topk")
        return self


def _check_passages(queries: int, passages: int, name: str) -> None:
    if queries * passages > MOST_PASSAGES:
        raise ValueError(
            f"{queries:,} queries with {name} {passages:,} ask for more than {MOST_PASSAGES:,} passages; send at most "
            f"{MOST_PASSAGES // passages:,} queries at a time"
        )


def create_app(
    index: Index,
    *,
    token: str | None = None,
    max_batch: int = 256,
    window_s: float = 0.005,
    cache_size: int = 10_000,
    changed: Callable[[], str] = lambda: "",
) -> FastAPI:
    """The FastAPI application for one index.

    Args:
        index: the index, searched on one worker thread.
        token: if given, searches without this token get status 401.
        max_batch: largest number of queries per search; see `MicroBatcher`.
        window_s: longest time that the first query waits for others, in seconds.
        cache_size: number of cached results.
        changed: what has changed in the files of the index since it was loaded, or "" (`tir.retrieval.files.Watch`).
    """
    batcher = MicroBatcher(index, max_batch=max_batch, window_s=window_s, cache_size=cache_size)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        yield
        await batcher.stop()

    async def authorised(request: Request) -> None:  # async, because FastAPI runs plain functions on other threads
        authorization = request.headers.get("authorization", "")
        if token and not hmac.compare_digest(authorization.encode("latin-1"), f"Bearer {token}".encode()):
            raise HTTPException(401, f"searches need the token in {TOKEN_VARIABLE}", {"WWW-Authenticate": "Bearer"})
        app.state.searched = time.monotonic()

    app = FastAPI(title="retrieval", lifespan=lifespan, openapi_url=None)
    app.state.batcher, app.state.searched = batcher, time.monotonic()
    identity = {INDEX_HEADER: index.digest}

    async def find(queries: list[str], count: int) -> tuple[list[list[dict]], list[list[float]]]:
        if why := changed():
            raise HTTPException(503, why)
        try:
            results = await batcher.search(queries, count)
        except TirError as error:
            raise HTTPException(500, str(error)) from error
        documents = [[{"id": passage.id, "contents": passage.contents} for passage in passages] for passages in results]
        return documents, [[passage.score for passage in passages] for passages in results]

    @app.exception_handler(RequestValidationError)
    async def refuse(_: Request, error: RequestValidationError) -> Response:
        # FastAPI's default answer contains the invalid value, which fails for NaN and infinity: JSON has neither.
        return JSONResponse(
            {"detail": [{key: fault[key] for key in ("type", "loc", "msg")} for fault in error.errors()]}, 422
        )

    @app.get("/health")
    async def health() -> Response:
        why = changed()
        answer = {"status": "unhealthy" if why else "healthy", "retrievers": {"total": 1, "available": 0 if why else 1}}
        return JSONResponse(answer | ({"detail": why} if why else {}), 503 if why else 200, headers=identity)

    @app.post("/search", dependencies=[Depends(authorised)])
    async def search(body: SearchRequest) -> Response:
        if not body.query.strip():
            raise HTTPException(400, "the query is blank")
        documents, scores = await find([body.query], body.top_n)
        return JSONResponse([documents[0], scores[0]] if body.return_score else documents[0], headers=identity)

    @app.post("/batch_search", dependencies=[Depends(authorised)])
    async def batch_search(body: BatchSearchRequest) -> Response:
        documents, scores = await find(body.query, body.top_n)
        return JSONResponse([documents, scores] if body.return_score else documents, headers=identity)

    @app.post("/retrieve", dependencies=[Depends(authorised)])
    async def retrieve(body: RetrieveRequest) -> Response:
        found, scores = await find(body.queries, body.topk)
        if body.return_scores:
            found = [
                [{"document": document, "score": score} for document, score in zip(*each, strict=True)]
                for each in zip(found, scores, strict=True)
            ]
        return JSONResponse({"result": found}, headers=identity)

    return app
