"""`ServerModel`: an image-text model behind an OpenAI-compatible server, such as vLLM."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import torch
from torchvision.transforms.functional import to_pil_image

from geneval_reward.errors import ServiceError
from geneval_reward.judges.local import surface_forms
from geneval_reward.support.imports import require

_LISTED: Final = 20  # the most token probabilities that OpenAI's protocol returns
_MAX_TOKENS: Final = 512


class ServerModel:
    """A model on a server.

    The server returns probabilities only for the most likely tokens. An answer that is not among them counts as probability 0;
    its true value is at most the smallest listed one. If none of a question's answers is listed, the image cannot be judged.

    Args:
        url: Base address, such as `http://localhost:8000/v1`.
        model: The model's name on the server; None for the only one that it serves.
        key: The server's API key, if it requires one.
        cache: Folder in which answers are kept; None for none. A request that was answered once is not sent again.
        timeout: Seconds to wait for an answer.
        retries: How many times a failed request is retried, with increasing pauses.
        concurrency: Number of concurrent requests.

    Raises:
        ServiceError: If the server cannot be reached, or serves several models and none is named.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        key: str | None = None,
        cache: str | Path | None = None,
        timeout: float = 60.0,
        retries: int = 3,
        concurrency: int = 8,
    ) -> None:
        openai = require("openai", "judges", "judge")
        self.url, self.concurrency = url, concurrency
        self._failure = openai.OpenAIError
        self._client = openai.OpenAI(base_url=url, api_key=key or "none", timeout=timeout, max_retries=retries)
        self._cache: Any = {}
        if cache is not None:
            diskcache = require("diskcache", "judges", "judge")
            # The default disk class unpickles what it reads; this one reads JSON.
            self._cache = diskcache.Cache(str(cache), disk=diskcache.JSONDisk)
        self.name = model or self._only_model()

    def probabilities(
        self, image: torch.Tensor, questions: Sequence[str], choices: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Ask all questions about one image; see `ImageTextModel.probabilities`."""
        picture = _picture(image)
        bodies = [self._body([picture], text, 1, logprobs=True, top_logprobs=_LISTED) for text in questions]
        with ThreadPoolExecutor(self.concurrency) as pool:
            answers = list(pool.map(self._send, bodies))
        return [_probabilities(answer, words, self.url) for answer, words in zip(answers, choices, strict=True)]

    def write(self, requests: Sequence[tuple[Sequence[torch.Tensor], str]], system: str = "") -> list[str]:
        """Answer requests greedily; see `ImageTextModel.write`."""
        bodies = [self._body([_picture(one) for one in images], text, _MAX_TOKENS, system) for images, text in requests]
        with ThreadPoolExecutor(self.concurrency) as pool:
            return [str(answer["message"].get("content") or "") for answer in pool.map(self._send, bodies)]

    def fingerprint(self) -> dict[str, Any]:
        """Return the model's name; what the server runs under that name is unknown."""
        return {"name": self.name, "class": "server"}

    def to(self, device: torch.device | str) -> ServerModel:
        """Do nothing: the weights are elsewhere."""
        return self

    def __repr__(self) -> str:
        return f"ServerModel({self.url!r}, {self.name!r})"

    def _body(
        self, pictures: Sequence[dict[str, Any]], text: str, tokens: int, system: str = "", **more: Any
    ) -> dict[str, Any]:
        messages: list[dict[str, Any]] = [{"role": "user", "content": [*pictures, {"type": "text", "text": text}]}]
        if system:
            messages.insert(0, {"role": "system", "content": system})
        return {"model": self.name, "messages": messages, "max_tokens": tokens, "temperature": 0.0, **more}

    def _send(self, body: dict[str, Any]) -> dict[str, Any]:
        """Get the first choice of an answer, from the cache or from the server."""
        key = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        found: dict[str, Any] | None = self._cache.get(key)
        if found is None:
            try:
                found = self._client.chat.completions.create(**body).choices[0].model_dump(mode="json")
            except self._failure as error:
                raise ServiceError(
                    f"{self.url}: expected an answer of {self.name}, got {type(error).__name__}: {error}"
                ) from error
            except IndexError as error:
                raise ServiceError(f"{self.url}: expected an answer of {self.name}, got one without choices") from error
            self._cache[key] = found
        return found

    def _only_model(self) -> str:
        try:
            names = [one.id for one in self._client.models.list()]
        except self._failure as error:
            raise ServiceError(f"{self.url}: expected a list of models, got {type(error).__name__}: {error}") from error
        if len(names) != 1:
            raise ServiceError(
                f"{self.url}: expected one model, got {', '.join(names) or 'none'}; name one (URL#MODEL)"
            )
        return str(names[0])


def _picture(image: torch.Tensor) -> dict[str, Any]:
    file = io.BytesIO()
    to_pil_image(image).save(file, "PNG")
    text = base64.b64encode(file.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{text}"}}


def _probabilities(answer: dict[str, Any], words: Sequence[str], url: str) -> list[float]:
    listed = ((answer.get("logprobs") or {}).get("content") or [{}])[0].get("top_logprobs")
    if not listed:
        raise ServiceError(
            f"{url}: expected the probabilities of the first token, got none; start the server with logprobs"
        )
    shares: dict[str, float] = {}
    for one in listed:
        shares[one["token"]] = shares.get(one["token"], 0.0) + math.exp(one["logprob"])
    return [sum(shares.get(form, 0.0) for form in surface_forms(word)) for word in words]
