import numpy as np
import pytest
import torch
from PIL import Image

from geneval_reward.errors import ImageError
from geneval_reward.generate import CallableGenerator, Generator, seed_for


def noise(prompts, seeds):
    """An image from its own seed, as a tensor."""
    return torch.stack([torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def test_batches_do_not_change_an_image() -> None:
    prompts = [f"prompt {i}" for i in range(5)]
    seeds = [seed_for(0, prompt, 0) for prompt in prompts]
    whole = CallableGenerator(noise).generate(prompts, seeds)
    pairs = CallableGenerator(noise, batch_size=2).generate(prompts, seeds)
    assert isinstance(CallableGenerator(noise), Generator)
    assert [image.size for image in whole] == [(5, 4)] * 5
    assert [image.tobytes() for image in whole] == [image.tobytes() for image in pairs]
    assert len({image.tobytes() for image in whole}) == 5


def test_a_function_with_global_chance_gets_one_image_a_call() -> None:
    sizes = []

    def paint(prompts, seeds):
        sizes.append(len(prompts))
        return [(torch.rand(2, 2, 3) * 255).to(torch.uint8).numpy() for _ in prompts]

    generator = CallableGenerator(paint, batch_size=8, seeding="global")
    state = torch.random.get_rng_state()
    first = generator.generate(["a", "b", "c"], [7, 8, 7])
    assert sizes == [1, 1, 1]
    assert generator.batch_size == 1
    assert torch.equal(state, torch.random.get_rng_state()), "the caller's chance must be given back"
    assert first[0].tobytes() == first[2].tobytes() != first[1].tobytes()


def test_kinds_of_images() -> None:
    kinds = [
        Image.new("RGBA", (3, 2), (255, 0, 0, 9)),
        np.full((2, 3, 3), 255, np.uint8),
        torch.ones(3, 2, 3),
        torch.full((3, 2, 3), 255, dtype=torch.uint8),
        torch.ones(2, 3, 3, dtype=torch.bfloat16),
    ]
    images = CallableGenerator(lambda prompts, seeds: kinds).generate(["x"] * 5, range(5))
    assert [image.mode for image in images] == ["RGB"] * 5
    assert [image.size for image in images] == [(3, 2)] * 5
    assert images[1].tobytes() == images[2].tobytes() == images[3].tobytes()


def test_batches_shrink_when_memory_runs_out() -> None:
    calls = []

    def tight(prompts, seeds):
        calls.append(len(prompts))
        if len(prompts) > 2:
            raise MemoryError
        return noise(prompts, seeds)

    generator = CallableGenerator(tight, batch_size=6)
    assert len(generator.generate(["x"] * 5, range(5))) == 5
    assert calls == [5, 2, 2, 1]
    assert generator.batch_size == 2


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: CallableGenerator("paint"), TypeError, "function: expected something to call, got str"),
        (
            lambda: CallableGenerator(noise, seeding="none"),
            ValueError,
            "seeding: expected 'given' or 'global', got 'none'",
        ),
        (lambda: CallableGenerator(noise, batch_size=0), ValueError, "batch_size: expected an integer >= 1, got 0"),
        (lambda: CallableGenerator(noise).generate("ab", [1, 2]), TypeError, "got one string"),
        (lambda: CallableGenerator(noise).generate(["a"], []), ValueError, "expected one per prompt"),
        (lambda: CallableGenerator(lambda p, s: None).generate(["a"], [1]), ValueError, "got NoneType"),
        (lambda: CallableGenerator(lambda p, s: []).generate(["a"], [1]), ValueError, "expected 1 image, .*got 0"),
        (
            lambda: CallableGenerator(lambda p, s: [np.zeros((4, 4), np.uint8)]).generate(["a"], [1]),
            ValueError,
            r"images\[0\]: expected \(height, width, 3\).*got \(4, 4\)",
        ),
        (
            lambda: CallableGenerator(lambda p, s: noise(p, s) * 2 - 1).generate(["a", "b"], [1, 2]),
            ValueError,
            r"images\[0\]: expected floats in \[0, 1\], got -",
        ),
        (
            lambda: CallableGenerator(lambda p, s: noise(p, s) * float("nan")).generate(["a"], [1]),
            ValueError,
            "expected finite pixels, got NaN",
        ),
        (
            lambda: CallableGenerator(lambda p, s: [np.zeros((4, 4, 3), np.int64)]).generate(["a"], [1]),
            ValueError,
            "expected uint8 or floats, got int64",
        ),
    ],
)
def test_bad_input(make, error, message) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_no_image(value) -> None:
    image = np.full((4, 4, 3), 0.5, np.float32)
    image[0, 0, 0] = value
    with pytest.raises(ImageError, match=r"images\[1\]: expected finite pixels, .* \(prompt 'b', seed 6\)"):
        CallableGenerator(lambda prompts, seeds: [np.zeros((4, 4, 3)), image]).generate(["a", "b"], [5, 6])


def test_samplers_that_draw_from_numpy_depend_on_the_seed_alone() -> None:
    def paint(prompts, seeds):
        return [np.full((2, 2, 3), np.random.randint(256), np.uint8)]  # noqa: NPY002

    generator = CallableGenerator(paint, seeding="global")
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    seeds = [2**62 + 1, 5, 2**62 + 1]
    first, second, third = (image.tobytes() for image in generator.generate(["a"] * 3, seeds))
    assert first == third != second
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


def test_a_sampler_of_32_bit_seeds_learns_what_to_do() -> None:
    def paint(prompts, seeds):
        np.random.seed(seeds[0])  # noqa: NPY002

    with pytest.raises(ValueError, match=r"function: expected one that takes seeds of up to 63 bits, .*seed % 2\*\*32"):
        CallableGenerator(paint).generate(["a"], [2**40])
