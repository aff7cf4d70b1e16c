"""The application: `/score`, `/health`, `/info`, `/metrics` and the OpenAPI page over a pool of workers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from pydantic.json_schema import models_json_schema

from geneval_reward.judge import CREDITS
from geneval_reward.service.server.guard import App, Guard, RefusedError
from geneval_reward.service.server.limits import Limits
from geneval_reward.service.server.metrics import Metrics
from geneval_reward.service.server.pool import WorkerPool
from geneval_reward.service.server.scoring import answer, parse_request, prepare
from geneval_reward.service.wire import SCORE_PATH, ErrorReply, HealthReply, InfoReply, ScoreReply, ScoreRequest, splice
from geneval_reward.version import __version__

_log = logging.getLogger(__name__)

_IN_THREAD: Final = 2**18
"""Bodies of more bytes are parsed in a thread, so that other connections are served meanwhile."""

_ERRORS: Final = {
    401: "No key, or another server's.",
    408: "The body came too slowly.",
    413: "Too many bytes or images.",
    415: "Neither JSON nor a form.",
    422: "Not a request of this schema.",
    429: "The queue is full; see Retry-After.",
    503: "Not ready, draining or out of memory; see Retry-After.",
    504: "The deadline passed.",
}


@dataclass
class State:
    """What the server is doing.

    Attributes:
        draining: Whether it finishes what it has and takes nothing more.
    """

    draining: bool = False


def make_app(
    pool: WorkerPool,
    limits: Limits | None = None,
    *,
    api_key: str | None = None,
    state: State | None = None,
    metrics: Metrics | None = None,
    compat: App | None = None,
) -> Guard:
    """The ASGI application; it starts and stops the pool in its lifespan.

    Args:
        pool: The workers.
        limits: What it takes on.
        api_key: What clients must send; None if none is needed.
        state: Shared with whoever runs it.
        metrics: Shared with the pool.
        compat: An application for the path `/`: the protocol of another trainer's client.
    """
    limits = limits or Limits()
    state = state or State()
    metrics = metrics or Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        pool.start()
        try:
            yield
        finally:
            await pool.stop()

    app = FastAPI(
        title="geneval-reward",
        version=__version__,
        description="GenEval verdicts and rewards for batches of images.",
        lifespan=lifespan,
        separate_input_output_schemas=False,
    )

    def gate(path: str) -> None:
        if path != SCORE_PATH:
            return
        if state.draining:
            raise RefusedError(503, "server: expected one that takes requests, got one that is shutting down", 1)
        if pool.info is None:
            raise RefusedError(503, "server: expected one that is ready, got one that is starting; ask /health", 2)
        if len(pool.queue) >= limits.max_queue:
            raise RefusedError(429, "queue: expected room, got a full one; try again", pool.retry_after())

    def on_refused(path: str, status: int) -> None:
        metrics.requests.labels(status).inc()

    guard = Guard(app, limits, api_key=api_key, gate=gate, on_refused=on_refused, compat=compat)
    metrics.gauge("geneval_queue_images", "Images that wait for a worker.", lambda: len(pool.queue))
    metrics.gauge("geneval_in_flight_images", "Images that workers have.", lambda: pool.in_flight)
    metrics.gauge("geneval_workers_ready", "Workers that can score.", lambda: pool.ready_workers)
    metrics.gauge("geneval_body_bytes", "Bytes of request bodies in memory.", lambda: guard.memory)

    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> Response:
        reply = ErrorReply(error=error.message, request_id=request.state.request_id)
        headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
        return Response(reply.model_dump_json(), error.status, headers, "application/json")

    @app.post(SCORE_PATH, response_model=ScoreReply, responses=_responses(*_ERRORS), openapi_extra=_request_body())
    async def score(request: Request) -> Response:
        """Judge a batch of images."""
        request_id, begun = request.state.request_id, request.state.begun
        status, count, failed = 499, 0, 0
        try:
            body = request.state.body
            await request.body()  # an empty one; what comes after it is the client's leaving
            arguments = (body, request.headers.get("content-type", ""), limits)
            large = len(body) > _IN_THREAD
            asked, parts = await asyncio.to_thread(parse_request, *arguments) if large else parse_request(*arguments)
            count = len(asked.images)
            prepared = (
                await asyncio.to_thread(prepare, asked, parts, limits) if large else prepare(asked, parts, limits)
            )
            deadline = begun + min(limits.deadline, asked.timeout or limits.deadline)
            answers = await _unless_gone(request, answer(pool, prepared, deadline))
            failed = sum(one.failed for one in answers)
            assert pool.info is not None
            head = ScoreReply(
                request_id=request_id,
                version=__version__,
                backend=pool.info["backend"],
                fingerprint=pool.info["fingerprint"],
                rules=pool.info["rules"],
                credit=asked.credit,
                items=[],
            )
            status = 200
            return Response(splice(head, [one.text for one in answers]), media_type="application/json")
        except RefusedError as error:
            status = error.status
            raise
        finally:
            seconds = time.monotonic() - begun
            metrics.requests.labels(status).inc()
            metrics.seconds.observe(seconds)
            metrics.items.labels("scored").inc(count - failed if status == 200 else 0)
            metrics.items.labels("error").inc(failed)
            client = request.client.host if request.client else "?"
            _log.info(
                "score id=%s client=%s status=%d images=%d errors=%d seconds=%.3f",
                *(request_id, client, status, count, failed, seconds),
            )

    @app.get("/health", response_model=HealthReply, responses={503: {"model": HealthReply}})
    async def health() -> Response:
        """200 once a worker has passed its self-test, 503 before, while draining, and when none can start."""
        ready = pool.ready_workers
        message = ""
        if pool.fatal is not None and not ready:
            status, message = "failed", "no worker can start; look at the log"
        elif state.draining:
            status = "draining"
        else:
            status = "ready" if ready else "starting"
        reply = HealthReply(status=status, workers_ready=ready, workers=len(pool.config.devices), message=message)  # type: ignore[arg-type]
        return Response(reply.model_dump_json(), 200 if status == "ready" else 503, media_type="application/json")

    @app.get("/info", response_model=InfoReply, responses=_responses(401, 503))
    async def info() -> Response:
        """Versions, fingerprint, rules and limits."""
        if pool.info is None:
            raise RefusedError(503, "server: expected one that is ready, got one that is starting; ask /health", 2)
        names = ("backend", "fingerprint", "fingerprint_details", "rules", "batch_size")
        reply = InfoReply(
            version=__version__,
            **{name: pool.info[name] for name in names},
            devices=list(pool.config.devices),
            credits=list(CREDITS),
            limits=limits.to_dict(),
        )
        return Response(reply.model_dump_json(), media_type="application/json")

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}, **_responses(401)})
    async def prometheus() -> Response:
        """Counters for Prometheus."""
        return Response(metrics.text(), headers={"content-type": metrics.content_type})

    _complete_schema(app)
    return guard


async def _unless_gone(request: Request, work: Any) -> Any:
    """The result of some work, given up when the client hangs up."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise RefusedError(499, "client: expected one that waits, got one that has hung up")
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorReply, "description": _ERRORS[status]} for status in statuses}


def _request_body() -> dict[str, Any]:
    """Both forms of a request; the body is parsed by hand, so that limits come before parsing."""
    schema = {"$ref": f"#/components/schemas/{ScoreRequest.__name__}"}
    form = {
        "type": "object",
        "required": ["request"],
        "properties": {
            "request": schema,
            "image": {"type": "array", "items": {"type": "string", "format": "binary"}},
        },
    }
    return {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": schema},
                "multipart/form-data": {"schema": form, "encoding": {"request": {"contentType": "application/json"}}},
            },
        }
    }


def _complete_schema(app: FastAPI) -> None:
    """Add the request's models, which no signature names, and drop FastAPI's own error, which is never sent."""
    made = app.openapi()
    _, definitions = models_json_schema([(ScoreRequest, "validation")], ref_template="#/components/schemas/{model}")
    schemas = made.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(definitions["$defs"])
    app.openapi_schema = made
