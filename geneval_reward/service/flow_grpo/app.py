"""The public Flow-GRPO reward server's protocol, without its code execution.

An unmodified Flow-GRPO checkout posts `pickle.dumps({"images": [JPEG bytes], "meta_datas": [dict], "only_strict": bool})` to
`http://127.0.0.1:18085/` and unpickles `{"scores", "rewards", "strict_rewards", "group_rewards", "group_strict_rewards"}`.

Source of the protocol: yifan123/reward-server `app_geneval.py` and yifan123/flow_grpo `flow_grpo/rewards.py` (`geneval_score`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
import time
from collections.abc import Callable
from typing import Any, Final

from fastapi import Request, Response
from starlette.responses import PlainTextResponse

from geneval_reward.errors import GenEvalError, SpecError, UsageError
from geneval_reward.judge.credits import CREDITS
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.service.flow_grpo.reply import FLOW_GRPO, reply_of
from geneval_reward.service.flow_grpo.unpickle import UnpickleError, load_plain_data
from geneval_reward.service.server.door import RefusedError
from geneval_reward.service.server.pool import Item, WorkerPool
from geneval_reward.service.server.requests import collect_answers, shorten, wait_unless_gone

_log = logging.getLogger(__name__)

_RECORD_KEYS: Final = ("tag", "include", "exclude", "prompt")

# The original uses Python's default protocol, which was 4 from Python 3.8 to 3.13; every client since 3.4 reads it.
_PROTOCOL: Final = 4


class RequestError(GenEvalError, ValueError):
    """A request that can never succeed, however often it is sent."""


class FlowGRPO:
    """The endpoint for Flow-GRPO's client.

    That client retries a request a thousand times on status 500, and unpickles the body of any other status. So a request that
    can never succeed gets status 400, 408 or 413 with a pickle that raises the reason as a `ValueError` when it is loaded. A
    busy server answers 503 with `Retry-After`, which the client obeys. Only failures of the server itself return 500, with one
    line of text.

    Args:
        pool: The workers.
        check_ready: Raises `RefusedError` while the server is starting or draining.
        credit: The credit to return as `scores`, the value that is optimised; the public server uses `flow_grpo`.

    Raises:
        UsageError: If the credit is unknown.
    """

    def __init__(self, pool: WorkerPool, check_ready: Callable[[], Any], *, credit: str = "flow_grpo") -> None:
        if credit not in CREDITS:
            raise UsageError(f"credit: expected one of {', '.join(CREDITS)}, got {credit!r}")
        self._pool = pool
        self._limits = pool.config.limits
        self._check_ready = check_ready
        self._credit = credit

    async def score(self, request: Request) -> Response:
        """Score a batch."""
        client = request.client.host if request.client else "an unnamed client"
        begun = time.monotonic()
        try:
            data = await request.body()
            self._check_ready()
            deadline = begun + self._limits.deadline
            items, only_strict = await asyncio.to_thread(self._read, data, deadline)
            answers = await wait_unless_gone(request, collect_answers(self._pool, items, deadline))
            rows = [json.loads(answer.text) for answer in answers]
            failed = next((row["error"] for answer, row in zip(answers, rows, strict=True) if answer.failed), None)
            if failed is not None:
                # The image was already retried alone, so the same request would fail again.
                raise RequestError(failed)
            _log.info("flow-grpo: %d images of %s in %.2f s", len(rows), client, time.monotonic() - begun)
            return _pickled(reply_of(rows, only_strict=only_strict), 200)
        except RefusedError as error:
            if error.status in (400, 408, 413):
                return _complaint(client, error.status, error.message)
            _log.warning("flow-grpo: asked %s to come back: %s", client, error.message)
            text = "geneval-reward: expected fewer requests at once, got too many; send it again\n"
            return PlainTextResponse(text, status_code=503, headers={"Retry-After": str(error.retry_after or 1)})
        except (RequestError, UnpickleError, SpecError) as error:
            return _complaint(client, 400, str(error))
        except Exception:  # noqa: BLE001 - the client must get an answer and the log the reason
            _log.exception("flow-grpo: a batch of %s failed", client)
            text = "geneval-reward: expected to score the batch, got an error of the server's own; see its log\n"
            return PlainTextResponse(text, status_code=500)

    def _read(self, data: bytes, deadline: float) -> tuple[list[Item | str], bool]:
        """Read the items of a request. Its JPEGs are decoded only in the workers."""
        body = load_plain_data(data)
        if type(body) is not dict or not {"images", "meta_datas", "only_strict"} <= body.keys():
            raise RequestError("request: expected a dict with images, meta_datas and only_strict, got something else")
        files, records = body["images"], body["meta_datas"]
        if type(files) not in (list, tuple) or type(records) not in (list, tuple):
            raise RequestError("request: expected lists of images and of meta_datas, got something else")
        most = self._limits.max_items
        if not 0 < len(files) <= most or len(files) != len(records):
            raise RequestError(
                f"request: expected 1 to {most} images and as many meta_datas, got {len(files)} and {len(records)}"
            )
        items: list[Item | str] = []
        for index, (file, record) in enumerate(zip(files, records, strict=True)):
            spec = _parse_record(record, f"meta_datas[{index}]")
            where = f"images[{index}]"
            if type(file) not in (bytes, bytearray):
                raise RequestError(f"{where}: expected the bytes of a JPEG, got {type(file).__name__}")
            head = {"format": "jpeg", "where": where, "spec": spec.to_json(), "credit": self._credit}
            items.append(Item(head | {"protocol": FLOW_GRPO}, bytes(file), deadline))
        return items, bool(body["only_strict"])


def _parse_record(record: Any, where: str) -> PromptSpec:
    if type(record) is not dict:
        raise RequestError(f"{where}: expected a dict, got {type(record).__name__}")
    try:
        # Other keys come from the data set's rows; the public server ignores them too.
        return PromptSpec.parse({key: record[key] for key in _RECORD_KEYS if key in record})
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from error


def _pickled(value: Any, status: int) -> Response:
    return Response(pickle.dumps(value, _PROTOCOL), status, media_type="application/octet-stream")


def _complaint(client: str, status: int, message: str) -> Response:
    message = shorten(message)
    _log.warning("flow-grpo: refused a request of %s: %s", client, message)
    return _pickled(_Complaint(f"geneval-reward: {message}"), status)


class _Complaint:
    """Pickles as a call of `float` with the message, which raises it in the client: the only way to report an error."""

    def __init__(self, message: str) -> None:
        self._message = message

    def __reduce__(self) -> tuple[Any, ...]:
        return float, (self._message,)
