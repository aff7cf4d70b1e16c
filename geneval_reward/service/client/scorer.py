"""`RemoteScorer`: the scorer of a `geneval-reward serve` process, used like a local one."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

import torch

from geneval_reward.errors import ScoringError, ServiceError, UsageError
from geneval_reward.judge.rules import Rules
from geneval_reward.judge.verdict import Verdict
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.prompts.suite import Prompt, resolve_all
from geneval_reward.service.client.connection import ENCODINGS, Connection, EncodedItem, encode
from geneval_reward.service.wire import InfoReply, ItemReply, ScoreReply
from geneval_reward.vision.images import as_images

_CHUNK_BYTES: Final = 32 * 2**20  # pixel bytes per request: half of the server's default limit
_SENDERS: Final = 4  # concurrent requests per batch


class RemoteScorer:
    """A [`Scorer`][geneval_reward.scorer.protocol.Scorer] that asks a server.

    The metric, reward and callback accept it like a local scorer. Prompts are resolved here and sent as records, images are
    sent losslessly, and verdicts come back complete with their detections. A request is retried only if that can help (no
    connection, 408, 429 or 5xx) and only within `timeout`. The address may be that of a load balancer; all servers behind it
    must have the same fingerprint and rules, because mixed verdicts from two judges would go unnoticed.

    It is thread-safe. `copy.deepcopy` returns the same object, and pickling keeps the settings but no connection.

    Args:
        url: Address of the server.
        api_key: The server's key. None reads `GENEVAL_REWARD_API_KEY` from the environment, if it is set.
        timeout: Seconds per call, over all attempts.
        chunk: Images per request, which also holds at most 32 MiB of pixels. A larger batch is sent as concurrent requests.
        encoding: `raw` is fast; `png` and `webp` (lossless) need half or a third of the bytes, for slow networks.
        verify: For https, False or the path of a certificate authority's file.

    Raises:
        UsageError: If an argument is not valid.

    Examples:
        >>> from geneval_reward.reward import GenEvalReward
        >>> scorer = RemoteScorer("http://127.0.0.1:8321", timeout=30)  # connects at the first call
        >>> reward = GenEvalReward(scorer, credit="partial")
        >>> scorer
        RemoteScorer('http://127.0.0.1:8321')
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout: float = 60.0,
        chunk: int = 32,
        encoding: str = "raw",
        verify: bool | str = True,
    ) -> None:
        if encoding not in ENCODINGS:
            raise UsageError(f"encoding: expected one of {', '.join(ENCODINGS)}, got {encoding!r}")
        if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
            raise UsageError(f"chunk: expected an integer >= 1, got {chunk!r}")
        if not timeout > 0:
            raise UsageError(f"timeout: expected a positive number of seconds, got {timeout!r}")
        self._settings: dict[str, Any] = {
            "url": url,
            "api_key": api_key or os.environ.get("GENEVAL_REWARD_API_KEY"),
            "timeout": float(timeout),
            "chunk": chunk,
            "encoding": encoding,
            "verify": verify,
        }
        self.connection = Connection(url, api_key=self._settings["api_key"], timeout=float(timeout), verify=verify)
        self._lock = threading.Lock()
        self._senders: ThreadPoolExecutor | None = None
        self._info: InfoReply | None = None
        self._warned_version = False

    @property
    def name(self) -> str:
        """Name of the server's scorer, for example `paper`."""
        return self._server_info().backend

    @property
    def rules(self) -> Rules:
        """The server's rules."""
        return Rules.parse(self._server_info().rules)

    def fingerprint(self) -> dict[str, Any]:
        """What determines the server's answers besides the rules; equal to the fingerprint of the same local scorer.

        Raises:
            ServiceError: If the server does not answer in time.
        """
        return dict(self._server_info().fingerprint_details)

    def to(self, device: torch.device | str) -> RemoteScorer:
        """Return self; the weights are on the server."""
        return self

    def score(self, images: Any, specs: Sequence[Prompt]) -> list[Verdict]:
        """Judge images on the server.

        Args:
            images: Anything that `geneval_reward.vision.images.as_images` accepts.
            specs: One spec, record, JSON record or prompt text of the official suite per image.

        Returns:
            One verdict per image, in order.

        Raises:
            ImageError: If an image is invalid; the message names its index and nothing is sent.
            SpecError: If a spec is invalid or unknown; the message names its index and nothing is sent.
            ScoringError: If the server could not score some of the images; it carries the verdicts of the others.
            ServiceError: If the server does not answer in time, refuses the request, or judges differently than before.
        """
        # Copied from the device here because the sender threads do not use the caller's CUDA stream.
        tensors = [image.cpu() for image in as_images(images)]
        parsed = resolve_all(specs)
        if len(tensors) != len(parsed):
            raise UsageError(f"specs: expected {len(tensors)}, one per image, got {len(parsed)}")
        chunks = split_into_requests(tensors, self._settings["chunk"])

        def send(chunk: list[int]) -> ScoreReply:
            encoded = [encode(tensors[index], self._settings["encoding"]) for index in chunk]
            records = [parsed[index].to_record() for index in chunk]
            return self.connection.score(
                [EncodedItem(*image, rec) for image, rec in zip(encoded, records, strict=True)]
            )

        replies = [send(chunk) for chunk in chunks] if len(chunks) < 2 else list(self._sender_pool().map(send, chunks))
        verdicts: list[Verdict | None] = [None] * len(tensors)
        errors: list[Exception | None] = [None] * len(tensors)
        for chunk, reply in zip(chunks, replies, strict=True):
            for index, item in zip(chunk, reply.items, strict=True):
                if item.verdict is None:
                    errors[index] = ServiceError(_without_place(item.error))
                else:
                    verdicts[index] = self._rebuild(item, parsed[index], reply)
        if any(errors):
            raise ScoringError(verdicts, errors)
        return [verdict for verdict in verdicts if verdict is not None]

    def close(self) -> None:
        """Close connections and stop threads; the next call starts them again."""
        with self._lock:
            senders, self._senders = self._senders, None
        if senders is not None:
            senders.shutdown(wait=True)
        self.connection.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> RemoteScorer:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(RemoteScorer, **self._settings), ()

    def __repr__(self) -> str:
        return f"RemoteScorer({self.connection.url!r})"

    def _server_info(self) -> InfoReply:
        if self._info is None:
            self._info = self.connection.info()
        return self._info

    def _rebuild(self, item: ItemReply, spec: PromptSpec, reply: ScoreReply) -> Verdict:
        assert item.verdict is not None
        verdict = item.verdict.verdict(spec, reply.rules)
        if verdict.credits() != item.verdict.credits and not self._warned_version:
            self._warned_version = True
            warnings.warn(
                f"the server's geneval-reward {reply.version} gives other credits than this process for the same "
                "detections; those of this process are used, install the same version on both sides",
                stacklevel=3,
            )
        return verdict

    def _sender_pool(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._senders is None:
                self._senders = ThreadPoolExecutor(_SENDERS, thread_name_prefix="geneval-reward-client")
            return self._senders


def split_into_requests(images: Sequence[torch.Tensor], chunk: int) -> list[list[int]]:
    """Split a batch into requests of at most `chunk` images and bounded size; return the image indices of each.

    Examples:
        >>> split_into_requests([torch.zeros(3, 8, 8, dtype=torch.uint8)] * 5, 2)
        [[0, 1], [2, 3], [4]]
    """
    chunks: list[list[int]] = []
    held = 0
    for index, image in enumerate(images):
        if not chunks or len(chunks[-1]) == chunk or held + image.nbytes > _CHUNK_BYTES:
            chunks.append([])
            held = 0
        chunks[-1].append(index)
        held += image.nbytes
    return chunks


def _without_place(error: str | None) -> str:
    """Strip the image's index within its request from a server's error."""
    text = error or "no answer"
    place, _, rest = text.partition("]: ")
    return rest if rest and place.startswith(("images[", "prompts[")) else text
