import logging

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from diffusers.utils import logging as diffusers_logging
from transformers import T5EncoderModel

from geneval_reward.generate import DiffusersGenerator, seed_for
from geneval_reward.pocket import PocketPipeline, build_pipeline, load_pipeline, pocket_suite
from geneval_reward.pocket import load as load_module
from geneval_reward.pocket import pipeline as pipeline_module
from geneval_reward.pocket.codec import CHANNELS, decode_scenes, encode_scenes
from geneval_reward.pocket.decoder import SceneDecoder
from geneval_reward.pocket.render import render
from geneval_reward.pocket.scene import Item, Scene, fulfils

PROMPTS = ["a photo of a red clock", "a photo of two vases", "a photo of a giraffe left of a laptop", ""]


@pytest.fixture(scope="module")
def pipe() -> PocketPipeline:
    return load_pipeline()


@pytest.fixture
def warned(caplog):
    # diffusers' loggers do not propagate to the root, where caplog listens.
    logger = diffusers_logging.get_logger("geneval_reward.pocket.pipeline")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_is_made_of_ordinary_parts(pipe) -> None:
    assert isinstance(pipe.transformer, SD3Transformer2DModel)
    assert isinstance(pipe.scheduler, FlowMatchEulerDiscreteScheduler)
    assert isinstance(pipe.text_encoder, T5EncoderModel)
    assert 8 <= len(pipe.transformer.transformer_blocks) <= 12
    assert len(pipe.text_encoder.encoder.block) >= 6
    assert pipe.vae.config.scaling_factor == 1.0
    assert pipe.vae.config.shift_factor == 0.0
    assert not any(part.training for part in (pipe.transformer, pipe.text_encoder, pipe.vae))


@pytest.mark.slow
def test_same_image_whatever_the_batch_size(pipe) -> None:
    prompts = [prompt for prompt in PROMPTS for _ in range(3)]
    seeds = [seed_for(0, prompt, index) for index, prompt in enumerate(prompts)]
    whole = DiffusersGenerator(pipe, batch_size=12, num_inference_steps=4).generate(prompts, seeds)
    parts = DiffusersGenerator(pipe, batch_size=5, num_inference_steps=4).generate(prompts, seeds)
    alone = DiffusersGenerator(pipe, batch_size=1, num_inference_steps=4).generate(prompts[::-1], seeds[::-1])[::-1]
    for one, two, three in zip(whole, parts, alone, strict=True):
        assert one.tobytes() == two.tobytes() == three.tobytes()
    assert len({image.tobytes() for image in whole}) == len(whole)


def test_output_types_agree(pipe) -> None:
    options = {"num_inference_steps": 3}
    pil = pipe(PROMPTS[:2], generator=generators(1, 2), **options).images
    pt = pipe(PROMPTS[:2], generator=generators(1, 2), output_type="pt", **options).images
    array = pipe(PROMPTS[:2], generator=generators(1, 2), output_type="np", **options).images
    (latents,) = pipe(PROMPTS[:2], generator=generators(1, 2), output_type="latent", return_dict=False, **options)
    assert pt.shape == (2, 3, 256, 256)
    assert 0 <= pt.min() < pt.max() <= 1
    assert latents.shape == (2, CHANNELS, 2, 2)
    drawn = [render(scene) for scene in decode_scenes(latents)]
    for index in range(2):
        assert np.array_equal(np.asarray(pil[index]), drawn[index])
        assert np.array_equal((pt[index].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8), drawn[index])
        assert np.allclose(array[index], pt[index].permute(1, 2, 0).numpy())


@pytest.mark.slow
def test_embeddings_latents_and_several_images(pipe) -> None:
    options = {"num_inference_steps": 3, "output_type": "latent"}
    words, _, pooled, _ = pipe.encode_prompt(PROMPTS[:2])
    plain = pipe(PROMPTS[:2], generator=generators(1, 2), **options).images
    ready = pipe(prompt_embeds=words, pooled_prompt_embeds=pooled, generator=generators(1, 2), **options).images
    torch.testing.assert_close(plain, ready, rtol=1e-4, atol=1e-5)
    noise = torch.cat([torch.randn(1, CHANNELS, 2, 2, generator=g) for g in generators(1, 2)])
    assert torch.equal(plain, pipe(PROMPTS[:2], latents=noise, **options).images)
    twice = pipe(PROMPTS[0], num_images_per_prompt=2, generator=generators(1, 5), **options).images
    torch.testing.assert_close(twice[0], plain[0], rtol=1e-4, atol=1e-5)
    repeated = pipe(PROMPTS[:2], generator=torch.Generator().manual_seed(3), **options).images
    assert torch.equal(repeated, pipe(PROMPTS[:2], generator=torch.Generator().manual_seed(3), **options).images)


