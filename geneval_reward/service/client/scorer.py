"""`RemoteGenEvalReward`: the reward of a server, or of several, used like one in this process."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NoReturn

import httpx
from pydantic import ValidationError

from geneval_reward.errors import ServiceError, UsageError
from geneval_reward.judge.verdict import Verdict
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.reward import GenEvalReward, RewardBatch
from geneval_reward.reward.batch import PreparedBatch, refuse_hopeless
from geneval_reward.service.client.encode import ENCODINGS, encode
from geneval_reward.service.client.retry import Attempts, Servers, may_succeed
from geneval_reward.service.wire import (
    IMAGE_PART,
    REQUEST_PART,
    SCORE_PATH,
    ErrorReply,
    InfoReply,
    ItemReply,
    ScoreReply,
    ScoreRequest,
)

_log = logging.getLogger(__name__)

_CONNECT_TIMEOUT = 5.0
_CHUNK_BYTES: Final = 32 * 2**20  # of pixels a request: half of what a server takes by default
_SPARE = 0.5  # seconds of a try's time that are left for its answer to travel


class _TooLargeError(Exception):
    """A request that may fit when it is cut."""


class RemoteGenEvalReward(GenEvalReward):
    """Rewards from a `geneval-reward serve`; called like `GenEvalReward`.

    Prompts are looked up here and sent as records, images are sent lossless, and verdicts come back whole. A request is tried
    again only where that can help (no connection, 408, 429, 5xx) and only within `timeout`; then one error names the server
    and its last answer. With several servers each request goes to the one with the fewest, and from one that fails to
    another. All must have the same judge: other fingerprints or rules are an error, since mixed rewards would not be seen.

    Args:
        url: Address of the server, or several.
        credit: See `GenEvalReward`.
        api_key: The server's key; None: `GENEVAL_REWARD_API_KEY`, where it is set.
        timeout: Seconds for a call, all tries together.
        prompts: See `GenEvalReward`.
        chunk: Images of one request, of 32 MiB of pixels together at most; a larger batch is sent as several at the same time.
            A request that is too large for the server is sent again in halves.
        encoding: `raw` (fast), or `png` or `webp` (lossless, a half or a third of the bytes) for slow networks.
        verify: For https: False, or a file of the certificate authority.

    Raises:
        ValueError: If an argument is not valid.

    Example:
        >>> reward = RemoteGenEvalReward("http://127.0.0.1:8321", credit="strict", timeout=30)
        >>> reward
        RemoteGenEvalReward(['http://127.0.0.1:8321'], credit='strict')
    """

    def __init__(
        self,
        url: str | Sequence[str],
        credit: str = "official",
        *,
        api_key: str | None = None,
        timeout: float = 60.0,
        prompts: Sequence[PromptSpec | Mapping[str, Any] | str] = (),
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
        self.timeout = float(timeout)
        self._servers = Servers([url] if isinstance(url, str) else list(url))
        self._key = api_key or os.environ.get("GENEVAL_REWARD_API_KEY")
        self._chunk = chunk
        self._encoding = encoding
        self._verify = verify
        super().__init__("lite", credit, prompts=prompts)

    def _start(self) -> None:
        super()._start()
        self._client: httpx.Client | None = None
        self._senders: ThreadPoolExecutor | None = None
        self._identity: tuple[str, str, Any] | None = None
        self._warned_version = False

    @property
    def urls(self) -> list[str]:
        """The servers."""
        return [server.url for server in self._servers.all]

    @property
    def scorer(self) -> NoReturn:
        """There is none in this process.

        Raises:
            ServiceError: Always.
        """
        raise ServiceError(f"scorer: expected a reward in this process, got one on {self.urls[0]}; ask info()")

    def info(self) -> list[InfoReply]:
        """What each server says of itself.

        Raises:
            ServiceError: If one does not answer.
        """
        return [self._info(url) for url in self.urls]

    def score(
        self,
        images: Any = None,
        prompts: Sequence[Any] | None = None,
        metadata: Sequence[Any] | None = None,
        completions: Any = None,
        **columns: Any,
    ) -> RewardBatch:
        """Rewards with verdicts and errors; see `GenEvalReward.score`.

        Raises:
            ServiceError: If no server answers in time, refuses the request, or another judge answers than before.
        """
        batch = self._prepared(images, prompts, metadata, completions, columns)
        chunks = self._chunks(batch)
        if len(chunks) < 2:
            replies = [self._post(batch, chunk) for chunk in chunks]
        else:
            replies = list(self._sender_pool().map(lambda chunk: self._post(batch, chunk), chunks))
        return self._finish(batch, chunks, replies)

    async def ascore(
        self,
        images: Any = None,
        prompts: Sequence[Any] | None = None,
        metadata: Sequence[Any] | None = None,
        completions: Any = None,
        **columns: Any,
    ) -> RewardBatch:
        """`score` for `asyncio`: other tasks run while the servers work.

        Raises:
            ServiceError: As `score`.
        """
        batch = await asyncio.to_thread(self._prepared, images, prompts, metadata, completions, columns)
        chunks = self._chunks(batch)
        async with httpx.AsyncClient(**self._client_options()) as client:
            replies = await asyncio.gather(*(self._apost(client, batch, chunk) for chunk in chunks))
        return self._finish(batch, chunks, list(replies))

    def close(self) -> None:
        """End connections and threads; they start again when they are needed."""
        super().close()
        with self._lock:
            client, self._client = self._client, None
            senders, self._senders = self._senders, None
        if senders is not None:
            senders.shutdown(wait=True)
        if client is not None:
            client.close()

    def __getstate__(self) -> dict[str, Any]:
        names = ("timeout", "_servers", "_key", "_chunk", "_encoding", "_verify")
        return super().__getstate__() | {name: self.__dict__[name] for name in names}

    def __repr__(self) -> str:
        return f"RemoteGenEvalReward({self.urls}, credit={self.credit!r})"

    def _chunks(self, batch: PreparedBatch) -> list[list[int]]:
        """Images of each request: at most `chunk`, and of bounded size, so that servers take them."""
        chunks: list[list[int]] = []
        held = 0
        for index in batch.usable:
            image = batch.images[index]
            assert image is not None
            if not chunks or len(chunks[-1]) == self._chunk or held + image.nbytes > _CHUNK_BYTES:
                chunks.append([])
                held = 0
            chunks[-1].append(index)
            held += image.nbytes
        return chunks

    def _finish(self, batch: PreparedBatch, chunks: list[list[int]], replies: list[ScoreReply]) -> RewardBatch:
        rewards: list[float | None] = [None] * len(batch.errors)
        verdicts: list[Verdict | None] = [None] * len(batch.errors)
        errors = list(batch.errors)
        for chunk, reply in zip(chunks, replies, strict=True):
            for index, item in zip(chunk, reply.items, strict=True):
                if item.verdict is None or item.reward is None:
                    errors[index] = f"images[{index}]: {_without_place(item.error)}"
                    continue
                verdicts[index] = verdict = self._rebuilt(item, batch.specs[index], reply)
                rewards[index] = item.reward
                if verdict.credit(self.credit) != item.reward:
                    self._warn_of_version(reply)
        refuse_hopeless(errors)
        return self._told(RewardBatch(rewards, verdicts, errors))

    def _rebuilt(self, item: ItemReply, spec: PromptSpec | None, reply: ScoreReply) -> Verdict:
        assert item.verdict is not None
        assert spec is not None
        return item.verdict.verdict(spec, reply.rules)

    def _warn_of_version(self, reply: ScoreReply) -> None:
        if not self._warned_version:
            self._warned_version = True
            warnings.warn(
                f"the server's geneval-reward {reply.version} gives other credits than this process's for the same "
                "detections; its rewards are used, install the same version on both sides",
                stacklevel=5,
            )

    def _request(self, batch: PreparedBatch, chunk: list[int], timeout: float) -> dict[str, Any]:
        """What httpx sends: a form of the request as JSON and the images as bytes."""
        payloads, parts = [], []
        for index in chunk:
            image, spec = batch.images[index], batch.specs[index]
            assert image is not None
            assert spec is not None
            payload, data = encode(image, self._encoding)
            payloads.append(payload)
            parts.append((IMAGE_PART, ("image", data, "application/octet-stream")))
        request = ScoreRequest.model_construct(
            images=payloads,
            prompts=[batch.specs[index].to_record() for index in chunk],  # type: ignore[union-attr]
            credit=self.credit,
            timeout=max(0.05, timeout - min(_SPARE, 0.1 * timeout)),
        )
        text = request.model_dump_json(exclude_defaults=True)
        return {
            "files": [(REQUEST_PART, (None, text, "application/json")), *parts],
            "timeout": httpx.Timeout(timeout, connect=min(timeout, _CONNECT_TIMEOUT)),
        }

    def _post(self, batch: PreparedBatch, chunk: list[int], attempts: Attempts | None = None) -> ScoreReply:
        attempts = attempts or Attempts(self._servers, self.timeout)
        try:
            return self._post_whole(batch, chunk, attempts)
        except _TooLargeError:
            return _joined([self._post(batch, half, attempts) for half in _halves(chunk)])

    def _post_whole(self, batch: PreparedBatch, chunk: list[int], attempts: Attempts) -> ScoreReply:
        client = self._sync_client()
        while True:
            server, wait = attempts.next()
            if wait:
                threading.Event().wait(wait)
            try:
                response = client.post(server.url + SCORE_PATH, **self._request(batch, chunk, attempts.left))
            except httpx.TransportError as error:
                attempts.failed(server, _words(error))
                continue
            except BaseException:
                attempts.done(server)
                raise
            if (reply := self._read(attempts, server, response, len(chunk))) is not None:
                return reply

    async def _apost(
        self, client: httpx.AsyncClient, batch: PreparedBatch, chunk: list[int], attempts: Attempts | None = None
    ) -> ScoreReply:
        attempts = attempts or Attempts(self._servers, self.timeout)
        try:
            return await self._apost_whole(client, batch, chunk, attempts)
        except _TooLargeError:
            return _joined([await self._apost(client, batch, half, attempts) for half in _halves(chunk)])

    async def _apost_whole(
        self, client: httpx.AsyncClient, batch: PreparedBatch, chunk: list[int], attempts: Attempts
    ) -> ScoreReply:
        while True:
            server, wait = attempts.next()
            try:
                if wait:
                    await asyncio.sleep(wait)
                request = await asyncio.to_thread(self._request, batch, chunk, attempts.left)
                response = await client.post(server.url + SCORE_PATH, **request)
            except httpx.TransportError as error:
                attempts.failed(server, _words(error))
                continue
            except BaseException:
                attempts.done(server)
                raise
            if (reply := self._read(attempts, server, response, len(chunk))) is not None:
                return reply

    def _read(self, attempts: Attempts, server: Any, response: httpx.Response, count: int) -> ScoreReply | None:
        """The reply; None if another try may help."""
        what = f"status {response.status_code}: {_reason(response)}"
        if may_succeed(response.status_code):
            attempts.failed(server, what, response.headers)
            return None
        attempts.done(server)
        if response.status_code == 413 and count > 1:
            _log.info("%s: %d images are too many for it (%s); sending halves", server.url, count, _reason(response))
            raise _TooLargeError
        if response.status_code != 200:
            raise ServiceError(f"{server.url}: expected rewards, got {what}")
        try:
            reply = ScoreReply.model_validate_json(response.content)
        except ValidationError as error:
            raise ServiceError(
                f"{server.url}: expected the reply of a geneval-reward server, got {response.text[:200]!r}; check the address"
            ) from error
        if len(reply.items) != count:
            raise ServiceError(f"{server.url}: expected {count} answers, got {len(reply.items)}; update the server")
        self._check_judge(server.url, reply)
        return reply

    def _check_judge(self, url: str, reply: ScoreReply) -> None:
        with self._lock:
            if self._identity is None:
                self._identity = (url, reply.fingerprint, reply.rules)
            first, *judge = self._identity
        if judge != [reply.fingerprint, reply.rules]:
            what = "rules" if judge[0] == reply.fingerprint else "fingerprint"
            before, now = (judge[1], reply.rules) if what == "rules" else (judge[0], reply.fingerprint)
            raise ServiceError(
                f"{url}: expected the {what} {before} as {first} had it, got {now}; rewards of two judges do not mix, so run "
                "the same version, backend and rules everywhere"
            )

    def _info(self, url: str) -> InfoReply:
        try:
            response = self._sync_client().get(f"{url}/info", timeout=min(self.timeout, 10.0))
        except httpx.TransportError as error:
            raise ServiceError(f"{url}: expected a server, got {_words(error)}") from error
        if response.status_code != 200:
            raise ServiceError(f"{url}: expected /info, got status {response.status_code}: {_reason(response)}")
        return InfoReply.model_validate_json(response.content)

    def _client_options(self) -> dict[str, Any]:
        headers = {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
        # trust_env: a proxy of the environment would see the images, and has no way to a server on loopback.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=15.0)
        return {"headers": headers, "verify": self._verify, "trust_env": False, "limits": limits}

    def _sync_client(self) -> httpx.Client:
        with self._lock:
            if self._client is None:
                self._client = httpx.Client(**self._client_options())
            return self._client

    def _sender_pool(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._senders is None:
                self._senders = ThreadPoolExecutor(4 * len(self.urls), thread_name_prefix="geneval-reward-client")
            return self._senders


def _halves(chunk: list[int]) -> tuple[list[int], list[int]]:
    return chunk[: len(chunk) // 2], chunk[len(chunk) // 2 :]


def _joined(replies: list[ScoreReply]) -> ScoreReply:
    return replies[0].model_copy(update={"items": [item for reply in replies for item in reply.items]})


def _words(error: httpx.TransportError) -> str:
    kind = "no connection" if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout) else type(error).__name__
    return f"{kind} ({error})" if str(error) else kind


def _reason(response: httpx.Response) -> str:
    try:
        return ErrorReply.model_validate_json(response.content).error
    except ValidationError:
        return response.text[:200]


def _without_place(error: str | None) -> str:
    """A server's error without the index it had in its request."""
    text = error or "no answer"
    place, _, rest = text.partition("]: ")
    return rest if rest and place.startswith(("images[", "prompts[")) else text
