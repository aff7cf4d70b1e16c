from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from geneval_reward.errors import ImageError
from geneval_reward.generate import (
    CallableGenerator,
    DiffusersGenerator,
    Generator,
    load_generator,
    load_pipeline,
    seed_for,
)
from geneval_reward.train.tiny import tiny_flux, tiny_sd3

WORDS = ["<|startoftext|>", "<|endoftext|>", "a</w>", "red</w>", "dog</w>", "clock</w>", "of</w>", "two</w>"]
PROMPTS = ["a red dog", "two clock", "a dog", "a clock of a dog", "a red clock"]


@pytest.fixture(scope="module")
def clip_tokenizer(tmp_path_factory):
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(WORDS)}, merges=[], model_max_length=16)


def clip_text(kind, width=32, projection=32):
    config = CLIPTextConfig(
        vocab_size=len(WORDS),
        hidden_size=width,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=16,
        projection_dim=projection,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return kind(config)


def vae(channels, **kwargs):
    return AutoencoderKL(
        block_out_channels=(4, 8),
        latent_channels=channels,
        norm_num_groups=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        **kwargs,
    )


def unet(width, **kwargs):
    return UNet2DConditionModel(
        block_out_channels=(4, 8),
        layers_per_block=1,
        sample_size=8,
        norm_num_groups=1,
        cross_attention_dim=width,
        attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **kwargs,
    )


def sd15(clip):
    return StableDiffusionPipeline(
        vae(4),
        clip_text(CLIPTextModel),
        clip,
        unet(32),
        DDIMScheduler(),
        None,
        None,
        None,
        requires_safety_checker=False,
    )


def sdxl(clip):
    model = unet(
        64,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=80,
        transformer_layers_per_block=1,
        use_linear_projection=True,
    )
    return StableDiffusionXLPipeline(
        vae(4),
        clip_text(CLIPTextModel),
        clip_text(CLIPTextModelWithProjection),
        clip,
        clip,
        model,
        DDIMScheduler(),
        add_watermarker=False,
    )


def sd3(clip):
    return tiny_sd3()


def flux(clip):
    return tiny_flux()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    ("build", "options"),
    [
        (sd15, {"guidance_scale": 3.0}),
        (sd15, {"guidance_scale": 1.0, "eta": 1.0}),
        (sdxl, {"guidance_scale": 1.0}),
        (sd3, {"guidance_scale": 2.0}),
        (flux, {"guidance_scale": 2.0}),
    ],
)
def test_an_image_depends_on_its_prompt_and_seed_alone(build, options, clip_tokenizer) -> None:
    torch.manual_seed(0)
    pipe = build(clip_tokenizer)
    pipe.set_progress_bar_config(disable=True)
    seeds = [seed_for(0, prompt, 0) for prompt in PROMPTS]
    common = {"num_inference_steps": 2, "height": 16, "width": 16} | options
    whole = DiffusersGenerator(pipe, batch_size=5, **common).generate(PROMPTS, seeds)
    torch.manual_seed(99)  # global chance must not matter
    pairs = DiffusersGenerator(pipe, batch_size=2, **common).generate(PROMPTS, seeds)
    alone = DiffusersGenerator(pipe, **common).generate(PROMPTS[3:4], seeds[3:4])
    assert [image.size for image in whole] == [(16, 16)] * 5
    for one, other in zip([*whole, whole[3]], [*pairs, *alone], strict=True):
        assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 1
    assert not np.array_equal(np.asarray(whole[0]), np.asarray(whole[1]))
    again = DiffusersGenerator(pipe, **common).generate(PROMPTS[:1], [seeds[0] + 1])
    assert not np.array_equal(np.asarray(whole[0]), np.asarray(again[0])), "the seed must matter"


