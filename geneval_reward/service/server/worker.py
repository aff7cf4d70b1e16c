"""A worker process: one scorer on one device, fed by the server over a socket pair.

Started by the pool as `python -m geneval_reward.service.server.worker FD`. It decodes the next batch while it scores one, and
ends when the server's side of the socket is closed. Images are decoded here, so that a decoder that crashes
takes a replaceable process with it and not the server.
"""

from __future__ import annotations

import io
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from geneval_reward.errors import GenEvalError, ImageError, SelfTestError
from geneval_reward.imports import import_object
from geneval_reward.judge import Verdict
from geneval_reward.prompts import PromptSpec
from geneval_reward.scorer import GenEvalScorer
from geneval_reward.service.server import frames
from geneval_reward.service.wire import ItemReply, VerdictPayload
from geneval_reward.vision.images import as_image
from geneval_reward.vision.photos import PHOTOS, photo

_log = logging.getLogger(__name__)

_BROKEN_DEVICE: Final = 70
"""Exit status when a device error makes every later call fail; a fresh process may well work."""


def main(fd: int) -> int:
    """Serve batches until the server is gone; returns an exit status."""
    # The server says when to end; a Ctrl-C in its terminal reaches the whole process group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A signal to the whole group (timeout, supervisors, Slurm) is the server's to answer: it drains, then closes the socket.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sock = socket.socket(fileno=fd)
    message = frames.receive(sock)
    if message is None:
        return 0
    config = message[0]
    logging.basicConfig(level=config["log_level"], format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        scorer = load(config)
        info = describe(scorer, config["device"])
    except (GenEvalError, ValueError, ImportError, AttributeError, RuntimeError, OSError) as error:
        frames.send(sock, {"kind": "failed", "error": f"{type(error).__name__}: {error}"})
        return 1
    frames.send(sock, {"kind": "ready", **info})
    _serve(sock, scorer, config)
    return 0


def load(config: dict[str, Any]) -> GenEvalScorer:
    """The scorer that a configuration asks for, tested.

    Args:
        config: `backend` with `options` for `GenEvalScorer.from_pretrained`, or `factory`, a `module:function`
            that makes a scorer of the `options`; `device`, `threads`; `swap_rb` for Flow-GRPO's numbers.

    Raises:
        SelfTestError: If it does not judge the packaged photographs as it must.
    """
    if config["threads"]:
        torch.set_num_threads(config["threads"])
    options = config["options"]
    if config["factory"] is None:
        scorer = GenEvalScorer.from_pretrained(config["backend"], device=config["device"], **options)
        known = True
    else:
        scorer = import_object(config["factory"], "scorer")(**options)
        known = False
    self_test(scorer, known=known)
    if config["swap_rb"] and scorer.name in ("paper", "mmdet"):
        from geneval_reward.service.flow_grpo.app import _with_swap

        scorer = _with_swap(scorer)
    return scorer


def self_test(scorer: GenEvalScorer, *, known: bool) -> None:
    """Judge a packaged photograph under a true and a false record.

    Args:
        scorer: What to test.
        known: Whether it is one of the package's backends, whose verdicts are known; of others only answers are asked.

    Raises:
        SelfTestError: If it does not answer, or a backend answers wrongly.
    """
    shot = PHOTOS["chelsea"]
    verdicts = scorer.score([photo("chelsea")] * 2, [shot.record, shot.false_record])
    got = [verdict.correct for verdict in verdicts]
    if len(got) != 2 or (known and got != [True, False]):
        raise SelfTestError(
            f"self-test: expected the verdicts [True, False] for a photograph of a cat, got {got}; run `geneval-reward doctor`"
        )


def describe(scorer: GenEvalScorer, device: str) -> dict[str, Any]:
    """What the server tells about its scorer."""
    return {
        "backend": scorer.name,
        "fingerprint": scorer.fingerprint_id,
        "fingerprint_details": scorer.fingerprint(),
        "rules": scorer.rules.to_dict(),
        "batch_size": scorer.batch_size,
        "device": device,
    }


def decode(image: dict[str, Any], data: memoryview, max_pixels: int, where: str = "image") -> torch.Tensor:
    """The pixels of an item.

    Args:
        image: `format`, `shape` and `layout` as on the wire.
        data: Its bytes.
        max_pixels: More are refused before decoding.
        where: How errors call it.

    Returns:
        `(3, h, w)` uint8.

    Raises:
        ImageError: If it is damaged or too large.
    """
    if image["format"] == "raw":
        array = np.frombuffer(data, np.uint8).reshape(image["shape"])
        # Channels first or last is said, not guessed from the shape.
        tensor = torch.from_numpy(array)
        return tensor if image["layout"] == "chw" else tensor.permute(2, 0, 1).contiguous()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=(image["format"],)) as picture:
                # Again, for a file whose later parts say something else than its first bytes.
                width, height = picture.size
                if width * height > max_pixels:
                    raise ImageError(
                        f"{where}: expected at most {max_pixels:,} pixels, got {width} x {height}; scale it down"
                    )
                return as_image(picture, where)
    except ImageError:
        raise
    except Exception as error:  # a decoder may raise anything for hostile bytes
        raise ImageError(
            f"{where}: expected a whole {image['format'].upper()}, got one that cannot be decoded ({error}); send it again"
        ) from error


