"""`Steps` for diffusers pipelines: flow models, and models with a DDIM scheduler."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import torch
from torch import Tensor

from geneval_reward.errors import UsageError
from geneval_reward.generate import seed_for
from geneval_reward.rl import euler_step, predict_x0, sde_step
from geneval_reward.support.devices import stack_to_device
from geneval_reward.support.inference import run_in_batches
from geneval_reward.train.policy import FlowPolicy, decode_latents

NOISE_LEVELS: Final = {"cps": 0.8, "sde": 0.7, "ode": 0.0}


@dataclass(frozen=True)
class LatentState:
    """Candidates of one prompt between two steps.

    Attributes:
        x: Latents, (n, C, H, W).
        x0: The clean latents that the last step predicted, (n, C, H, W); before the first step the latents.
        seeds: One per candidate.
        prompt: The encoded prompt, one row for all.
    """

    x: Tensor
    x0: Tensor
    seeds: tuple[int, ...]
    prompt: Any


class LatentSteps(ABC):
    """Shared by all diffusers pipelines: noise from seeds, shrinking batches, previews of the predicted clean latents."""

    n_steps: int
    stochastic: bool
    shape: tuple[int, int, int]
    vae: Any
    device: torch.device
    batch_size: int

    @abstractmethod
    def encode(self, prompt: str) -> Any:
        """Encode a prompt as one row."""

    @abstractmethod
    def step(self, x: Tensor, step: int, prompt: Any, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """Take a step; return the next latents and the clean latents that it predicted, both float32."""

    @torch.no_grad()
    def start(self, prompt: str, seeds: Sequence[int]) -> LatentState:
        """Draw each candidate's initial noise on the CPU, as `DiffusersGenerator` does."""
        if not isinstance(prompt, str):
            raise TypeError(f"prompt: expected a string, got {type(prompt).__name__}")
        x = self._noise(seeds)
        return LatentState(x, x, tuple(seeds), self.encode(prompt))

    @torch.no_grad()
    def advance(self, state: LatentState, step: int) -> LatentState:
        """Take a step for all candidates, in batches that fit in memory."""
        seeds = [seed_for(seed, "noise of a step", step) for seed in state.seeds]

        def run(part: slice) -> list[tuple[Tensor, Tensor]]:
            noise = self._noise(seeds[part]) if self.stochastic else None
            return list(zip(*self.step(state.x[part], step, state.prompt, noise), strict=True))

        pairs, self.batch_size = run_in_batches(run, len(seeds), self.batch_size, name="search")
        x, x0 = (torch.stack(list(column)) for column in zip(*pairs, strict=True))
        return replace(state, x=x, x0=x0)

    def preview(self, state: LatentState) -> list[Tensor]:
        """Decode the clean latents that the last step predicted (a mean, not a sample): uint8 images (3, h, w)."""
        return self._decode(state.x0)

    def features(self, state: LatentState) -> Tensor:
        """Return the clean latents that the last step predicted, flattened: (n, d)."""
        return state.x0.flatten(1)

    def take(self, state: LatentState, rows: Sequence[int], seeds: Sequence[int]) -> LatentState:
        """Gather candidates; the prompt is one row shared by all, and the samplers keep no history."""
        index = torch.as_tensor(list(rows), dtype=torch.long, device=state.x.device)
        return replace(state, x=state.x[index], x0=state.x0[index], seeds=tuple(seeds))

    def images(self, state: LatentState) -> list[Tensor]:
        """Decode the finished latents: uint8 images (3, h, w)."""
        return self._decode(state.x)

    def cost(self, step: int, n: int) -> float:
        """All steps cost the same; guidance doubles plain images and candidates alike."""
        return n / self.n_steps

    def _decode(self, latents: Tensor) -> list[Tensor]:
        images, self.batch_size = run_in_batches(
            lambda part: list(decode_latents(self.vae, latents[part])), len(latents), self.batch_size, name="search"
        )
        return images

    def _noise(self, seeds: Sequence[int]) -> Tensor:
        rows = [torch.randn(self.shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return stack_to_device(rows, self.device)


class FlowSteps(LatentSteps):
    """Steps of a flow pipeline: Stable Diffusion 3 and 3.5, FLUX, the pocket model.

    The SDE's last step is taken without noise, which would stay in the image; CPS adds none there anyway.

    Args:
        policy: The pipeline as a policy.
        steps: Number of steps, >= 2.
        sampler: `cps` (coefficients-preserving sampling), `sde` (Flow-GRPO), or `ode`, which has no noise.
        noise: Noise level; None for 0.8 (`cps`) or 0.7 (`sde`).
        batch_size: Candidates per pass; halved when memory runs out.

    Raises:
        UsageError: If a number is out of range or the sampler is unknown.
    """

    def __init__(
        self,
        policy: FlowPolicy,
        *,
        steps: int,
        sampler: Literal["cps", "sde", "ode"] = "cps",
        noise: float | None = None,
        batch_size: int = 8,
    ) -> None:
        _check_numbers(steps, batch_size)
        if sampler not in NOISE_LEVELS:
            raise UsageError(f"sampler: expected one of {', '.join(NOISE_LEVELS)} for a flow model, got {sampler!r}")
        level = NOISE_LEVELS[sampler] if noise is None else noise
        if (level > 0) == (sampler == "ode") or (sampler == "cps" and level > 1):
            raise UsageError(
                f"noise: expected a number > 0, at most 1 for cps and none for ode, got {noise} with {sampler!r}"
            )
        self.policy, self.sampler, self.level = policy, sampler, level
        self.n_steps, self.batch_size, self.stochastic = steps, batch_size, sampler != "ode"
        self.shape, self.vae, self.device = policy.latent_shape, policy.pipeline.vae, policy.device
        self.times: list[float] = policy.sigmas(steps).tolist()

    def encode(self, prompt: str) -> Any:
        """Encode a prompt as one row."""
        return self.policy.encode([prompt])

    def step(self, x: Tensor, step: int, prompt: Any, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """Take a step with the velocity of the pipeline's transformer."""
        t, t_next = self.times[step], self.times[step + 1]
        conditions = prompt.rows(torch.zeros(len(x), dtype=torch.long, device=prompt.embeds.device))
        v = self.policy.velocity(self.policy.transformer, conditions)(x, torch.full((len(x),), t, device=x.device))
        x0 = predict_x0(x, v, t)
        if noise is None or t_next == 0:
            return euler_step(v, x, t, t_next), x0
        kind: Any = self.sampler
        return sde_step(v, x, t, t_next, kind=kind, noise_level=self.level, noise=noise).x_next, x0


class DiffusionSteps(LatentSteps):
    """Steps of Stable Diffusion 1.x and 2.x, SDXL and PixArt by DDIM, whose scheduler returns `pred_original_sample`.

    Args:
        pipeline: The pipeline; its scheduler is replaced by a DDIM scheduler of the same noise levels.
        steps: Number of steps, >= 2.
        guidance: Classifier-free guidance; 1 for none.
        eta: Noise of DDIM: 1 as in Feynman-Kac steering, 0 for none.
        resolution: Height and width in pixels; None for the pipeline's own.
        batch_size: Candidates per pass; halved when memory runs out.

    Raises:
        UsageError: If the pipeline is of another kind or a number is out of range.
    """

    def __init__(
        self,
        pipeline: Any,
        *,
        steps: int,
        guidance: float = 7.5,
        eta: float = 1.0,
        resolution: int | None = None,
        batch_size: int = 8,
    ) -> None:
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler

        _check_numbers(steps, batch_size)
        if not 0 <= eta <= 1 or guidance < 1:
            raise UsageError(f"noise, guidance: expected eta in [0, 1] and guidance >= 1, got {eta} and {guidance}")
        network: Any = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
        kinds = {"UNet2DConditionModel": "unet", "PixArtTransformer2DModel": "pixart"}
        self.family = next((kinds[kind.__name__] for kind in type(network).__mro__ if kind.__name__ in kinds), "")
        if not self.family or "beta_schedule" not in pipeline.scheduler.config:
            raise UsageError(
                f"pipeline: expected one with a UNet or PixArt transformer and a diffusion scheduler, got "
                f"{type(pipeline).__name__}"
            )
        self.pipeline, self.guidance, self.eta = pipeline, guidance, eta
        self.network: Any = network
        # Some configurations would clip to [-1, 1], but latents exceed that range.
        self.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False, thresholding=False)
        self.scheduler.set_timesteps(steps)
        self.n_steps, self.batch_size, self.stochastic = steps, batch_size, eta > 0
        self.device, self.vae, factor = network.device, pipeline.vae, int(pipeline.vae_scale_factor)
        side = resolution or int(network.config.sample_size) * factor
        if side % (factor * 2):
            raise UsageError(f"resolution: expected a multiple of {factor * 2}, got {side}")
        self.side, self.shape = side, (int(pipeline.vae.config.latent_channels), side // factor, side // factor)
        pipeline.vae.float()

    def encode(self, prompt: str) -> dict[str, Any]:
        """Encode a prompt as one row, or two with guidance: without the prompt first."""
        guided = self.guidance > 1
        options: dict[str, Any] = {
            "device": self.device,
            "num_images_per_prompt": 1,
            "do_classifier_free_guidance": guided,
        }
        found = self.pipeline.encode_prompt(prompt, **options)
        if self.family == "pixart":
            embeds, mask, away, away_mask = found
            return {
                "encoder_hidden_states": _pair(away, embeds, guided),
                "encoder_attention_mask": _pair(away_mask, mask, guided),
                "added_cond_kwargs": self._size(2 if guided else 1),
            }
        texts = {"encoder_hidden_states": _pair(found[1], found[0], guided)}
        if len(found) == 2:
            return texts
        pooled = _pair(found[3], found[2], guided)  # SDXL, which also takes pooled embeddings and sizes
        sizes = torch.tensor([[self.side, self.side, 0, 0, self.side, self.side]]).to(pooled)
        return texts | {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes.expand(len(pooled), -1)}}

    def step(self, x: Tensor, step: int, prompt: Any, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """Take a DDIM step with the pipeline's network."""
        time = self.scheduler.timesteps[step]
        rows = len(prompt["encoder_hidden_states"])
        given = _repeat(prompt, len(x))
        both = torch.cat([x] * rows).to(self.network.dtype)
        timestep = time.to(x.device).expand(len(both))
        out = self.network(both, timestep=timestep, return_dict=False, **given)[0].float()
        if out.shape[1] == 2 * x.shape[1]:  # PixArt also predicts a variance
            out = out.chunk(2, 1)[0]
        if rows == 2:
            away, towards = out.chunk(2)
            out = away + self.guidance * (towards - away)
        taken = self.scheduler.step(out, time, x, eta=self.eta, variance_noise=noise)
        return taken.prev_sample, taken.pred_original_sample

    def _size(self, rows: int) -> dict[str, Tensor | None]:
        if int(self.network.config.sample_size) != 128:  # only the 1024-pixel models take a size
            return {"resolution": None, "aspect_ratio": None}
        size = torch.tensor([[self.side, self.side]] * rows, dtype=self.network.dtype, device=self.device)
        return {"resolution": size, "aspect_ratio": torch.ones(rows, 1, dtype=self.network.dtype, device=self.device)}


def _check_numbers(steps: int, batch_size: int) -> None:
    for name, value, least in (("steps", steps, 2), ("batch_size", batch_size, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UsageError(f"{name}: expected an integer >= {least}, got {value!r}")


def _pair(away: Tensor, towards: Tensor, guided: bool) -> Tensor:
    return torch.cat([away, towards]) if guided else towards


def _repeat(value: Any, count: int) -> Any:
    """Repeat each row of all tensors: candidates without the prompt first, then those with it."""
    if isinstance(value, dict):
        return {name: _repeat(one, count) for name, one in value.items()}
    return value.repeat_interleave(count, 0) if isinstance(value, Tensor) else value
