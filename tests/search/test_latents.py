import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from geneval_reward.errors import UsageError
from geneval_reward.generate import DiffusersGenerator
from geneval_reward.pocket import load_pipeline
from geneval_reward.search import load_steps, search
from geneval_reward.search.latents import DiffusionSteps
from geneval_reward.search.plan import named_plan
from geneval_reward.train.tiny import tiny_flux, tiny_sd3
from tests.search.tiny import tiny_pixart, tiny_sd, tiny_sdxl

FLOWS = {
    "sd3": lambda **options: load_steps(tiny_sd3(), steps=5, device="cpu", **options),
    "sd3 guided": lambda **options: load_steps(tiny_sd3(), steps=5, guidance=4.5, device="cpu", **options),
    "flux": lambda **options: load_steps(tiny_flux(), steps=5, device="cpu", **options),
    "pocket": lambda **options: load_steps("pocket", steps=5, device="cpu", **options),
}
DIFFUSIONS = {
    "sd": lambda **options: load_steps(tiny_sd(), steps=5, device="cpu", **options),
    "sd unguided": lambda **options: load_steps(tiny_sd(), steps=5, guidance=1.0, device="cpu", **options),
    "sdxl": lambda **options: load_steps(tiny_sdxl(), steps=5, device="cpu", **options),
    "pixart": lambda **options: load_steps(tiny_pixart(), steps=5, device="cpu", **options),
}
ALL = FLOWS | DIFFUSIONS


def run(steps, seeds, prompt="a photo of a clock"):
    state = steps.start(prompt, seeds)
    for step in range(steps.n_steps):
        state = steps.advance(state, step)
    return state


