"""A worker process: one scorer on one device, fed by the server over a pipe.

The pool starts it as `python -P -m geneval_reward.service.server.worker FD`. It decodes the next batch while it scores one, and
ends when the server closes its end of the pipe.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import torch

from geneval_reward.errors import GenEvalError, SelfTestError
from geneval_reward.judge.verdict import Verdict
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.prompts.suite import Prompt
from geneval_reward.scorer import LazyScorer, Scorer, fingerprint_id, refusal
from geneval_reward.service.flow_grpo.reply import FLOW_GRPO, row_of, with_red_and_blue_swapped
from geneval_reward.service.isolation import score_separately
from geneval_reward.service.server.decode import decode_all, split_by_pixels
from geneval_reward.service.server.messages import PipeEnd, receive, send
from geneval_reward.service.wire import ItemReply, VerdictPayload
from geneval_reward.support.imports import is_import_path
from geneval_reward.vision.backends import resolve_device
from geneval_reward.vision.photos import PHOTOS, photo

_log = logging.getLogger(__name__)

_STUCK: Final = 71
"""Exit status after a batch with an image whose decoder hangs."""


_PART_PIXELS: Final = 2**24  # one image of the largest size by default: decoding it takes about 150 MB


class Part(NamedTuple):
    """A decoded part of a batch.

    Attributes:
        number: Number of the batch.
        heads: The head of each item.
        images: Pixels or an error per item.
        stuck: Whether a decoder is still running, in which case this process should be replaced.
        is_last: Whether this is the last part of the batch.
    """

    number: int
    heads: list[dict[str, Any]]
    images: list[torch.Tensor | str]
    stuck: bool
    is_last: bool


def main(fd: int) -> int:
    """Score batches until the server is gone.

    Args:
        fd: File descriptor of this process's end of the pipe.

    Returns:
        The exit status.
    """
    # The server handles signals to the whole process group (Ctrl-C, supervisors, Slurm): it drains, then closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pipe = PipeEnd(fd)
    try:
        config, _ = receive(pipe)
    except (EOFError, OSError):
        return 0
    logging.basicConfig(level=config["log_level"], format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        scorer = load_scorer(config)
        info = describe(scorer, config["device"])
    except (GenEvalError, ValueError, ImportError, AttributeError, RuntimeError, OSError) as error:
        send(pipe, {"kind": "failed", "error": f"{type(error).__name__}: {error}"})
        return 1
    send(pipe, {"kind": "ready", **info})
    ready: queue.Queue[Part | None] = queue.Queue(maxsize=1)
    threading.Thread(target=_receive_batches, args=(pipe, ready, config), daemon=True).start()
    texts: list[bytes] = []
    failed: list[bool] = []
    seconds, stuck = 0.0, False
    while (part := ready.get()) is not None:
        start = time.perf_counter()
        more_texts, more_failed = answer_items(scorer, part.heads, part.images)
        texts += more_texts
        failed += more_failed
        seconds += time.perf_counter() - start
        stuck = stuck or part.stuck
        if not part.is_last:
            continue
        try:
            send(pipe, {"number": part.number, "seconds": seconds, "failed": failed}, texts)
        except OSError:
            break
        if stuck:
            _log.error("an image is still being decoded; ending this process, so that another takes its place")
            os._exit(_STUCK)
        texts, failed, seconds = [], [], 0.0
    return 0


def load_scorer(config: dict[str, Any]) -> Scorer:
    """Make the configured scorer and test it.

    Args:
        config: `backend` with `options`, as `LazyScorer` takes them; `device`, `threads`, and `swap_rb` for Flow-GRPO's numbers.

    Raises:
        SelfTestError: If it judges a packaged photograph wrongly.
    """
    if config["threads"]:
        torch.set_num_threads(config["threads"])
    device = resolve_device(config["device"])
    if device.index is not None and device.type == "cuda":
        torch.cuda.set_device(device)  # so that a factory's "cuda" is this worker's GPU
    scorer = LazyScorer(config["backend"], device=config["device"], **config["options"]).load()
    check_scorer(scorer, known=not is_import_path(config["backend"]))
    return with_red_and_blue_swapped(scorer) if config["swap_rb"] else scorer


def check_scorer(scorer: Scorer, *, known: bool) -> None:
    """Judge a packaged photograph by a true and a false record.

    Args:
        scorer: The scorer to test.
        known: Whether it is one of the package's backends, whose verdicts are known; others only have to answer.

    Raises:
        SelfTestError: If it does not answer, or one of the package's backends answers wrongly.
    """
    shot = PHOTOS["chelsea"]
    records: list[Prompt] = [shot.record, shot.false_record]
    if refusal(scorer, PromptSpec.parse(shot.record)) is not None:
        # A scorer of other classes; what it says of one of them does not matter, as long as it answers.
        name = scorer.vocabulary.classes[0]  # type: ignore[attr-defined]
        records = [PromptSpec.parse({"tag": "single_object", "include": [{"class": name, "count": 1}]})] * 2
    verdicts = scorer.score([photo("chelsea")] * 2, records)
    got = [verdict.correct for verdict in verdicts]
    if len(got) != 2 or (known and got != [True, False]):
        raise SelfTestError(
            f"self-test: expected the verdicts [True, False] for a photograph of a cat, got {got}; run `geneval-reward doctor`"
        )


def describe(scorer: Scorer, device: str) -> dict[str, Any]:
    """Describe the scorer to the server."""
    return {
        "backend": scorer.name,
        "fingerprint": fingerprint_id(scorer),
        "fingerprint_details": scorer.fingerprint(),
        "rules": scorer.rules.to_dict(),
        "batch_size": getattr(scorer, "batch_size", 16),
        "device": device,
    }


def answer_items(
    scorer: Scorer, heads: Sequence[dict[str, Any]], images: Sequence[torch.Tensor | str]
) -> tuple[list[bytes], list[bool]]:
    """Answer the items of a batch.

    Args:
        scorer: The scorer.
        heads: `spec`, `credit` and `protocol` of each item.
        images: Pixels or an error per item.

    Returns:
        The JSON text of each answer, and whether it is an error.
    """
    found: list[Verdict | str] = [image if isinstance(image, str) else "" for image in images]
    usable = []
    for index, (head, image) in enumerate(zip(heads, images, strict=True)):
        if not isinstance(image, str):
            try:
                usable.append((index, image, PromptSpec.parse(head["spec"])))
            except (ValueError, OverflowError, RecursionError) as error:
                found[index] = str(error)
    answers = score_separately(scorer, [image for _, image, _ in usable], [spec for _, _, spec in usable])
    for (index, _, _), answer in zip(usable, answers, strict=True):
        found[index] = f"{type(answer).__name__}: {answer}" if isinstance(answer, Exception) else answer
    texts = [_text(answer, head) for answer, head in zip(found, heads, strict=True)]
    return texts, [isinstance(answer, str) for answer in found]


def _text(answer: Verdict | str, head: dict[str, Any]) -> bytes:
    if isinstance(answer, str):
        return ItemReply(error=answer).model_dump_json().encode()
    credit = head["credit"]
    if head["protocol"] == FLOW_GRPO:
        return row_of(answer, credit)
    reply = ItemReply.model_construct(reward=answer.credit(credit), verdict=VerdictPayload.of(answer), error=None)
    return reply.model_dump_json(by_alias=True).encode()


def _receive_batches(pipe: PipeEnd, ready: queue.Queue[Part | None], config: dict[str, Any]) -> None:
    stuck = False
    while not stuck:
        try:
            head, blobs = receive(pipe)
        except (EOFError, OSError):
            break
        heads = head["items"]
        parts = split_by_pixels(heads, blobs, _PART_PIXELS)
        for part in parts:
            images, left_behind = decode_all(heads[part], blobs[part], config["max_pixels"], config["decode_timeout"])
            stuck = stuck or left_behind
            ready.put(Part(head["number"], heads[part], images, left_behind, part is parts[-1]))
    ready.put(None)


if __name__ == "__main__":
    status = main(int(sys.argv[1]))
    sys.stderr.flush()
    # Decoding threads must not keep the process alive.
    os._exit(status)