def save_lora(folder, seed=0):
    """Random LoRA weights for the tiny Stable Diffusion 3, as diffusers saves them."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipe = tiny_sd3()
    pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v"]))
    torch.manual_seed(seed)
    for name, parameter in pipe.transformer.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0, 1)
    type(pipe).save_lora_weights(folder, transformer_lora_layers=get_peft_model_state_dict(pipe.transformer))
    return str(folder)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_lora_steps_guidance_and_precision_by_name(tmp_path) -> None:
    name, lora = "geneval_reward.train.tiny:tiny_sd3", save_lora(tmp_path / "lora")

    def image(**options):
        made = load_generator(name, device="cpu", **{"num_inference_steps": 2} | options).generate(["a red dog"], [3])[
            0
        ]
        return np.asarray(made, int)

    plain = image()
    assert plain.shape == (32, 32, 3)
    assert np.array_equal(plain, image(lora=lora, lora_scale=0.0))
    changed = [
        image(lora=lora),
        image(lora=lora, lora_scale=0.5),
        image(num_inference_steps=3),
        image(guidance_scale=1.0),
    ]
    for number, one in enumerate(changed):
        assert not np.array_equal(plain, one), number
    assert not np.array_equal(changed[0], changed[1])
    assert image(height=64, width=32).shape == (64, 32, 3)
    with pytest.raises(
        ValueError, match="lora: expected a file or folder of LoRA weights or a hub name, got 'no-such'"
    ):
        image(lora="no-such")


def test_precision_by_name() -> None:
    made = [
        np.asarray(
            load_generator("pocket", device="cpu", precision=dtype, num_inference_steps=2).generate(["a clock"], [3])[0]
        )
        for dtype in ("auto", "fp32", "bf16")
    ]
    assert np.array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])


def test_a_folder_that_is_no_pipeline(tmp_path) -> None:
    with pytest.raises(ValueError, match="model: expected 'pocket', 'pocket-tokens', the folder of a diffusers"):
        load_generator(str(tmp_path))
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "X"]}')
    with pytest.raises(ValueError, match="model: expected a diffusers pipeline in that folder"):
        load_generator(str(tmp_path), device="cpu")


class Fake:
    """A pipeline that has memory for two images."""

    def __init__(self, room=2, error="DefaultCPUAllocator: can't allocate memory", give=0) -> None:
        self.room, self.error, self.give, self.calls = room, error, give, []

    def __call__(self, prompt=None, generator=None, output_type="pil", num_inference_steps=50):
        self.calls.append(len(prompt))
        if len(prompt) > self.room:
            raise RuntimeError(self.error)
        shades = [int(torch.randint(255, (1,), generator=one)) for one in generator]
        images = [Image.new("RGBA", (4, 4), (shade, 0, 0, 9)) for shade in shades][: len(prompt) - self.give]
        return type("Out", (), {"images": images})


def test_batches_shrink_when_memory_runs_out_and_stay_small(caplog) -> None:
    pipe = Fake()
    generator = DiffusersGenerator(pipe, batch_size=8)
    images = generator.generate(["x"] * 9, range(9))
    assert pipe.calls == [8, 4, 2, 2, 2, 2, 1]
    assert generator.batch_size == 2
    assert "batches of 2" in caplog.text
    roomy = DiffusersGenerator(Fake(room=99), batch_size=9).generate(["x"] * 9, range(9))
    assert [image.getpixel((0, 0)) for image in images] == [image.getpixel((0, 0)) for image in roomy]
    assert images[0].mode == "RGB"


class DrawsTokens:
    """As GLM-Image: tokens from the global generator, which is seeded as the one generator that it gets."""

    def __call__(self, prompt=None, generator=None, output_type="pil", prior_token_ids=None):
        assert len(prompt) == 1
        torch.manual_seed(generator.initial_seed())
        pixels = torch.rand(1, 4, 4, 3) * torch.rand(1, generator=generator)
        return SimpleNamespace(images=pixels.numpy())


def test_a_pipeline_that_draws_tokens_gets_one_image_at_a_time() -> None:
    generator = DiffusersGenerator(DrawsTokens(), batch_size=8)
    state = torch.random.get_rng_state()
    images = generator.generate(["a", "b", "c"], [1, 2, 1])
    assert generator.batch_size == 1
    assert images[0].tobytes() == images[2].tobytes() != images[1].tobytes()
    assert torch.equal(state, torch.random.get_rng_state()), "the caller's generator must be given back"


def test_other_errors_and_no_memory_at_all_are_raised() -> None:
    with pytest.raises(RuntimeError, match="shape mismatch"):
        DiffusersGenerator(Fake(error="shape mismatch")).generate(["x"] * 3, range(3))
    with pytest.raises(RuntimeError, match="generator: expected room for one image"):
        DiffusersGenerator(Fake(room=0)).generate(["x"] * 3, range(3))


def test_protocol() -> None:
    assert isinstance(DiffusersGenerator(Fake()), Generator)
    assert not isinstance(Fake(), Generator)
    assert DiffusersGenerator(Fake()).generate([], []) == []


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: DiffusersGenerator(Fake(), batch_size=0), ValueError, "batch_size: expected an integer >= 1, got 0"),
        (lambda: DiffusersGenerator(Fake(), latents=None), ValueError, "latents: expected it to be left out"),
        (lambda: DiffusersGenerator(Fake(), stepz=3), ValueError, "stepz: expected an argument that Fake takes"),
        (lambda: DiffusersGenerator(len), ValueError, "expected a text-to-image pipeline that takes 'prompt'"),
        (lambda: DiffusersGenerator(Fake()).generate("abc", [1, 2, 3]), TypeError, "got one string"),
        (
            lambda: DiffusersGenerator(Fake()).generate(["a", "b"], [1]),
            ValueError,
            r"expected one per prompt \(2\), got 1",
        ),
        (lambda: DiffusersGenerator(Fake()).generate(["a", 3], [1, 2]), TypeError, r"prompts\[1\]: expected a string"),
        (lambda: DiffusersGenerator(Fake(give=1)).generate(["a"], [1]), ValueError, "expected 1 image, .*got 0"),
    ],
)
def test_bad_input(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("part", ["vae.decoder.conv_out", "transformer.proj_out"])
def test_a_model_that_diverged_makes_no_black_pictures(part) -> None:
    """In uint8 NaN is 0, so that its images would be judged, and rewarded with 0, as black ones."""
    pipe = tiny_sd3()
    owner, _, rest = part.partition(".")
    getattr(pipe, owner).get_submodule(rest).bias.data.fill_(float("nan"))
    message = (
        r"images\[0\]: expected finite pixels, got NaN or infinity \(prompt 'a dog', seed 7\); a half precision has"
    )
    with pytest.raises(ImageError, match=message):
        DiffusersGenerator(pipe, num_inference_steps=1).generate(["a dog"], [7])


def test_infinite_pixels_are_not_clamped_to_white_ones() -> None:
    pipe = tiny_sd3()
    pipe.vae.decoder.conv_out.bias.data.fill_(float("inf"))
    generator = DiffusersGenerator(pipe, num_inference_steps=1)
    with pytest.raises(ImageError, match=r"got infinity \(prompt 'a dog', seed 7\); a half precision has overflowed"):
        generator.generate(["a dog"], [7])
    pipe.vae.decoder.conv_out.bias.data.fill_(0)
    assert len(generator.generate(["a dog", "a cat"], [7, 8])) == 2
    assert not pipe.vae.decoder._forward_hooks


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")
def test_a_function_that_returns_pictures_of_a_diverged_pipeline_is_noticed() -> None:
    """By then they are black: NumPy's warning is all that is heard."""
    pipe = tiny_sd3()
    pipe.set_progress_bar_config(disable=True)
    pipe.vae.decoder.conv_out.bias.data.fill_(float("nan"))
    function = CallableGenerator(lambda prompts, seeds: pipe(prompt=prompts, num_inference_steps=1).images)
    with pytest.raises(ImageError, match=r"function \(prompt 'a dog', seed 7\): expected finite pixels, got NaN"):
        function.generate(["a dog"], [7])


def test_black_pictures_of_a_safety_checker_are_no_images() -> None:
    class Checked(Fake):
        def __call__(self, prompt=None, generator=None, output_type="pil", num_inference_steps=50):
            out = super().__call__(prompt, generator)
            out.nsfw_content_detected = [False, True][: len(prompt)]
            return out

    with pytest.raises(
        ImageError, match=r"images\[1\]: .*\(prompt 'a cat', seed 2\); load the pipeline with safety_checker="
    ):
        DiffusersGenerator(Checked()).generate(["a dog", "a cat"], [1, 2])


def test_automatic_precision_is_that_of_the_saved_weights(tmp_path) -> None:
    """A model that was trained in bf16 may overflow in fp16."""
    pipe = load_pipeline("pocket")
    torch.nn.Module.to(pipe.transformer, dtype=torch.bfloat16)
    pipe.save_pretrained(tmp_path)
    loaded = load_pipeline(str(tmp_path))
    assert next(loaded.transformer.parameters()).dtype == torch.bfloat16
    assert next(loaded.text_encoder.parameters()).dtype == torch.float32
    assert next(load_pipeline(str(tmp_path), "fp32").transformer.parameters()).dtype == torch.float32