@pytest.mark.parametrize("name", ALL)
def test_a_candidate_depends_on_its_own_seed_and_not_on_the_batch(name) -> None:
    steps = ALL[name]()
    together, alone = run(steps, [3, 4, 5]), run(steps, [4])
    torch.testing.assert_close(together.x[1:2], alone.x, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(together.x[0], together.x[2], atol=1e-2)
    images = steps.images(alone)
    assert images[0].dtype == torch.uint8
    assert images[0].ndim == 3


@pytest.mark.parametrize("name", ALL)
def test_gathered_candidates_go_on_as_before_and_copies_differ(name) -> None:
    steps = ALL[name]()
    state = steps.start("a photo of a clock", [3, 4])
    for step in range(2):
        state = steps.advance(state, step)
    went_on = steps.take(state, [1, 1, 1], [4, 4, 99])
    for step in range(2, steps.n_steps):
        went_on = steps.advance(went_on, step)
    whole = run(steps, [3, 4])
    torch.testing.assert_close(went_on.x[0], whole.x[1], rtol=1e-3, atol=1e-3)
    # Without new noise a copy is the same candidate.
    torch.testing.assert_close(went_on.x[0], went_on.x[1], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(went_on.x[0], went_on.x[2], atol=1e-2)


@pytest.mark.parametrize("name", ["sd3", "flux", "pocket"])
def test_without_noise_a_flow_is_the_pipeline_itself(name) -> None:
    steps = FLOWS[name](sampler="ode")
    assert not steps.stochastic
    pipe = load_pipeline() if name == "pocket" else {"sd3": tiny_sd3, "flux": tiny_flux}[name]()
    options = {"num_inference_steps": 5, "guidance_scale": steps.policy.guidance_scale}
    if name == "sd3":
        steps.policy.guidance_scale = options["guidance_scale"] = 1.0
    if name != "pocket":
        options |= {"height": 32, "width": 32}
        pipe.set_progress_bar_config(disable=True)
    expected = DiffusersGenerator(pipe, **options).generate(["a photo of a clock"] * 2, [7, 8])
    for image, own in zip(expected, steps.images(run(steps, [7, 8])), strict=True):
        difference = np.abs(np.asarray(image, int) - own.permute(1, 2, 0).numpy().astype(int))
        assert difference.mean() < 1.0


def test_without_noise_ddim_is_the_pipeline_itself() -> None:
    from diffusers import DDIMScheduler

    pipe = tiny_sd()
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    pipe.set_progress_bar_config(disable=True)
    generator = DiffusersGenerator(pipe, num_inference_steps=5, guidance_scale=7.5, eta=0.0)
    expected = generator.generate(["a photo of a clock"] * 2, [7, 8])
    steps = DiffusionSteps(tiny_sd(), steps=5, guidance=7.5, eta=0.0)
    for image, own in zip(expected, steps.images(run(steps, [7, 8])), strict=True):
        assert np.abs(np.asarray(image, int) - own.permute(1, 2, 0).numpy().astype(int)).mean() < 1.0


@pytest.mark.parametrize("name", ALL)
def test_previews_are_the_image_at_the_last_step(name) -> None:
    steps = ALL[name](noise=0.0) if name in DIFFUSIONS else ALL[name](sampler="ode")
    state = run(steps, [1])
    preview, image = (np.asarray(one[0].numpy(), int) for one in (steps.preview(state), steps.images(state)))
    assert np.abs(preview - image).mean() < 3
    assert steps.features(state).shape == (1, state.x[0].numel())
    assert sum(steps.cost(step, 3) for step in range(5)) == pytest.approx(3)


@pytest.mark.parametrize("sampler", ["cps", "sde"])
def test_the_last_step_leaves_no_noise_in_the_image(sampler) -> None:
    steps = FLOWS["pocket"](sampler=sampler)
    state = steps.start("a photo of a clock", [3, 4])
    for step in range(4):
        state = steps.advance(state, step)
    one, other = (steps.advance(steps.take(state, [0], [seed]), 4) for seed in (1, 2))
    torch.testing.assert_close(one.x, other.x)


def test_a_batch_that_does_not_fit_is_split(monkeypatch) -> None:
    steps = FLOWS["pocket"]()
    expected = run(steps, [1, 2, 3, 4, 5])
    forward, sizes = type(steps).step, []

    def small(self, x, *rest):
        sizes.append(len(x))
        if len(x) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return forward(self, x, *rest)

    monkeypatch.setattr(type(steps), "step", small)
    steps = FLOWS["pocket"]()
    found = run(steps, [1, 2, 3, 4, 5])
    assert steps.batch_size == 2
    assert sizes[:2] == [5, 2]
    torch.testing.assert_close(found.x, expected.x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["sd3 guided", "flux", "sdxl", "pixart"])
def test_a_whole_search(name, make_reward) -> None:
    found = search(ALL[name](), named_plan("tts-var", 1, 5), make_reward(), prompt="a dog")
    assert len(found.images) == 1
    assert [check.method for check in found.lineage] == ["cluster", "cluster", "resample", "resample", "top"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: FLOWS["pocket"](sampler="ddim"),
            "sampler: expected one of cps, sde, ode for a flow model, got 'ddim'",
        ),
        (lambda: FLOWS["pocket"](noise=0.0), "noise: expected a number > 0"),
        (lambda: FLOWS["pocket"](noise=1.5), "noise: expected a number > 0, at most 1"),
        (lambda: FLOWS["pocket"](sampler="ode", noise=0.5), "none for ode, got 0.5"),
        (lambda: FLOWS["pocket"](resolution=512), "resolution: expected 256 or None"),
        (lambda: load_steps("pocket", steps=1), "steps: expected an integer >= 2, got 1"),
        (lambda: DIFFUSIONS["sd"](sampler="cps"), "sampler: expected ddim for"),
        (lambda: DIFFUSIONS["sd"](noise=2.0), r"expected eta in \[0, 1\]"),
        (lambda: DIFFUSIONS["sd"](resolution=65), "resolution: expected a multiple of"),
        (lambda: load_steps(object()), "model: expected a pipeline or an object with the methods of Steps, got object"),
    ],
)
def test_bad_arguments(make, message) -> None:
    with pytest.raises(UsageError, match=message):
        make()


def test_steps_of_ones_own_take_no_options(toy) -> None:
    assert load_steps(toy) is toy
    with pytest.raises(UsageError, match="guidance: expected it to be left out"):
        load_steps(toy, guidance=3.0)