def _serve(sock: socket.socket, scorer: GenEvalScorer, config: dict[str, Any]) -> None:
    """Score batches in this thread; another receives and decodes the next ones."""
    ready: queue.Queue[tuple[int, list[Any], list[PromptSpec | str], list[str]] | None] = queue.Queue(maxsize=1)
    receiver = threading.Thread(target=_receive, args=(sock, ready, config["max_pixels"]), daemon=True)
    receiver.start()
    while (batch := ready.get()) is not None:
        number, images, specs, credits = batch
        start = time.perf_counter()
        answers = score_items(scorer, images, specs)
        seconds = time.perf_counter() - start
        items = [_reply(answer, credit) for answer, credit in zip(answers, credits, strict=True)]
        failed = [isinstance(answer, str) for answer in answers]
        try:
            frames.send(sock, {"kind": "results", "id": number, "seconds": seconds, "failed": failed}, items)
        except ConnectionError:
            return


def _receive(sock: socket.socket, ready: queue.Queue[Any], max_pixels: int) -> None:
    with ThreadPoolExecutor(2, "geneval-decode") as pool:
        while (message := frames.receive(sock)) is not None:
            head, blobs = message
            calls = [
                (decode, item, blob, max_pixels, item["where"]) for item, blob in zip(head["items"], blobs, strict=True)
            ]
            images = list(pool.map(_try, calls))
            specs = [_try((PromptSpec.parse, item["spec"])) for item in head["items"]]
            ready.put((head["id"], images, specs, [item["credit"] for item in head["items"]]))
    ready.put(None)


def _try(call: tuple[Any, ...]) -> Any:
    """The result of a call, or its error as text."""
    function, *args = call
    try:
        return function(*args)
    except (ValueError, OverflowError, RecursionError, MemoryError) as error:
        return str(error) or type(error).__name__


def score_items(
    scorer: GenEvalScorer, images: Sequence[torch.Tensor | str], specs: Sequence[PromptSpec | str]
) -> list[Verdict | str]:
    """A verdict or an error for each item; what is an error already stays one.

    A batch that fails is scored again one by one, so that an error is answered to the item that made it.
    """
    answers: list[Verdict | str] = ["not scored"] * len(images)
    usable = []
    for index, (image, spec) in enumerate(zip(images, specs, strict=True)):
        if isinstance(image, str) or isinstance(spec, str):
            answers[index] = image if isinstance(image, str) else str(spec)
        else:
            usable.append((index, image, spec))
    try:
        found = _score(scorer, [image for _, image, _ in usable], [spec for _, _, spec in usable])
        for (index, _, _), verdict in zip(usable, found, strict=True):
            answers[index] = verdict
    except Exception as error:  # noqa: BLE001  it is answered
        _log.exception("a batch of %d failed; scoring its images one by one", len(usable))
        _end_if_broken(error)
        for index, image, spec in usable:
            try:
                answers[index] = _score(scorer, [image], [spec])[0]
            except Exception as reason:  # noqa: BLE001  it is answered
                _end_if_broken(reason)
                answers[index] = f"{type(reason).__name__}: {reason}"
    return answers


def _score(scorer: GenEvalScorer, images: list[torch.Tensor], specs: list[PromptSpec]) -> list[Verdict]:
    with warnings.catch_warnings():
        # Images of many clients in one batch say nothing about a single generator; the clients warn about their own.
        warnings.filterwarnings("ignore", message="all .* images of a call are wrong")
        return scorer.score(images, specs) if images else []


def _end_if_broken(error: Exception) -> None:
    # After an error of the device itself every later call in this process fails too.
    if "CUDA error" in str(error) or type(error).__name__ == "AcceleratorError":
        _log.critical("the device is broken for this process; ending it: %s", error)
        os._exit(_BROKEN_DEVICE)


def _reply(answer: Verdict | str, credit: str) -> bytes:
    if isinstance(answer, str):
        reply = ItemReply(error=answer)
    else:
        try:
            reply = ItemReply.model_construct(
                reward=answer.credit(credit), verdict=VerdictPayload.of(answer), error=None
            )
            return reply.model_dump_json(by_alias=True).encode()
        except (ValueError, OverflowError, ArithmeticError) as error:
            reply = ItemReply(error=f"verdict: expected one that can be told, got {error}")
    return reply.model_dump_json(by_alias=True).encode()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
