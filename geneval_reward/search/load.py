"""Load a search's generators, rewards and features by their names on the command line."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final

import torch

from geneval_reward.errors import UsageError
from geneval_reward.generate import load_pipeline
from geneval_reward.generate.load import choose_device
from geneval_reward.generate.lora import add_lora
from geneval_reward.prompts import PromptSpec
from geneval_reward.reward import GenEvalReward, Reward, RewardBatch
from geneval_reward.reward.inputs import prompt_texts
from geneval_reward.reward.models import MODEL_NAMES, model_reward
from geneval_reward.reward.parts import accepted_arguments, as_column
from geneval_reward.search.steps import Steps
from geneval_reward.support.imports import import_object, is_import_path, require
from geneval_reward.vision.backends import resolve_device

BACKENDS: Final = ("lite", "nanodet", "paper", "mmdet")
CREDIT: Final = "official+dense"
"""What candidates are ordered by: first whether they are right, then by how much."""


def load_steps(
    model: Any,
    *,
    steps: int | None = None,
    guidance: float | None = None,
    sampler: str | None = None,
    noise: float | None = None,
    resolution: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
    lora: str | None = None,
    lora_scale: float = 1.0,
) -> Steps:
    """Load a generator to search with.

    Args:
        model: What `geneval_reward.generate.load_pipeline` takes: `pocket`, `pocket-tokens`, a folder or hub name, a pipeline, or
            `module:function`, which may also return your own `Steps`.
        steps: Sampling steps; None for the pipeline's own.
        guidance: Guidance scale; None for the pipeline's own.
        sampler: `cps` (the default), `sde` or `ode` for flow models; `ddim` for diffusion models.
        noise: Noise level of `cps` or `sde`, or eta of `ddim`; None for 0.8, 0.7 and 1.
        resolution: Height and width in pixels; None for the pipeline's own.
        device: A torch device or `auto`.
        precision: `auto`, `fp32`, `fp16` or `bf16`.
        batch_size: Candidates per pass; None: 64 for pocket, else 8. Halved when memory runs out.
        lora: LoRA weights; see `geneval_reward.generate.lora.add_lora`.
        lora_scale: Strength of the LoRA.

    Raises:
        UsageError: If the model is of an unknown kind, or an option does not apply to it.
        DependencyError: If a package that it needs is not installed.
    """
    pipe = load_pipeline(model, precision)
    options = {
        "steps": steps,
        "guidance": guidance,
        "sampler": sampler,
        "noise": noise,
        "resolution": resolution,
        "lora": lora,
    }
    if isinstance(pipe, Steps):
        extra = [name for name, value in options.items() if value is not None]
        if extra:
            raise UsageError(
                f"{extra[0]}: expected it to be left out for {model!r}, which makes its steps itself; set it there"
            )
        return pipe
    if not callable(pipe):
        raise UsageError(
            f"model: expected a pipeline or an object with the methods of Steps, got {type(pipe).__name__}"
        )
    if callable(getattr(pipe, "advance", None)):
        from geneval_reward.search.levels import LevelSteps

        extra = [name for name in ("steps", "sampler", "noise", "resolution", "lora") if options[name] is not None]
        if extra:
            raise UsageError(f"{extra[0]}: expected it to be left out for {model!r}, which paints level by level")
        return LevelSteps(pipe.to(choose_device(device)), guidance=1.0 if guidance is None else guidance)
    for module in ("diffusers", "lightning"):
        require(module, module, "search")
    from geneval_reward.search.latents import DiffusionSteps, FlowSteps
    from geneval_reward.train.policy import FlowPolicy

    if lora is not None:
        add_lora(pipe, lora, lora_scale)
    if hasattr(pipe, "set_progress_bar_config"):
        pipe.set_progress_bar_config(disable=True)
    place = choose_device(device)
    pipe = pipe.to(place)
    defaults = {name: p.default for name, p in inspect.signature(type(pipe).__call__).parameters.items()}
    size = batch_size or (64 if model == "pocket" else 8)
    count = steps if steps is not None else int(defaults.get("num_inference_steps", 28))
    scale = float(guidance if guidance is not None else defaults.get("guidance_scale", 1.0))
    if hasattr(pipe.scheduler, "sigmas") and "beta_schedule" not in pipe.scheduler.config:
        if guidance is not None and getattr(pipe.transformer.config, "guidance_embeds", True) is False:
            raise UsageError(f"guidance: expected it to be left out, got {guidance}; this model takes none")
        policy = FlowPolicy(pipe, resolution=resolution, guidance_scale=scale).to(place)
        kind: Any = sampler or "cps"
        return FlowSteps(policy, steps=count, sampler=kind, noise=noise, batch_size=size)
    if sampler not in (None, "ddim"):
        raise UsageError(f"sampler: expected ddim for {type(pipe).__name__}, got {sampler!r}")
    eta = 1.0 if noise is None else noise
    return DiffusionSteps(pipe, steps=count, guidance=scale, eta=eta, resolution=resolution, batch_size=size)


class CreditReward:
    """A `GenEvalReward` that adds several credits of one verdict.

    Args:
        reward: The reward that judges the images.
        credits: Names of the credits to add.
    """

    def __init__(self, reward: GenEvalReward, credits: tuple[str, ...]) -> None:
        self.reward, self.credits = reward, credits
        for name in credits:
            GenEvalReward(reward.lazy_scorer.source, name)  # raises if there is no such credit

    def submit(self, images: Any, specs: Any, /) -> Future[RewardBatch]:
        """Judge the images and add the credits; return a finished future."""
        batch = self.reward.submit(images, specs).result()
        sums = [None if one is None else sum(one.credit(name) for name in self.credits) for one in batch.verdicts]
        done: Future[RewardBatch] = Future()
        done.set_result(RewardBatch(sums, batch.verdicts, batch.errors))
        return done

    def close(self) -> None:
        """End the judge's thread."""
        self.reward.close()


