"""The application: `/score`, `/health`, `/info`, `/metrics` and the OpenAPI page over a pool of workers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from pydantic.json_schema import models_json_schema

from geneval_reward.judge.credits import CREDITS
from geneval_reward.service.flow_grpo.app import FlowGRPO
from geneval_reward.service.server.door import Door, RefusedError
from geneval_reward.service.server.metrics import Metrics
from geneval_reward.service.server.pool import WorkerPool
from geneval_reward.service.server.requests import collect_answers, make_items, read_request, wait_unless_gone
from geneval_reward.service.wire import SCORE_PATH, ErrorReply, HealthReply, InfoReply, ScoreReply, ScoreRequest, splice
from geneval_reward.version import __version__

_log = logging.getLogger(__name__)

_ERRORS: Final = {
    400: "A body with two lengths.",
    401: "No key, or that of another server.",
    403: "A request of a web page, or by a foreign host name, to a server without a key.",
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
    """State of the server.

    Attributes:
        draining: Whether it is finishing requests in flight and refusing new ones.
    """

    draining: bool = False


def make_app(
    pool: WorkerPool,
    *,
    api_key: str | None = None,
    hosts: Collection[str] | None = None,
    state: State | None = None,
    metrics: Metrics | None = None,
    flow_grpo_credit: str | None = None,
) -> Door:
    """Make the ASGI application, whose lifespan starts and stops the pool.

    Args:
        pool: The workers.
        api_key: The key that clients must send; None if none is needed.
        hosts: Names allowed in the Host header, as for `Door`.
        state: State shared with the code that runs the application.
        metrics: Metrics shared with the pool.
        flow_grpo_credit: Also answer Flow-GRPO's own client on the path `/`, with this credit as `scores`.
    """
    limits = pool.config.limits
    state = state or State()
    metrics = metrics or Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        pool.start()
        try:
            yield
        finally:
            await asyncio.to_thread(pool.stop)

    app = FastAPI(
        title="geneval-reward",
        version=__version__,
        description="GenEval verdicts and rewards for batches of images.",
        lifespan=lifespan,
        separate_input_output_schemas=False,
    )

    def ready_info() -> dict[str, Any]:
        if state.draining:
            raise RefusedError(503, "server: expected one that takes requests, got one that is shutting down", 1)
        if pool.info is None:
            raise RefusedError(503, "server: expected one that is ready, got one that is starting; ask /health", 2)
        return pool.info

    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> Response:
        return error.response(request.state.request_id)

    @app.post(SCORE_PATH, response_model=ScoreReply, responses=_responses(*_ERRORS), openapi_extra=_request_body())
    async def score(request: Request) -> Response:
        """Judge a batch of images."""
        request_id, begun = request.state.request_id, request.state.begun
        status, count, failed = 499, 0, 0
        try:
            asked, parts = await read_request(request, limits)
            info, count = ready_info(), len(asked.images)
            deadline = begun + min(limits.deadline, asked.timeout or limits.deadline)
            items = await asyncio.to_thread(make_items, asked, parts, deadline)
            answers = await wait_unless_gone(request, collect_answers(pool, items, deadline))
            failed = sum(answer.failed for answer in answers)
            head = ScoreReply(
                request_id=request_id,
                version=__version__,
                backend=info["backend"],
                fingerprint=info["fingerprint"],
                rules=info["rules"],
                credit=asked.credit,
                items=[],
            )
            status = 200
            return Response(splice(head, [answer.text for answer in answers]), media_type="application/json")
        except RefusedError as error:
            status = error.status
            raise
        finally:
            seconds = time.monotonic() - begun
            metrics.request_done(status, seconds, count, failed)
            _log.info(
                "score id=%s client=%s status=%d images=%d errors=%d seconds=%.3f",
                *(request_id, request.client.host if request.client else "?", status, count, failed, seconds),
            )

    if flow_grpo_credit is not None:
        flow_grpo = FlowGRPO(pool, ready_info, credit=flow_grpo_credit)
        app.add_api_route("/", flow_grpo.score, methods=["POST"], include_in_schema=False)

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

    @app.get("/info", response_model=InfoReply, responses=_responses(401, 403, 503))
    async def info() -> InfoReply:
        """Versions, fingerprint, rules and limits."""
        return InfoReply(
            version=__version__,
            **ready_info(),
            devices=list(pool.config.devices),
            credits=list(CREDITS),
            limits=limits.to_dict(),
        )

    @app.get(
        "/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}, **_responses(401, 403)}
    )
    async def prometheus() -> Response:
        """Counters for Prometheus."""
        return Response(metrics.text(), headers={"content-type": metrics.content_type})

    _add_request_schema(app)
    door = Door(
        app,
        limits,
        api_key=api_key,
        keyless_paths=() if flow_grpo_credit is None else ("/",),
        hosts=hosts,
        on_refused=metrics.request_refused,
    )
    metrics.gauge("geneval_queue_images", "Images that wait for a worker.", lambda: pool.waiting)
    metrics.gauge("geneval_in_flight_images", "Images that workers have.", lambda: pool.in_flight)
    metrics.gauge("geneval_workers_ready", "Workers that can score.", lambda: pool.ready_workers)
    metrics.gauge("geneval_body_bytes", "Bytes of request bodies in memory.", lambda: door.memory)
    return door


def _responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorReply, "description": _ERRORS[status]} for status in statuses}


def _request_body() -> dict[str, Any]:
    """Describe both forms of a request. FastAPI allows one body per path, and would read it before limits are checked."""
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


def _add_request_schema(app: FastAPI) -> None:
    made = app.openapi()
    _, definitions = models_json_schema([(ScoreRequest, "validation")], ref_template="#/components/schemas/{model}")
    made.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
    app.openapi_schema = made
