"""The public Flow-GRPO reward server's protocol, without its code execution: `make_app(scorer)` is an ASGI app.

An unmodified Flow-GRPO checkout posts `pickle.dumps({"images": [JPEG bytes], "meta_datas": [dict], "only_strict": bool})` to
`http://127.0.0.1:18085/` and unpickles `{"scores", "rewards", "strict_rewards", "group_rewards", "group_strict_rewards"}`.

Source of the protocol and of the rewards: yifan123/reward-server `app_geneval.py` and `reward_server/gen_eval.py`, and
yifan123/flow_grpo `flow_grpo/rewards.py` (`geneval_score`), whose quirks are kept where they change a number:

* the detector sees red and blue swapped (the server hands RGB arrays to mmdet, which expects BGR);
* images are JPEG;
* `scores` are the `flow_grpo` credit, the strict verdict does not read `exclude`, and `only_strict` answers 0 for
  `rewards`.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import torch

from geneval_reward.errors import ImageError, SpecError, UsageError
from geneval_reward.judge.detections import Detections
from geneval_reward.judge.verdict import CREDITS, Verdict
from geneval_reward.prompts.vocabulary import TAGS
from geneval_reward.scorer import GenEvalScorer
from geneval_reward.service.flow_grpo.request import Capacity, RequestError, read_request
from geneval_reward.service.flow_grpo.unpickle import UnpickleError, restricted_loads
from geneval_reward.vision.protocols import Detector, Wanted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["BatchScorer", "Capacity", "RequestError", "make_app", "reply"]

_log = logging.getLogger(__name__)

_MAX_MESSAGE: Final = 400  # characters; a reason quotes what came, and what came may be long

NOT_THIS_TAG: Final = -10.0
"""What stands in a group's list at an image of another task; the client filters by it."""

# The original pickles by Python's default, which was 4 from Python 3.8 to 3.13; every client since 3.4 reads it.
_PROTOCOL: Final = 4


class BatchScorer(Protocol):
    """What the app needs of a scorer: a `GenEvalScorer`, or a pool of workers with its face."""

    @property
    def name(self) -> str:
        """The backend."""
        ...

    @property
    def fingerprint_id(self) -> str:
        """What decides the answers, in twelve hex digits."""
        ...

    @property
    def detector(self) -> Any:
        """What is asked for `swap_rb`."""
        ...

    def score(self, images: Any, specs: Sequence[Any], /) -> list[Verdict]:
        """Judge a batch; called from several threads."""
        ...


def make_app(
    scorer: BatchScorer,
    *,
    credit: str = "flow_grpo",
    swap_rb: bool | None = None,
    capacity: Capacity | None = None,
) -> Starlette:
    """An ASGI app that answers the public Flow-GRPO client.

    `POST /` scores; `GET /health` says what is loaded. Bodies go through
    `geneval_reward.service.flow_grpo.unpickle.restricted_loads`, never through `pickle.loads`. There is no password in this
    protocol: bind it to the loopback address.

    The public client repeats a request a thousand times upon status 500 and unpickles whatever comes with another status. So a
    request that can never succeed gets status 400 or 413 with a pickle that raises the reason, as a `ValueError`, where it is
    loaded; a busy server answers 503 with `Retry-After`, which the client obeys; and only failures of the server are a 500,
    with one line of text.

    Args:
        scorer: Judges the images.
        credit: What to answer as `scores`, the value that is optimised. `flow_grpo` is the public one; see
            `Verdict` for the others.
        swap_rb: Show the detector red and blue swapped, as the public server does. None: only to detectors with the public
            server's weights (`paper`, `mmdet`), which then answer its numbers.
        capacity: Limits.

    Returns:
        The app, for example for `uvicorn.run(app, port=18085)`.

    Raises:
        ValueError: For an unknown credit, or a swap that the scorer's workers would have to make.
        ModuleNotFoundError: Without the extra `geneval_reward[serve]`.
    """
    try:
        from starlette.applications import Starlette
        from starlette.routing import Route
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error.name}: expected the server's libraries, got none; pip install 'geneval-reward[serve]'"
        ) from error
    if credit not in CREDITS:
        raise UsageError(f"credit: expected one of {', '.join(CREDITS)}, got {credit!r}")
    if swap_rb is None:
        swap_rb = scorer.name in ("paper", "mmdet")
    if swap_rb and not _is_swapped(scorer.detector):
        if not isinstance(scorer, GenEvalScorer):
            raise UsageError(
                f"swap_rb: expected a GenEvalScorer to wrap, got {type(scorer).__name__}; swap in its workers"
            )
        scorer = _with_swap(scorer)
    server = _Server(scorer, credit, capacity or Capacity())

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        server.threads.shutdown(wait=True)

    routes = [Route("/", server.score, methods=["POST"]), Route("/health", server.health, methods=["GET"])]
    return Starlette(routes=routes, lifespan=lifespan)