def test_guidance_and_negative_prompts(pipe) -> None:
    def make(**kwargs):
        return pipe(PROMPTS[0], generator=generators(4), num_inference_steps=2, output_type="latent", **kwargs).images

    assert not torch.equal(make(), make(guidance_scale=3.0))
    assert not torch.equal(make(guidance_scale=3.0), make(guidance_scale=3.0, negative_prompt="a photo of a vase"))
    one, away, pooled, away_pooled = pipe.encode_prompt(
        PROMPTS[:2], prompt_2=None, prompt_3=None, num_images_per_prompt=3, do_classifier_free_guidance=True
    )
    assert one.shape == away.shape == (6, 12, 64)
    assert pooled.shape == away_pooled.shape == (6, 64)
    assert pipe.encode_prompt(PROMPTS[0])[1] is None


def test_callback_sees_and_changes_latents(pipe) -> None:
    seen = []

    def back(pipeline, step, time, tensors):
        seen.append((step, float(time)))
        return {"latents": torch.zeros_like(tensors["latents"])}

    out = pipe(
        PROMPTS[0], generator=generators(1), num_inference_steps=3, output_type="latent", callback_on_step_end=back
    ).images
    assert [step for step, _ in seen] == [0, 1, 2]
    assert out.abs().sum() == 0


def test_saving_and_loading(pipe, tmp_path) -> None:
    pipe.save_pretrained(tmp_path)
    other = PocketPipeline.from_pretrained(tmp_path)
    other.set_progress_bar_config(disable=True)
    one, two = (p(PROMPTS, generator=generators(1, 2, 3, 4), num_inference_steps=2).images for p in (pipe, other))
    assert [a.tobytes() for a in one] == [b.tobytes() for b in two]


def test_words_are_learned(pipe) -> None:
    """Single objects come out right: the shipped weights are trained ones."""
    prompts = [f"a photo of a {name}" for name in ("clock", "vase", "giraffe", "laptop") for _ in range(6)]
    latents = pipe(prompts, generator=generators(*range(24)), output_type="latent").images
    right = [
        scene.items[0].class_name == prompt.split()[-1]
        for scene, prompt in zip(decode_scenes(latents), prompts, strict=True)
        if scene.items
    ]
    assert sum(right) >= 18


def test_the_relation_word_is_read(pipe) -> None:
    """Of the pictures that show both objects, more than the chance quarter have them in the place that was asked."""
    specs = [spec for spec in pocket_suite() if spec.tag == "position"] * 2
    latents = pipe(
        [spec.prompt for spec in specs], generator=generators(*range(len(specs))), output_type="latent"
    ).images
    both = [
        fulfils(scene, spec)
        for scene, spec in zip(decode_scenes(latents), specs, strict=True)
        if set(spec.class_names) <= {item.class_name for item in scene.items}
    ]
    assert len(both) > 40
    assert sum(both) > 0.35 * len(both)


def test_unknown_and_surplus_words_are_named(pipe, warned) -> None:
    pipe("a photo of seven dogs", num_inference_steps=1)
    assert "'seven', 'dogs'" in warned.text
    warned.clear()
    pipe(" ".join(["clock"] * 14), num_inference_steps=1)
    assert "expected at most 11 words, got 14" in warned.text
    warned.clear()
    pipe(PROMPTS, num_inference_steps=1)
    assert warned.text == ""
    assert logging.getLogger("geneval_reward.pocket.pipeline")


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "message"),
    [
        ((), {}, ValueError, "prompt: expected a text or a list of texts, got None"),
        (([],), {}, ValueError, "prompt: expected at least one text, got an empty list"),
        ((["a", 3],), {}, TypeError, r"prompt\[1\]: expected a string, got int"),
        (("a",), {"num_inference_steps": 0}, ValueError, "num_inference_steps: expected an integer >= 1"),
        (("a",), {"num_images_per_prompt": 0}, ValueError, "num_images_per_prompt: expected an integer >= 1"),
        (("a",), {"output_type": "jpg"}, ValueError, "output_type: expected pil, pt, np or latent, got 'jpg'"),
        (("a",), {"height": 512}, ValueError, "height: expected 256 or None, got 512"),
        ((["a", "b"],), {"generator": generators(1)}, ValueError, r"expected one per image \(2\), got 1"),
        (("a",), {"latents": torch.zeros(1, 4, 8, 8)}, ValueError, r"latents: expected shape \(1, 25, 2, 2\)"),
        (("a",), {"prompt_embeds": torch.zeros(1, 12, 64)}, ValueError, "expected texts or embeddings, got both"),
        ((), {"prompt_embeds": torch.zeros(1, 12, 64)}, ValueError, "expected word vectors and pooled vectors"),
        ((["a"] * 3,), {"guidance_scale": 2.0, "negative_prompt": ["b", "c"]}, ValueError, "expected one text or 3"),
        (("a",), {"callback_on_step_end_tensor_inputs": ["noise"]}, ValueError, "expected names of latents"),
    ],
)
def test_bad_input(pipe, args, kwargs, error, message) -> None:
    with pytest.raises(error, match=message):
        pipe(*args, **kwargs)


