"""`RemoteScorer`: the scorer of a `geneval-reward serve`, used like one in this process."""

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
from geneval_reward.scorer import Prompt, resolve_all
from geneval_reward.service.client.connection import ENCODINGS, Connection, EncodedItem, encode
from geneval_reward.service.wire import InfoReply, ItemReply, ScoreReply
from geneval_reward.vision.images import as_images

_CHUNK_BYTES: Final = 32 * 2**20  # pixel bytes per request: half of what a server takes by default
_SENDERS: Final = 4  # requests of one batch at the same time


class RemoteScorer:
    """A [`Scorer`][geneval_reward.scorer.Scorer] that asks a server.

    Metric, reward and callback take it like a scorer in this process. Prompts are resolved here and sent as records, images are
    sent without loss, and verdicts come back whole, with what was detected. A request is repeated only where that can help (no
    connection, 408, 429 and 5xx) and only within `timeout`. The address may be that of a load balancer; all servers
    behind it must have the same fingerprint and rules, since nobody would notice verdicts of two judges mixed.

    It is thread-safe, `copy.deepcopy` returns the same object, and pickling keeps the settings but no connection.

    Args:
        url: Address of the server.
        api_key: The server's key. None reads `GENEVAL_REWARD_API_KEY` from the environment, where it is set.
        timeout: Seconds for a call, all attempts together.
        chunk: Images per request, of 32 MiB of pixels together at most. A larger batch is sent as several requests at the same
            time.
        encoding: `raw` is fast; `png` and `webp` (lossless) need half or a third of the bytes, for slow networks.
        verify: For https: False, or the file of a certificate authority.

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
        """What decides the server's answers besides the rules; equal to that of the same scorer in this process.

        Raises:
            ServiceError: If the server does not answer in time.
        """
        return dict(self._server_info().fingerprint_details)

    def to(self, device: torch.device | str) -> RemoteScorer:
        """Nothing to move: the weights are on the server."""
        return self

    def score(self, images: Any, specs: Sequence[Prompt]) -> list[Verdict]:
        """Judge images on the server.

        Args:
            images: What `geneval_reward.vision.images.as_images` takes.
            specs: One spec, record, JSON record or prompt text of the official suite per image.

        Returns:
            One verdict per image, in order.

        Raises:
            ImageError: If an image is not valid; the message names its index and nothing is sent.
            SpecError: If a spec is not valid or not known; the message names its index and nothing is sent.
            ScoringError: If the server could not score some of the images; it carries the verdicts of the others.
            ServiceError: If the server does not answer in time or refuses the request, or another judge answers than before.
        """
        # Copied from the device here: the caller's CUDA stream is this thread's and not that of the senders.
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
        """Close connections and end threads; the next call starts them again."""
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
    """Indices of the images of each request: at most `chunk`, and of bounded size, so that servers take them.

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
    """A server's error without the index that the image had in its request."""
    text = error or "no answer"
    place, _, rest = text.partition("]: ")
    return rest if rest and place.startswith(("images[", "prompts[")) else text
