"""`AnnotatedImages`: images with captions and rewards, for training that is told how good each image is."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm  # type: ignore[import-untyped, unused-ignore]

from geneval_reward.annotate import annotate, read_annotations
from geneval_reward.annotate.captions import UnscorableError, find_caption
from geneval_reward.annotate.sources import open_parts
from geneval_reward.errors import UsageError
from geneval_reward.generate import seed_for
from geneval_reward.pocket.dataset import write_captioned_images
from geneval_reward.train.captions import CaptionBatch, Captions
from geneval_reward.train.reward_bins import RewardBins
from geneval_reward.vision.images import load_image


@dataclass
class AnnotatedBatch(CaptionBatch):
    """Captions, latents and levels.

    Attributes:
        levels: (B, rewards) in [0, 1], NaN where there is no reward; None without rewards.
        images: uint8 (3, h, w) each, where the data set has no latents.
    """

    levels: Tensor | None = None
    images: list[Tensor] | None = None


class AnnotatedImages(Captions):
    """Images with the rewards of each; the batch of a step depends on seed, step and rank alone.

    Args:
        folder: A data set that `annotate` reads. Samples may have the latents of their image (a `.npy` file in tar files);
            images without latents are held in memory as the files have them.
        images: Number of images of the pocket world to write to the folder first; None for a data set of one's own.
        rewards: Names of rewards, as `annotate` takes them; none for a model that is told of no reward.
        annotations: The table of `annotate`, made or completed if needed; None for `annotations.parquet` beside the folder.
        scorer: What judges GenEval's rewards.
        workers: Number of processes that annotate.
        bins: Number of bins of continuous rewards.
        shuffled: Give every image the rewards of another one: the control for what the tokens add by themselves.
        batch_size: Images per step and rank.
        seed: Seed of order, times and noise.

    Raises:
        UsageError: If a sample has no row in the table, no caption or no image.
    """

    def __init__(
        self,
        folder: str = "runs/miro/data",
        *,
        images: int | None = None,
        rewards: Sequence[str] = ("geneval_official", "geneval_partial"),
        annotations: str | None = None,
        scorer: str = "lite",
        workers: int | None = None,
        bins: int = 64,
        shuffled: bool = False,
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__("pocket", batch_size, seed)
        self.folder, self.images, self.rewards = Path(folder), images, tuple(rewards)
        self.table = self.folder.parent / "annotations.parquet" if annotations is None else Path(annotations)
        self.scorer, self.workers, self.n_bins, self.shuffled = scorer, workers, bins, shuffled
        self.samples: list[Sample] = []
        self.bins: RewardBins | None = None
        self.levels: Tensor | None = None

    def prepare_data(self) -> None:
        """Write the pictures of the pocket world if they are wanted, and annotate what has no annotations yet."""
        if self.images is not None:
            write_captioned_images(self.folder, self.images)
        if self.rewards:
            with tqdm(desc="annotating", unit=" images") as bar:
                annotate(
                    self.folder,
                    self.table,
                    self.rewards,
                    scorer=self.scorer,
                    workers=self.workers,
                    progress=lambda found: bar.update(found.samples - bar.n),
                )

    def setup(self, stage: str) -> None:
        """Read captions and latents, and choose the bins."""
        self.samples = read_samples(self.folder)
        if not self.rewards:
            return
        table = read_annotations(self.table)
        rows = {key: row for row, key in enumerate(table.keys)}
        unknown = [sample.key for sample in self.samples if sample.key not in rows]
        if unknown:
            raise UsageError(
                f"{self.table}: expected a row for each sample of {self.folder}, got none for {len(unknown)} of "
                f"{len(self.samples)}, such as {unknown[0]}; annotate this data set"
            )
        order = np.array([rows[sample.key] for sample in self.samples])
        for sample, row in zip(self.samples, order, strict=True):
            sample.caption = table.captions[row]  # the caption that was scored
        if self.shuffled:
            order = np.random.default_rng(self.seed).permutation(order)
        names = reward_names(self.rewards)
        if lacking := sorted(set(names) - set(table.rewards)):
            raise UsageError(f"{self.table}: expected a column {lacking[0]}, got {', '.join(table.rewards)}")
        columns = {name: table.rewards[name][order] for name in names}
        self.bins = RewardBins.fit(columns, self.n_bins)
        self.levels = torch.from_numpy(self.bins.levels(columns))

    def batch(self, step: int, rank: int = 0) -> AnnotatedBatch:
        """Make the batch of a step."""
        rows = np.random.default_rng([self.seed, step, rank]).integers(len(self.samples), size=self.batch_size)
        chosen = [self.samples[row] for row in rows]
        latents = [sample.latents for sample in chosen if sample.latents is not None]
        known = len(latents) == len(chosen)
        return AnnotatedBatch(
            [sample.caption for sample in chosen],
            torch.stack(latents) if known else None,
            seed_for(self.seed, f"annotated images of rank {rank}", step),
            None if self.levels is None else self.levels[rows],
            None if known else [sample.read() for sample in chosen],
        )


def reward_names(rewards: Sequence[str]) -> list[str]:
    """Return the names of the rewards' columns and tokens: what stands before `=`, or the reward itself."""
    return [reward.partition("=")[0].strip() for reward in rewards]


@dataclass
class Sample:
    """A sample of the data set.

    Attributes:
        key: Its name.
        caption: Its caption.
        image: The file of its image, as bytes or a path; None if latents are known.
        latents: (C, H, W), if they are known.
    """

    key: str
    caption: str
    image: bytes | Path | None = None
    latents: Tensor | None = None

    def read(self) -> Tensor:
        """Read the image, uint8 (3, h, w)."""
        assert self.image is not None
        return load_image(io.BytesIO(self.image) if isinstance(self.image, bytes) else self.image, self.key)


def read_samples(folder: str | Path) -> list[Sample]:
    """Read the samples of a data set; those without a caption or an image are refused by name."""
    parts, problems = open_parts(folder)
    found = []
    for raw in (raw for part in parts for raw in part.raw_samples()):
        try:
            sample = Sample(raw.key, find_caption(raw, None))
        except UnscorableError as error:
            problems.append(f"{raw.where}: {error}")
            continue
        if "npy" in raw.files:
            sample.latents = torch.from_numpy(np.load(io.BytesIO(raw.files["npy"])))
        elif raw.image is None:
            problems.append(str(raw.problem))
            continue
        else:
            sample.image = raw.image
        found.append(sample)
    if problems:
        raise UsageError(
            f"folder: expected a caption and an image in each sample of {folder}, got {len(problems)} without, such as "
            f"{problems[0]}; leave them out of the data set"
        )
    return found
