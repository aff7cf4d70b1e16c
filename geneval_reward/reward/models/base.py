"""`ModelReward`: loads a model at the first call and runs it in one thread at a time, without gradients or autocast."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from geneval_reward.errors import GenEvalError, ImageError, UsageError
from geneval_reward.reward.inputs import prompt_texts
from geneval_reward.support.devices import to_host
from geneval_reward.vision.backends import resolve_device
from geneval_reward.vision.images import try_images

Loaded = Callable[[], Any]


class ModelReward(ABC):
    """A reward from a network that compares an image with a text.

    Args:
        model: A hub id or a local folder.
        device: A torch device or `auto`.
        batch_size: Images per forward pass, >= 1.
        loader: Returns what `load` would, for weights of your own. It must be picklable if the reward is to be.

    Raises:
        UsageError: If the batch size is not an integer >= 1.
    """

    name = "model"

    def __init__(
        self, model: str, *, device: torch.device | str = "auto", batch_size: int = 32, loader: Loaded | None = None
    ) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise UsageError(f"batch_size: expected an integer >= 1, got {batch_size!r}")
        self.model, self.batch_size, self.loader = model, batch_size, loader
        self.device = device
        self.__name__ = self.name
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._loaded: Any = None

    @abstractmethod
    def load(self) -> Any:
        """Load the network and what it needs, on the CPU."""

    @abstractmethod
    def values(self, loaded: Any, images: list[torch.Tensor], texts: list[str], device: torch.device) -> torch.Tensor:
        """Compute one number per image.

        Args:
            loaded: What `load` returned.
            images: uint8 `(3, h, w)`, on the CPU.
            texts: One per image.
            device: Where the network is.

        Returns:
            `(n,)`.
        """

    def __call__(self, images: Any, prompts: Any = None, metadata: Any = None) -> list[float | None]:
        """Return the rewards of a batch.

        Args:
            images: What `GenEvalScorer.score` takes.
            prompts: Texts, chats, records or specs, one per image.
            metadata: Records, whose prompts are used if `prompts` is None.

        Returns:
            One number per image; None if the image cannot be read or the network returns no finite number.

        Raises:
            ImageError: If no image can be read.
            UsageError: If there are not as many prompts as images.
            GenEvalError: If the weights cannot be loaded.
        """
        count = len(images)
        texts = prompt_texts(prompts, metadata)
        if len(texts) != count:
            raise UsageError(f"prompts: expected {count}, one per image, got {len(texts)}")
        tensors = try_images(images)
        rows = [index for index, image in enumerate(tensors) if isinstance(image, torch.Tensor)]
        if not rows and isinstance(first := next(iter(tensors), None), ImageError):
            raise first
        ready = dict(zip(rows, to_host([image for image in tensors if isinstance(image, torch.Tensor)]), strict=True))
        found: list[float | None] = [None] * count
        device = resolve_device(self.device)
        with self._lock, torch.inference_mode(), torch.autocast(device.type, enabled=False):
            if self._loaded is None:
                self._loaded = self._load(device)
            for start in range(0, len(rows), self.batch_size):
                part = rows[start : start + self.batch_size]
                numbers = self.values(self._loaded, [ready[i] for i in part], [texts[i] for i in part], device)
                for row, number in zip(part, numbers.double().tolist(), strict=True):
                    found[row] = number if number == number and abs(number) != float("inf") else None
        return found

    def _load(self, device: torch.device) -> Any:
        try:
            loaded = self.load() if self.loader is None else self.loader()
        except ImportError as error:
            raise GenEvalError(
                f"{self.name}: expected {error.name or 'its libraries'} to be installed, got {type(error).__name__}: {error}; "
                "run: pip install 'geneval-reward[paper]'"
            ) from error
        except OSError as error:
            raise GenEvalError(
                f"{self.name}: expected the weights of {self.model!r} on the hub or in that folder, got "
                f"{type(error).__name__}: {error}; download them where there is a network and give the folder as model="
            ) from error
        for item in loaded if isinstance(loaded, tuple) else (loaded,):
            if isinstance(item, torch.nn.Module):
                item.eval().requires_grad_(False).to(device)
        return loaded

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_loaded")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def __deepcopy__(self, memo: dict[int, Any]) -> ModelReward:
        # A LightningModule that copies its parts must not copy another network's weights.
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r})"


def features(found: Any) -> torch.Tensor:
    """Scale CLIP's projected features to unit length.

    Args:
        found: What `get_image_features` or `get_text_features` returned: a tensor, or with transformers 5 an output object.

    Returns:
        `(n, d)`.
    """
    tensor: torch.Tensor = found if isinstance(found, torch.Tensor) else found.pooler_output
    return F.normalize(tensor, dim=-1)


def pixels_of(processor: Any, images: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
    """Preprocess images by a processor of transformers; returns `(n, 3, s, s)`."""
    pixels: Any = processor(images=list(images), return_tensors="pt", input_data_format="channels_first")[
        "pixel_values"
    ]
    moved: torch.Tensor = pixels.to(device)
    return moved


def clip_cosines(
    model: Any, processor: Any, images: Sequence[torch.Tensor], texts: Sequence[str], device: torch.device
) -> torch.Tensor:
    """Compute the cosine of each image with its text, `(n,)`, by a CLIP model of transformers.

    A text that is longer than the model's context is cut *before* its end token. The model reads its answer from that token;
    without it, all long texts would get the same answer.
    """
    limit = model.config.text_config.max_position_embeddings
    tokens = processor(text=list(texts), padding=True, truncation=True, max_length=limit, return_tensors="pt").to(
        device
    )
    text = features(model.get_text_features(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]))
    image = features(model.get_image_features(pixel_values=pixels_of(processor, images, device)))
    return (text * image).sum(-1)
