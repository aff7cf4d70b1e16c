from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from geneval_reward.callback.sampler import Sampler
from geneval_reward.errors import ImageError
from geneval_reward.generate import ForeignGenerator

CPU = torch.device("cpu")


def pictures(prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
    return [Image.new("RGB", (4, 6), (seed, 0, 0)) for seed in seeds]


class Module(nn.Module):
    def generate(self, prompts: Sequence[str], seeds: Sequence[int], red: int = 0) -> Any:
        return [Image.new("RGB", (4, 6), (seed + red, 0, 0)) for seed in seeds]


class Generator:
    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> Any:
        return pictures(prompts, seeds)


def with_module(module: nn.Module, prompts: Sequence[str], seeds: Sequence[int]) -> Any:
    assert isinstance(module, nn.Module)
    return pictures(prompts, seeds)


@pytest.mark.parametrize(
    ("module", "sample_fn"), [(Module(), None), (nn.Identity(), with_module), (Module(), Generator())]
)
def test_sources_of_images(module: nn.Module, sample_fn: Any) -> None:
    images = Sampler(module, sample_fn).sample(["a", "b"], [7, 9], CPU)
    assert [int(image[0, 0, 0]) for image in images] == [7, 9]
    assert images[0].shape == (3, 6, 4)
    assert images[0].dtype == torch.uint8


def test_arguments_are_passed_on() -> None:
    assert int(Sampler(Module(), None, {"red": 5}).sample(["a"], [7], CPU)[0][0, 0, 0]) == 12


def test_nothing_to_sample_with() -> None:
    with pytest.raises(ValueError, match=r"expected Identity\.generate\(prompts, seeds\).* got 0 pipelines"):
        Sampler(nn.Identity())
    with pytest.raises(ValueError, match="sample_fn: expected a function"):
        Sampler(Module(), 3)


def test_modules_are_in_eval_mode() -> None:
    module = nn.Sequential(nn.Dropout())
    with Sampler(module, with_module).sampling():
        assert not module.training
        assert not module[0].training


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "sample_fn: expected 2 images, one per prompt, got 0"),
        (torch.zeros(3, 3, 8, 8), "expected 2 images, one per prompt, got 3"),
        (None, "expected 2 images, one per prompt, got NoneType"),
        (torch.linspace(-1, 1, 384).reshape(2, 3, 8, 8), r"sample_fn: images\[0\]: .*range \[-1, .*map \[-1, 1\]"),
        ([torch.zeros(3, 8, 8), torch.full((3, 8, 8), torch.nan)], r"sample_fn: images\[1\]: .*NaN"),
        (torch.rand(2, 3, 8, 8) * 255, r"sample_fn: images\[0\]: .*divide by 255"),
        (
            [torch.zeros(3, 8, 8), torch.zeros(3, 8, 8, device="meta")],
            r"images\[1\]: .*on cpu or the CPU, got one on meta",
        ),
        (["a.png", "b.png"], r"sample_fn: images\[0\]: a.png: expected an image file, got nothing"),
    ],
)
def test_bad_images_are_named(images: Any, message: str) -> None:
    sampler = Sampler(Module(), lambda module, prompts, seeds: images)
    with pytest.raises(ImageError, match=message):
        sampler.sample(["a", "b"], [1, 2], CPU)


def test_output_objects_and_arrays() -> None:
    class Output:
        images = np.zeros((1, 8, 8, 3), np.uint8)

    assert Sampler(Module(), lambda *_: Output()).sample(["a"], [1], CPU)[0].shape == (3, 8, 8)


def test_a_model_in_another_python(tmp_path: Path) -> None:
    file = tmp_path / "gray.py"
    file.write_text(
        "from PIL import Image\nclass Gray:\n    seeding = 'given'\n    def generate(self, prompts, seeds):\n"
        "        return [Image.new('RGB', (4, 6), (seed, 0, 0)) for seed in seeds]\n"
    )
    with ForeignGenerator(f"{file}:Gray", python=sys.executable) as generator:
        images = Sampler(nn.Identity(), generator).sample(["a", "b"], [7, 9], CPU)
    assert [int(image[0, 0, 0]) for image in images] == [7, 9]