def reply(verdicts: Sequence[Verdict], *, only_strict: bool, credit: str = "flow_grpo") -> dict[str, Any]:
    """The public server's answer for a batch, as it pickles it.

    Args:
        verdicts: One per image.
        only_strict: Whether to leave `rewards` and `group_rewards` at 0, as the public server does to save time.
        credit: What to answer as `scores`.

    Returns:
        `scores`, `rewards` (official, 0.0 or 1.0) and `strict_rewards` (0.0 or 1.0), lists as long as the batch;
        `group_rewards` and `group_strict_rewards`, such a list per tag with -10.0 at the images of other tags.
    """
    strict = [float(_strict_without_exclude(verdict)) for verdict in verdicts]
    rewards = [0.0 if only_strict else float(verdict.correct) for verdict in verdicts]
    tags = [verdict.spec.tag for verdict in verdicts]

    def by_tag(values: list[float]) -> dict[str, list[float]]:
        return {
            tag: [value if tag == own else NOT_THIS_TAG for own, value in zip(tags, values, strict=True)]
            for tag in TAGS
        }

    return {
        "scores": [verdict.credit(credit) for verdict in verdicts],
        "rewards": rewards,
        "strict_rewards": strict,
        "group_rewards": by_tag(rewards),
        "group_strict_rewards": by_tag(strict),
    }


def _strict_without_exclude(verdict: Verdict) -> bool:
    return not any(finding.reason for finding in verdict.strict_findings if finding.kind != "exclude")