def test_too_many_prompts_at_once(pipe, monkeypatch) -> None:
    monkeypatch.setattr(pipeline_module, "MAX_IMAGES", 3)
    with pytest.raises(ValueError, match=r"expected at most 3 images a call, got 4; split the prompts"):
        pipe(PROMPTS)


def test_more_objects_than_slots_give_at_most_four(pipe) -> None:
    latents = 5 * torch.ones(2, CHANNELS, 2, 2)
    assert [len(scene.items) for scene in decode_scenes(latents)] == [4, 4]
    images = pipe(["a photo of four clocks and two vases"] * 2, generator=generators(1, 2)).images
    assert len(images) == 2


def test_decoder_is_an_autoencoder_to_pipelines() -> None:
    decoder = SceneDecoder()
    scene = Scene((Item("vase", "green", 0.4, 0.5, 0.44),), (0.1, 0.2))
    latents = decoder.encode([scene])
    assert torch.equal(latents, encode_scenes([scene]))
    sample = decoder.decode(latents).sample
    assert sample.shape == (1, 3, 256, 256)
    assert -1 <= sample.min() < sample.max() <= 1
    assert torch.equal(decoder.decode(latents, return_dict=False)[0], sample)
    assert decoder.decode(latents[:0]).sample.shape == (0, 3, 256, 256)
    half = decoder.decode(latents.to(torch.bfloat16)).sample
    assert half.dtype == torch.bfloat16
    assert (half.float() - sample).abs().max() < 0.02


def test_weights_of_another_world_are_refused() -> None:
    with pytest.raises(ValueError, match="the weights are of another version"):
        SceneDecoder(classes=["dog"])


def test_shipped_files_are_what_the_provenance_says(tmp_path, monkeypatch) -> None:
    load_module.check_files(load_module.FOLDER)
    about = load_module.provenance()
    assert about["steps"] > 0
    assert about["loss_curve"][-1]["loss"] < 0.5 * about["loss_curve"][0]["loss"]
    assert "torch" in about["versions"]
    artwork = load_module.FOLDER.parent / "artwork"
    sizes = [path.stat().st_size for folder in (load_module.FOLDER, artwork) for path in folder.rglob("*.*")]
    assert sum(sizes) < 8_000_000
    (tmp_path / "PROVENANCE.json").write_text('{"sha256": {"model_index.json": "0"}}')
    monkeypatch.setattr(load_module, "FOLDER", tmp_path)
    with pytest.raises(OSError, match=r"model_index.json: expected sha256 0, got no file; reinstall"):
        load_pipeline()
    with pytest.raises(OSError, match="expected the packaged model"):
        load_module.check_files(tmp_path / "nothing")


def test_trains_through_the_same_calls_as_sd3(pipe) -> None:
    other = build_pipeline(0, layers=1, text_layers=1)
    words, _, pooled, _ = other.encode_prompt(PROMPTS)
    velocity = other.transformer(
        hidden_states=torch.randn(4, CHANNELS, 2, 2),
        timestep=torch.tensor([0.0, 300.0, 700.0, 1000.0]),
        encoder_hidden_states=words,
        pooled_projections=pooled,
        return_dict=False,
    )[0]
    assert velocity.shape == (4, CHANNELS, 2, 2)
    velocity.square().mean().backward()
    assert all(p.grad is not None for p in other.text_encoder.parameters() if p.requires_grad)
