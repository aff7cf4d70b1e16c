from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

from geneval_reward.errors import ImageError
from geneval_reward.rl import sample_ode
from geneval_reward.train import FlowPolicy
from geneval_reward.train.policy import decode_latents
from geneval_reward.train.tiny import tiny_flux, tiny_sd3


def test_latents_are_those_of_the_pipelines_own_call():
    policy = FlowPolicy(tiny_flux())
    pipeline = policy.pipeline
    conditions = policy.encode(["a", "b"])
    noise = policy.noise([torch.Generator().manual_seed(n) for n in range(2)])
    with torch.no_grad():
        mine = sample_ode(policy.velocity(policy.transformer, conditions), noise, policy.sigmas(3), solver="euler")
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        prompt_embeds=conditions.embeds,
        pooled_prompt_embeds=conditions.pooled,
        latents=pipeline._pack_latents(noise, 2, 1, 8, 8),
        num_inference_steps=3,
        guidance_scale=1.0,
        height=32,
        width=32,
        output_type="latent",
    ).images
    assert torch.equal(mine, pipeline._unpack_latents(theirs, 32, 32, pipeline.vae_scale_factor))


def test_the_decoder_works_in_float32_whatever_the_rest_is_in():
    half = tiny_sd3()
    latents = 3 * torch.randn(2, 4, 8, 8)
    expected = FlowPolicy(tiny_sd3()).decode(latents)
    half.transformer.to(torch.bfloat16)
    policy = FlowPolicy(half)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(policy.decode(latents), expected)


def test_diffusers_loads_the_decoder_in_float32(monkeypatch, tmp_path):
    import diffusers

    seen = {}
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusion3Pipeline"}')
    monkeypatch.setattr(
        diffusers.DiffusionPipeline, "from_pretrained", lambda name, **options: seen.update(options) or tiny_sd3()
    )
    FlowPolicy(str(tmp_path), dtype="fp16")
    assert seen["torch_dtype"] == {"default": torch.float16, "vae": torch.float32}


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_pictures_that_are_none_are_refused(value):
    policy = FlowPolicy(tiny_sd3())
    latents = torch.zeros(3, 4, 8, 8)
    latents[1, 0, 0, 0] = value
    with pytest.raises(ImageError, match=r"images\[1\]: expected finite pixels, got NaN or infinity \(1 of 3 images\)"):
        policy.decode(latents)


def test_a_decoder_that_overflows_is_refused(monkeypatch):
    """As a VAE in fp16 does on finite latents: as uint8, NaN would pass for black."""
    policy = FlowPolicy(tiny_sd3())
    decode = policy.pipeline.vae.decode
    monkeypatch.setattr(policy.pipeline.vae, "decode", lambda z, **k: (decode(z, **k)[0] * torch.inf,))
    with pytest.raises(ImageError, match="2 of 2 images"):
        policy.decode(torch.ones(2, 4, 8, 8))


@pytest.mark.parametrize(("family", "guidance"), [(tiny_sd3, 4.5), (tiny_flux, 3.5)])
def test_prompts_are_encoded_outside_of_autocast(family, guidance, monkeypatch):
    """T5 in fp16 has weights in float32 that autocast would cast down at each call."""
    policy = FlowPolicy(family(), guidance_scale=guidance)
    states, encode = [], policy.pipeline.encode_prompt

    def watched(*args, **kwargs):
        states.append(torch.is_autocast_enabled("cpu"))
        return encode(*args, **kwargs)

    monkeypatch.setattr(policy.pipeline, "encode_prompt", watched)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        conditions = policy.encode(["a"])
        if guidance == 4.5:  # encodes the empty prompt at the first velocity
            policy.velocity(policy.transformer, conditions)(torch.zeros(1, *policy.latent_shape), torch.ones(1))
    assert states
    assert not any(states)


def test_equal_prompts_are_encoded_once(monkeypatch):
    policy = FlowPolicy(tiny_sd3())
    asked, encode = [], policy.pipeline.encode_prompt
    monkeypatch.setattr(
        policy.pipeline, "encode_prompt", lambda prompt, **k: asked.append(prompt) or encode(prompt, **k)
    )
    conditions = policy.encode(["b", "a", "b"])
    assert asked == [["b", "a"]]
    assert torch.equal(conditions.embeds[0], conditions.embeds[2])
    assert not torch.equal(conditions.embeds[0], conditions.embeds[1])


def test_wrong_use_is_refused():
    import diffusers

    with pytest.raises(ValueError, match="dtype: expected one of fp32"):
        FlowPolicy(dtype="fp8")
    with pytest.raises(ValueError, match="resolution: expected a multiple"):
        FlowPolicy(tiny_sd3(), resolution=33)
    with pytest.raises(ValueError, match="guidance_scale: expected a number >= 0"):
        FlowPolicy(tiny_sd3(), guidance_scale=-1)
    pipeline = tiny_sd3()
    pipeline.scheduler = diffusers.DDIMScheduler()
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler"):
        FlowPolicy(pipeline)
    pipeline.transformer = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match="got Linear in"):
        FlowPolicy(pipeline)


def test_a_gpu_decodes_four_pictures_at_a_time():
    """By fake tensors, of which nothing can be read: the check for broken pictures ends the call."""
    sizes = []

    class Decoder:
        config, dtype = SimpleNamespace(scaling_factor=2.0, shift_factor=0.0), torch.float32

        def decode(self, latents, return_dict):
            sizes.append(len(latents))
            return (latents[:, :3].repeat(1, 1, 8, 8),)

    with FakeTensorMode(), pytest.raises(DynamicOutputShapeException):
        decode_latents(Decoder(), torch.zeros(10, 16, 64, 64, device="cuda"))
    assert sizes == [4, 4, 2]