class _Server:
    def __init__(self, scorer: BatchScorer, credit: str, capacity: Capacity) -> None:
        self.scorer = scorer
        self.credit = credit
        self.capacity = capacity
        self.waiting = 0
        self.held_bytes = 0
        # More than one: a request is decoded while another is scored.
        self.threads = ThreadPoolExecutor(capacity.concurrency, thread_name_prefix="geneval-flow-grpo")
        self.places = asyncio.Semaphore(capacity.concurrency)

    async def health(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        return JSONResponse(
            {
                "status": "ready",
                "protocol": "flow-grpo",
                "credit": self.credit,
                "swap_rb": _is_swapped(self.scorer.detector),
                "backend": self.scorer.name,
                "fingerprint": self.scorer.fingerprint_id,
                "waiting": self.waiting,
            }
        )

    async def score(self, request: Request) -> Response:
        from starlette.responses import PlainTextResponse, Response

        from geneval_reward.service.server.guard import RefusedError

        peer = request.client.host if request.client else "an unnamed client"
        if self.waiting >= self.capacity.waiting:
            return self._busy(peer)
        self.waiting += 1
        held = [0]
        try:
            data = await asyncio.wait_for(self._read(request, held), self.capacity.body_seconds)
            if data is None:
                return self._busy(peer)
            async with self.places:
                # A client that gave up sends the batch anew; the old one need not be scored.
                if await request.is_disconnected():
                    _log.info("flow-grpo: %s left before its turn", peer)
                    return Response(status_code=499)
                loop = asyncio.get_running_loop()
                return Response(
                    await loop.run_in_executor(self.threads, self._answer, data, peer),
                    media_type="application/octet-stream",
                )
        except RefusedError as error:
            return self._busy(peer, error.message)
        except TimeoutError:
            return self._refuse(
                peer, 408, f"expected the body within {self.capacity.body_seconds:g} s, got only a part"
            )
        except _TooLargeError as error:
            return self._refuse(peer, 413, str(error))
        except (RequestError, UnpickleError, ImageError, SpecError) as error:
            return self._refuse(peer, 400, str(error))
        except Exception:  # noqa: BLE001 - whatever broke, the client must get an answer and the log the reason.
            _log.exception("flow-grpo: a batch of %s failed", peer)
            text = "geneval-reward: expected to score the batch, got an error of the server's own; see its log\n"
            return PlainTextResponse(text, status_code=500)
        finally:
            self.waiting -= 1
            self.held_bytes -= held[0]

    async def _read(self, request: Request, held: list[int]) -> bytes | None:
        """The body; None if there is no room for it now."""
        limit = self.capacity.pickle.max_bytes
        declared = request.headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > limit:
            raise _TooLargeError(f"body: expected at most {limit:,} bytes, got {int(declared):,}; send fewer images")
        chunks = []
        async for chunk in request.stream():
            held[0] += len(chunk)
            self.held_bytes += len(chunk)
            if held[0] > limit:
                raise _TooLargeError(f"body: expected at most {limit:,} bytes, got more; send fewer images")
            if self.held_bytes > self.capacity.bytes:
                return None
            chunks.append(chunk)
        return b"".join(chunks)

    def _answer(self, data: bytes, peer: str) -> bytes:
        start = time.perf_counter()
        images, specs, only_strict = read_request(restricted_loads(data, self.capacity.pickle), self.capacity)
        verdicts = self.scorer.score(images, specs)
        _log.info("flow-grpo: %d images of %s in %.2f s", len(images), peer, time.perf_counter() - start)
        return pickle.dumps(reply(verdicts, only_strict=only_strict, credit=self.credit), protocol=_PROTOCOL)

    def _refuse(self, peer: str, status: int, message: str) -> Response:
        from starlette.responses import Response

        message = message if len(message) <= _MAX_MESSAGE else f"{message[:_MAX_MESSAGE]}..."
        _log.warning("flow-grpo: refused a request of %s: %s", peer, message)
        return Response(
            pickle.dumps(_Complaint(f"geneval-reward: {message}"), protocol=_PROTOCOL),
            status_code=status,
            media_type="application/octet-stream",
        )

    def _busy(self, peer: str, why: str = "too many requests or bytes at once") -> Response:
        from starlette.responses import PlainTextResponse

        _log.warning("flow-grpo: told %s to come back, with %d requests here: %s", peer, self.waiting, why)
        text = "geneval-reward: expected fewer requests at once, got too many; send it again\n"
        return PlainTextResponse(text, status_code=503, headers={"Retry-After": "1"})


class _TooLargeError(Exception):
    """A body beyond the limit."""


class _Complaint:
    """Pickles as a call of `float` with the message, which raises it in the client: its only way to be told."""

    def __init__(self, message: str) -> None:
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        return float, (self.message,)


@dataclass(eq=False)
class _RedBlueSwapped:
    """A detector that is shown red and blue swapped, as the public server does by mistake."""

    detector: Detector

    @property
    def name(self) -> str:
        return self.detector.name

    def detect(self, images: Sequence[torch.Tensor], wanted: Sequence[Wanted]) -> list[Detections]:
        return self.detector.detect([image.flip(0) for image in images], wanted)

    def fingerprint(self) -> dict[str, Any]:
        return {**self.detector.fingerprint(), "swap_rb": True}

    def to(self, device: torch.device | str) -> _RedBlueSwapped:
        self.detector.to(device)
        return self


def _is_swapped(detector: Any) -> bool:
    return isinstance(detector, _RedBlueSwapped) or bool(getattr(detector, "swap_rb", False))


def _with_swap(scorer: GenEvalScorer) -> GenEvalScorer:
    """The scorer itself if its detector swaps already, else one with the same parts and a swap before the detector."""
    if _is_swapped(scorer.detector):
        return scorer
    return GenEvalScorer(
        _RedBlueSwapped(scorer.detector),  # type: ignore[arg-type]
        scorer.verifier,
        rules=scorer.rules,
        batch_size=scorer.batch_size,
        min_confidence=scorer.min_confidence,
        all_classes=scorer.all_classes,
        name=scorer.name,
    )
