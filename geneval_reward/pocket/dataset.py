"""The pocket world as a data set of images: WebDataset tar files of pictures, captions, records and latents."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from geneval_reward.errors import UsageError
from geneval_reward.pocket.codec import encode_scenes
from geneval_reward.pocket.load import provenance
from geneval_reward.pocket.render import render
from geneval_reward.pocket.world import Noise, sample_training_scenes
from geneval_reward.support.files import write_whole

SHARD_SIZE: Final = 1000
"""Images per tar file."""


def write_captioned_images(folder: str | Path, images: int, *, seed: int = 0) -> list[Path]:
    """Write pictures with captions that are partly wrong, as web captions are: what the packaged model learned from.

    A sample is `<key>.png` (256 x 256), `<key>.txt` (the caption), `<key>.json` (the caption's record) and `<key>.npy` (the
    scene as a latent, float32 `(25, 2, 2)`). Shards that are there already are left as they are, so an interrupted call goes
    on where it stopped.

    Args:
        folder: Gets the files `00000.tar`, `00001.tar` and so on, of 1,000 samples each.
        images: Number of images, >= 1.
        seed: Seed of captions and scenes; a shard depends on nothing else.

    Returns:
        The files.

    Raises:
        UsageError: If the number is below 1, or the folder holds shards of another number or seed.

    Examples:
        >>> import tempfile
        >>> (file,) = write_captioned_images(tempfile.mkdtemp(), 2)
        >>> file.name
        '00000.tar'
    """
    if images < 1:
        raise UsageError(f"images: expected an integer >= 1, got {images}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    about, note = folder / "about.json", {"images": images, "seed": seed, "made_by": "write_captioned_images"}
    if about.exists() and json.loads(about.read_text(encoding="utf-8")) != note:
        raise UsageError(
            f"{folder}: expected a folder without shards or with those of {images} images and seed {seed}, got others "
            f"({about.read_text(encoding='utf-8').strip()}); name another folder"
        )
    write_whole(about, json.dumps(note) + "\n")
    files = []
    for number, first in enumerate(range(0, images, SHARD_SIZE)):
        files.append(folder / f"{number:05d}.tar")
        if not files[-1].exists():
            write_whole(files[-1], _shard(seed, number, first, min(SHARD_SIZE, images - first)))
    return files


def _shard(seed: int, number: int, first: int, count: int) -> bytes:
    made = provenance()
    rng = np.random.default_rng([seed, number])
    specs, scenes = sample_training_scenes(rng, count, made["mix"], Noise.parse(made["noise"]))
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for row, (spec, scene, latent) in enumerate(zip(specs, scenes, encode_scenes(scenes).numpy(), strict=True)):
            picture, array = io.BytesIO(), io.BytesIO()
            Image.fromarray(render(scene)).save(picture, "PNG", compress_level=1)
            np.save(array, latent)
            parts = {
                "png": picture.getvalue(),
                "txt": spec.prompt.encode(),
                "json": spec.to_json().encode(),
                "npy": array.getvalue(),
            }
            for suffix, data in parts.items():
                member = tarfile.TarInfo(f"{first + row:08d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return file.getvalue()
