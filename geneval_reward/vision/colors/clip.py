"""`ClipVerifier`: names colours as GenEval does, by CLIP on the object cut out of its image.

The crops of a whole batch go through one forward pass, and the text embeddings are computed once per class.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from geneval_reward.errors import WeightsError
from geneval_reward.prompts.vocabulary import COLORS
from geneval_reward.support.devices import stack_to_device
from geneval_reward.support.inference import no_autocast, precision_scope, resolve_precision
from geneval_reward.vision.colors.crops import object_crop
from geneval_reward.vision.protocols import ColorQuery

VARIABLE: Final = "GENEVAL_REWARD_CLIP"
TEMPLATES: Final = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object")
_SCALE: Final = 100.0
_HUB_FILE: Final = "open_clip_model.safetensors"


class ClipVerifier:
    """Zero-shot colours of objects (reference: `evaluate_images.py` of GenEval and CLIP_benchmark's zero-shot head).

    For each colour the normalised embeddings of three sentences are averaged and normalised again; the colour is the
    one with the largest product with the normalised embedding of the crop. Probabilities are the softmax of 100 times
    those products, so they sum to 1.

    Args:
        model: An open_clip model.
        tokenizer: Turns sentences into token ids.
        preprocess: The model's own evaluation transform, which turns a PIL image into a normalised tensor.
        identity: Name of the weights in the fingerprint.
        device: Where it runs.
        precision: `auto` (fp16 autocast on CUDA, fp32 elsewhere), `fp32`, `tf32`, `fp16` or `bf16`.
        background: Colour outside the mask, `#rgb` or `#rrggbb`, or `original`.
        crop: Whether CLIP sees only the box.
        forward_crops: Crops per forward pass.
        workers: Threads that cut and resize crops.

    Examples:
        >>> verifier = ClipVerifier.from_pretrained()  # doctest: +SKIP
        >>> verifier.colors([query]).argmax(1)  # doctest: +SKIP
    """

    name = "clip"

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Callable[[list[str]], torch.Tensor],
        preprocess: Callable[[Image.Image], torch.Tensor],
        *,
        identity: str,
        device: torch.device | str = "cpu",
        precision: str = "auto",
        background: str = "#999",
        crop: bool = True,
        forward_crops: int = 128,
        workers: int | None = None,
    ) -> None:
        self._model: Any = model.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._preprocess = preprocess
        self._identity = identity
        self._asked_precision = precision
        self._forward_crops = forward_crops
        self._workers = workers or min(8, os.cpu_count() or 1)
        self._classes: dict[str, torch.Tensor] = {}
        self._digest: str | None = None
        self.background = background
        self.crop = crop
        self.to(device)

    @classmethod
    def from_pretrained(
        cls,
        model: str = "ViT-L-14-quickgelu",
        pretrained: str | None = "openai",
        *,
        device: torch.device | str | None = None,
        precision: str = "auto",
        background: str = "#999",
        crop: bool = True,
        forward_crops: int = 128,
        workers: int | None = None,
    ) -> ClipVerifier:
        """Load any open_clip model; by default the benchmark's.

        OpenAI's weights were trained with QuickGELU. From version 2.29 on, open_clip builds plain GELU for them under
        the name `ViT-L-14` and only warns; here they always get QuickGELU.

        Args:
            model: A model name of open_clip, `hf-hub:owner/name` or `local-dir:path`.
            pretrained: A weights tag of open_clip or the path of a file. `openai` looks at `GENEVAL_REWARD_CLIP`
                (a file, or the folder that holds `open_clip_model.safetensors`) before the hub. None with
                `hf-hub:` and `local-dir:`, which bring their weights.
            device: A torch device; None for CUDA if there is one, else the CPU.
            precision: `auto`, `fp32`, `tf32`, `fp16` or `bf16`.
            background: Colour outside the mask, `#rgb` or `#rrggbb`, or `original`.
            crop: Whether CLIP sees only the box.
            forward_crops: Crops per forward pass.
            workers: Threads that cut and resize crops.

        Raises:
            WeightsError: If the model or its weights cannot be loaded; the message says which file to put where.
        """
        import open_clip
        from open_clip.transform import PreprocessCfg, image_transform_v2

        device = device if device is not None else ("cuda" if torch.cuda.is_available() else "cpu")
        quick = pretrained == "openai"
        source = _local_file(pretrained) if quick else pretrained
        if source is None and ":" not in model:
            raise WeightsError(f"pretrained: expected a weights tag or file for {model}, got None; name the weights")
        try:
            # Not create_model_and_transforms, which gives random weights where a folder has none.
            built = open_clip.create_model(model, pretrained=source, force_quick_gelu=quick, require_pretrained=True)
            chosen = PreprocessCfg(**built.visual.preprocess_cfg)
            preprocess = image_transform_v2(chosen, is_train=False)
            tokenizer = open_clip.get_tokenizer(model)
        except Exception as error:
            raise WeightsError(_advice(model, pretrained, error)) from error
        if quick and any(isinstance(module, nn.GELU) for module in built.modules()):
            raise WeightsError(f"{model}: expected QuickGELU, with which OpenAI's weights were trained, got GELU")
        return cls(
            built,
            tokenizer,
            preprocess,
            identity=f"{model}/{pretrained}" if pretrained else model,
            device=device,
            precision=precision,
            background=background,
            crop=crop,
            forward_crops=forward_crops,
            workers=workers,
        )

    def colors(self, queries: Sequence[ColorQuery]) -> npt.NDArray[np.float32]:
        """Probabilities of the ten colours; see `geneval_reward.vision.protocols.Verifier`.

        The row of a box without a pixel is zero.
        """
        result = np.zeros((len(queries), len(COLORS)), np.float32)
        ready = [(row, pixels) for row, pixels in enumerate(self.prepare(queries)) if pixels is not None]
        if not ready:
            return result
        names = [queries[row].class_name for row, _ in ready]
        features = self.image_features([pixels for _, pixels in ready])
        weights = self.classifiers(names)
        # Products and sums in float32, which TF32 does not touch as it would a matrix product.
        with torch.no_grad(), no_autocast():
            logits = _SCALE * (features[:, None] * weights).sum(-1)
            result[[row for row, _ in ready]] = logits.softmax(-1).cpu().numpy()
        return result

    def prepare(self, queries: Sequence[ColorQuery]) -> list[torch.Tensor | None]:
        """Make the network inputs of the objects; None for a box without a pixel."""
        if len(queries) < 2 or self._workers < 2:
            return [self._input(query) for query in queries]
        with ThreadPoolExecutor(self._workers) as pool:
            return list(pool.map(self._input, queries))

    def image_features(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Normalised embeddings `(n, d)` float32 of network inputs."""
        parts = []
        with precision_scope(self.precision, self.device):
            for start in range(0, len(inputs), self._forward_crops):
                batch = stack_to_device(inputs[start : start + self._forward_crops], self.device)
                parts.append(functional.normalize(self._model.encode_image(batch).float(), dim=-1))
        return torch.cat(parts)

    def classifiers(self, names: Sequence[str]) -> torch.Tensor:
        """Colour weights `(n, 10, d)` float32 of class names; each class is encoded once and kept."""
        new = sorted({name for name in names if name not in self._classes})
        if new:
            texts = [form.format(color=color, name=name) for name in new for color in COLORS for form in TEMPLATES]
            step = 10 * len(TEMPLATES) * 16
            with precision_scope(self.precision, self.device):
                parts = [
                    self._model.encode_text(self._tokenizer(texts[start : start + step]).to(self.device)).float()
                    for start in range(0, len(texts), step)
                ]
            with torch.no_grad(), no_autocast():
                each = functional.normalize(torch.cat(parts), dim=-1)
                mean = each.view(len(new), len(COLORS), len(TEMPLATES), -1).mean(2)
                self._classes.update(zip(new, functional.normalize(mean, dim=-1), strict=True))
        return torch.stack([self._classes[name] for name in names])

    def fingerprint(self) -> dict[str, Any]:
        """What decides the answers; see `geneval_reward.vision.protocols.Verifier`."""
        if self._digest is None:
            digest = hashlib.sha256()
            for name, tensor in sorted(self._model.state_dict().items()):
                digest.update(name.encode())
                digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
            self._digest = digest.hexdigest()
        return {
            "name": self.name,
            "model": self._identity,
            "weights_sha256": self._digest,
            "precision": self.precision,
            "background": self.background,
            "crop": self.crop,
        }

    def to(self, device: torch.device | str) -> ClipVerifier:
        """Move the weights; `auto` precision follows the device. Returns self."""
        self.device = torch.device(device)
        self.precision = resolve_precision(self._asked_precision, self.device)
        self._model.to(self.device)
        self._classes.clear()
        return self

    def _input(self, query: ColorQuery) -> torch.Tensor | None:
        shown = object_crop(query, self.background, self.crop)
        return None if shown is None else self._preprocess(shown)


def _local_file(pretrained: str | None) -> str | None:
    chosen = os.environ.get(VARIABLE)
    if not chosen:
        return pretrained
    path = Path(chosen).expanduser()
    path = path / _HUB_FILE if path.is_dir() else path
    if not path.is_file():
        raise WeightsError(f"{VARIABLE}: expected {_HUB_FILE} or the folder that holds it, got nothing at {path}")
    return str(path)


def _advice(model: str, pretrained: str | None, error: Exception) -> str:
    import open_clip

    reason = f"{type(error).__name__}: {error}"
    place = open_clip.get_pretrained_cfg(model, pretrained).get("hf_hub") if pretrained else None
    what = f"weights {pretrained!r} of {model}" if pretrained else f"the model {model}"
    advice = f"{what}: expected to load them with open_clip, got {reason}"
    if not place:
        return f"{advice}; `open_clip.list_pretrained()` names what there is, and pretrained= takes the path of a file"
    owner, file = os.path.split(place)
    means = f"set {VARIABLE} to it" if pretrained == "openai" else "pass its path as pretrained="
    return f"{advice}; download {file or _HUB_FILE} of https://huggingface.co/{owner} and {means}"
