"""Train the pocket text-to-image model by likelihood, from nothing, on scenes made on the fly.

    python tools/pocket/train.py fit --config configs/pocket_train.yaml

A rectified flow (Liu et al. 2022; logit-normal times as in Stable Diffusion 3, Esser et al. 2024) over scene latents.
Captions of the training set are partly wrong, as web captions are, so the model is an honest base: right about single
objects, often wrong about counts, places and whose colour is whose. No reward is used here.

Goes on after an interruption with `--ckpt_path last`. Writes the averaged weights as a diffusers folder, with their
provenance, to `model.out`.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import diffusers
import lightning
import numpy as np
import torch
import transformers
from lightning.pytorch.cli import LightningCLI
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, IterableDataset

import geneval_reward
from geneval_reward.pocket.build import build_pipeline
from geneval_reward.pocket.codec import CENTRE, CHANNELS, encode_scenes
from geneval_reward.pocket.text import MAX_TOKENS, encode_text, make_tokenizer
from geneval_reward.pocket.world import Noise, sample_training_scenes
from geneval_reward.prompts import TAGS
from geneval_reward.train.muon import MuonAndAdamW

Batch = dict[str, torch.Tensor]


class CaptionedScenes(IterableDataset[Batch]):
    """Batches of captions and scene latents. The batch of a step depends on nothing but the seed and the step."""

    def __init__(self, seed: int, first: int, last: int, batch_size: int, mix: Mapping[str, int], noise: Noise) -> None:
        self.seed, self.first, self.last, self.batch_size, self.noise = seed, first, last, batch_size, noise
        self.mix = mix
        self.tokenizer = make_tokenizer()

    def __iter__(self) -> Iterator[Batch]:
        for step in range(self.first, self.last):
            yield self.batch(step)

    def batch(self, step: int) -> Batch:
        rng = np.random.default_rng([self.seed, step])
        specs, scenes = sample_training_scenes(rng, self.batch_size, self.mix, self.noise)
        words = self.tokenizer(
            [spec.prompt for spec in specs], padding="max_length", max_length=MAX_TOKENS, return_tensors="pt"
        )
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        latents = encode_scenes(scenes).repeat(2, 1, 1, 1)
        # Each scene is seen at two mirrored times: the text is read once for both, and times vary less from batch to batch.
        level = torch.randn(len(scenes), generator=generator)
        return {
            "input_ids": words.input_ids,
            "attention_mask": words.attention_mask,
            "latents": latents,
            "noise": torch.randn(latents.shape, generator=generator),
            "time": torch.cat([level, -level]).sigmoid(),
            "uncaptioned": torch.rand(len(scenes), generator=generator),
        }


class Scenes(lightning.LightningDataModule):
    """The training data.

    Args:
        seed: Of all scenes and captions.
        batch_size: Scenes per step; each is seen at two times.
        mix: Weight of each task's captions.
        noise: How often a caption is wrong; see `geneval_reward.pocket.world.Noise`.
        workers: Processes that make scenes beside the training; 0 makes them in it.
    """

    def __init__(
        self,
        seed: int = 0,
        batch_size: int = 64,
        mix: dict[str, int] | None = None,
        noise: dict[str, float] | None = None,
        workers: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.mix = mix or dict.fromkeys(TAGS, 1)
        self.noise = Noise.parse(noise)

    def train_dataloader(self) -> DataLoader[Batch]:
        h, trainer = self.hparams, self.trainer
        data = CaptionedScenes(h.seed, trainer.global_step, trainer.max_steps, h.batch_size, self.mix, self.noise)
        # Several workers would each go through all steps; one keeps their order.
        return DataLoader(data, batch_size=None, num_workers=min(h.workers, 1))


class PocketFlow(lightning.LightningModule):
    """The transformer and the text encoder in training, and their moving average, which is what is kept.

    Args:
        seed: Of the first weights.
        lr: Highest learning rate of AdamW; it rises over `warmup` steps and falls to 0 at the last.
        muon_lr: Highest learning rate of Muon, on the same schedule.
        warmup: Steps.
        ema: Decay of the moving average.
        uncaptioned: Share of captions that are left out, which makes empty prompts and guidance work.
        place_weight: Weight of the errors of centres in the loss; those of all other channels weigh 1.
        out: Folder for the averaged weights; not written if None.
        generate_steps: Steps of `generate`.
    """

    def __init__(
        self,
        seed: int = 0,
        lr: float = 1e-3,
        muon_lr: float = 2e-3,
        warmup: int = 50,
        ema: float = 0.995,
        uncaptioned: float = 0.1,
        place_weight: float = 4.0,
        out: str | None = None,
        generate_steps: int = 8,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.pipe = build_pipeline(seed)
        self.pipe.set_progress_bar_config(disable=True)
        self.live = torch.nn.ModuleDict({"transformer": self.pipe.transformer, "text": self.pipe.text_encoder})
        self.averaged = AveragedModel(self.live, multi_avg_fn=get_ema_multi_avg_fn(ema)).requires_grad_(False)
        self.live.train()
        self.curve: list[float] = []
        self.seconds = 0.0

    def configure_optimizers(self) -> Any:
        optimizer = MuonAndAdamW(self.live, self.hparams.muon_lr, self.hparams.lr)
        last, warmup = self.trainer.max_steps, self.hparams.warmup
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / warmup, max(last - step, 0) / max(last - warmup, 1))
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: Batch, _: int) -> torch.Tensor:
        # A dropped caption leaves the text's end alone, which is what an empty prompt is.
        empty = batch["uncaptioned"] < self.hparams.uncaptioned
        ids, mask = batch["input_ids"].clone(), batch["attention_mask"].clone()
        ids[empty, 0], mask[empty, 1:] = self.pipe.tokenizer.eos_token_id, 0
        words, pooled = encode_text(self.live["text"], ids, mask)
        time = batch["time"].view(-1, 1, 1, 1)
        noisy = (1 - time) * batch["latents"] + time * batch["noise"]
        velocity = self.live["transformer"](
            hidden_states=noisy,
            timestep=batch["time"] * 1000,
            encoder_hidden_states=words.repeat(2, 1, 1),
            pooled_projections=pooled.repeat(2, 1),
            return_dict=False,
        )[0]
        error = (velocity - (batch["noise"] - batch["latents"])).square()
        # The weight moves no minimum, since every channel has its own; it makes places heard among many sure channels.
        weight = torch.ones(CHANNELS, 1, 1)
        weight[CENTRE] = self.hparams.place_weight
        self.log("loss", error.mean(), prog_bar=True)
        self.curve.append(float(error.detach().mean()))
        return (error * weight).mean() / weight.mean()

    def on_train_start(self) -> None:
        self.started = time.perf_counter()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        # Here and not in on_train_batch_end, which comes after the checkpoint callback's: a checkpoint would lack a step.
        self.averaged.update_parameters(self.live)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["curve"] = self.curve
        checkpoint["seconds"] = self.seconds + time.perf_counter() - self.started

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.curve, self.seconds = list(checkpoint["curve"]), float(checkpoint["seconds"])

    def on_train_end(self) -> None:
        self.seconds += time.perf_counter() - self.started
        if self.hparams.out and self.trainer.is_global_zero:
            self.export(Path(self.hparams.out))

    def generate(self, prompts: list[str], seeds: list[int], **kwargs: Any) -> list[Any]:
        """Images of the weights in training; what `GenEvalCallback` calls."""
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        kwargs = {"num_inference_steps": self.hparams.generate_steps} | kwargs
        return self.pipe(prompts, generator=generators, **kwargs).images

    def export(self, folder: Path) -> None:
        """Write the averaged weights as float16 in a diffusers folder, with `PROVENANCE.json`."""
        pipe = build_pipeline(self.hparams.seed)
        pipe.transformer.load_state_dict(self.averaged.module["transformer"].state_dict())
        pipe.text_encoder.load_state_dict(self.averaged.module["text"].state_dict())
        for part in (pipe.transformer, pipe.text_encoder, pipe.vae):
            part.half()
        pipe.save_pretrained(folder)
        data = self.trainer.datamodule
        names = sorted(str(path.relative_to(folder).as_posix()) for path in folder.rglob("*") if path.is_file())
        names = [name for name in names if name != "PROVENANCE.json"]
        about = {
            "about": "Weights of the pocket text-to-image model: the moving average of likelihood training, as float16.",
            "licence": "Apache-2.0",
            "made_by": "python tools/pocket/train.py fit --config configs/pocket_train.yaml",
            "seed": {"weights": self.hparams.seed, "data": data.hparams.seed},
            "steps": self.global_step,
            "batch_size": data.hparams.batch_size,
            "seconds": round(self.seconds),
            "options": {name: value for name, value in self.hparams.items() if name not in ("out", "_instantiator")},
            "noise": {name: getattr(data.noise, name) for name in data.noise.__slots__},
            "mix": data.mix,
            "parameters": sum(p.numel() for p in self.live.parameters()),
            "loss_curve": _summary(self.curve),
            "versions": {
                "geneval_reward": geneval_reward.__version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "diffusers": diffusers.__version__,
                "transformers": transformers.__version__,
                "lightning": lightning.__version__,
            },
            "sha256": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names},
        }
        (folder / "PROVENANCE.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _summary(curve: list[float], points: int = 20) -> list[dict[str, float]]:
    """Mean loss over equal parts of the run."""
    parts = np.array_split(np.arange(len(curve)), min(points, max(len(curve), 1)))
    return [
        {"to_step": int(part[-1]) + 1, "loss": round(float(np.mean([curve[i] for i in part])), 4)}
        for part in parts
        if len(part)
    ]


def main() -> None:
    """The command line."""
    LightningCLI(PocketFlow, Scenes, save_config_kwargs={"overwrite": True})


if __name__ == "__main__":
    main()