class FunctionReward:
    """A function of images, and optionally of prompts and metadata, as a reward, such as those of `reward.models`.

    Args:
        function: Returns one number per image; None or NaN for none.

    Raises:
        TypeError: If it cannot be called with images.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.takes = function, accepted_arguments("reward", function)

    def submit(self, images: Any, specs: Any, /) -> Future[RewardBatch]:
        """Call the function; return a finished future, without verdicts."""
        records = [spec.to_record() if isinstance(spec, PromptSpec) else None for spec in specs]
        given = {"images": images, "prompts": prompt_texts(specs, None), "metadata": records}
        answer = self.function(**{name: given[name] for name in self.takes})
        empty: list[Any] = [None] * len(specs)
        done: Future[RewardBatch] = Future()
        done.set_result(RewardBatch(as_column("reward", answer, len(specs)), empty, empty))
        return done

    def close(self) -> None:
        """Do nothing: there is no thread to end."""


def load_reward(reward: Any, *, credit: str = CREDIT, device: str = "auto") -> Reward:
    """Load a reward.

    Args:
        reward: A backend (`lite`, `nanodet`, `paper`, `mmdet`); a name of `geneval_reward.reward.models`, such as `pick_score`;
            `module:function`; a function of images, prompts and metadata; or a `Reward`.
        credit: Credits of a backend's verdict to add, joined by `+`.
        device: Where to load it.

    Raises:
        UsageError: If it is none of these.
    """
    if isinstance(reward, str) and reward in BACKENDS:
        names = tuple(name.strip() for name in credit.split("+"))
        return CreditReward(GenEvalReward(reward, device=device), names)
    if isinstance(reward, str):
        name = reward
        if not is_import_path(name) and name not in MODEL_NAMES:
            known = ", ".join((*BACKENDS, *MODEL_NAMES))
            raise UsageError(f"reward: expected one of {known}, module:function, got {name!r}")
        reward = import_object(name, "reward") if is_import_path(name) else model_reward(name, device=device)
    if callable(getattr(reward, "submit", None)):
        ready: Reward = reward
        return ready
    return FunctionReward(reward)


def load_features(features: str | Callable[[Any], Any] | None, *, device: str = "auto") -> Callable[[Any], Any] | None:
    """Load features for clustering.

    Args:
        features: None for the model's own; a folder or hub name of a DINOv2 model, as in TTS-VAR
            (`facebook/dinov2-with-registers-large`); `module:function`; or a function of images.
        device: Where to load the model.
    """
    if features is None or callable(features):
        return features
    if is_import_path(features):
        made: Callable[[Any], Any] = import_object(features, "features")
        return made
    return PatchFeatures(features, device=device)


class PatchFeatures:
    """Normalised patch tokens of a vision transformer, at 224 pixels: `(n, 256, d)` for DINOv2.

    Args:
        model: A folder or hub name that `transformers.AutoModel` loads, or such a model.
        device: A torch device or `auto`.
    """

    def __init__(self, model: Any, *, device: str = "auto") -> None:
        if isinstance(model, str):
            model = require("transformers", "diffusers", "features").AutoModel.from_pretrained(model)
        self.model = model.to(resolve_device(device)).eval()

    @torch.no_grad()
    def __call__(self, images: Any) -> torch.Tensor:
        """Compute features.

        Args:
            images: What `geneval_reward.vision.images.as_images` takes.
        """
        from torchvision.transforms.v2 import functional as F

        from geneval_reward.vision.images import as_images

        pixels = [F.resize(image, [224, 224], antialias=True).float() / 255 for image in as_images(images)]
        batch = F.normalize(torch.stack(pixels), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        tokens = self.model(batch.to(self.model.device, self.model.dtype)).last_hidden_state
        patches: torch.Tensor = tokens[:, 1 + int(getattr(self.model.config, "num_register_tokens", 0)) :].float().cpu()
        return patches
