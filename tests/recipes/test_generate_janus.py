"""The worked example of an autoregressive model: `transformers`' Janus classes with random weights."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from geneval_reward.generate import CallableGenerator, load_generator, seed_for

RECIPE = Path(__file__).parents[2] / "recipes" / "generate_janus.py"
PROMPTS = ["a photo of a dog", "two cups", "a photo of a red clock above a blue vase", "a cat", "a photo of a dog"]


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("generate_janus", RECIPE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_image_depends_on_its_prompt_and_seed_alone(recipe) -> None:
    generator = recipe.tiny_janus()
    seeds = [seed_for(0, prompt, index) for index, prompt in enumerate(PROMPTS)]
    torch.manual_seed(1)
    whole = generator.generate(PROMPTS, seeds)
    torch.manual_seed(2)  # global chance must not matter
    again = generator.generate(PROMPTS, seeds)
    alone = [generator.generate([prompt], [seed])[0] for prompt, seed in zip(PROMPTS, seeds, strict=True)]
    assert {image.size for image in whole} == {(16, 16)}
    assert [image.tobytes() for image in whole] == [image.tobytes() for image in again]
    for one, other in zip(whole, alone, strict=True):
        assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 1
    assert len({image.tobytes() for image in whole}) == len(PROMPTS), "prompt and seed must matter"
    other_seed = generator.generate(PROMPTS[:1], [seeds[0] + 1])[0]
    assert other_seed.tobytes() != whole[0].tobytes()
    other_prompt = generator.generate(PROMPTS[1:2], seeds[:1])[0]
    assert other_prompt.tobytes() != whole[0].tobytes()


def test_the_command_line_finds_it() -> None:
    generator = load_generator(f"{RECIPE}:tiny_janus")
    assert isinstance(generator, CallableGenerator)
    assert len(generator.generate(["a photo of a dog"], [0])) == 1
