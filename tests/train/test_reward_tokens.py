"""`RewardTokens` and `RewardGuidance` on the models of diffusers, tiny and from configuration."""

import math

import pytest
import torch
from diffusers import FluxTransformer2DModel, PixArtTransformer2DModel, SanaTransformer2DModel, SD3Transformer2DModel

from geneval_reward.errors import UsageError
from geneval_reward.pocket import load_pipeline
from geneval_reward.train import RewardGuidance, RewardTokens

NAMES = ("geneval", "aesthetic", "pick")
WIDTH, LENGTH, BATCH = 16, 12, 2


def tiny(model):
    """A tiny transformer of random weights, and a call of it."""
    torch.manual_seed(0)
    text = torch.randn(BATCH, LENGTH, WIDTH)
    image, pooled, time = torch.randn(BATCH, 4, 4, 4), torch.randn(BATCH, WIDTH), torch.tensor([300.0, 700.0])
    mask = torch.ones(BATCH, LENGTH)
    mask[1, 5:] = 0
    call = {"hidden_states": image, "timestep": time, "encoder_hidden_states": text, "return_dict": False}
    if model == "sd3":
        net = SD3Transformer2DModel(
            sample_size=4, patch_size=1, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
            num_attention_heads=2, caption_projection_dim=16, joint_attention_dim=WIDTH, pooled_projection_dim=WIDTH,
            pos_embed_max_size=4,
        )  # fmt: skip
        call["pooled_projections"] = pooled
    elif model == "flux":
        net = FluxTransformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=WIDTH, pooled_projection_dim=WIDTH, guidance_embeds=True, axes_dims_rope=(4, 6, 6),
        )  # fmt: skip
        call |= {
            "hidden_states": torch.randn(BATCH, 4, 16), "pooled_projections": pooled, "guidance": torch.ones(BATCH),
            "txt_ids": torch.zeros(LENGTH, 3), "img_ids": torch.rand(4, 3).round(), "timestep": time / 1000,
        }  # fmt: skip
    elif model == "pixart":
        net = PixArtTransformer2DModel(
            sample_size=4, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
            num_attention_heads=2, cross_attention_dim=16, caption_channels=WIDTH,
        )  # fmt: skip
        call |= {"encoder_attention_mask": mask, "added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}
    else:
        net = SanaTransformer2DModel(
            sample_size=4, patch_size=1, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
            num_attention_heads=2, num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16,
            caption_channels=WIDTH,
        )  # fmt: skip
        call["encoder_attention_mask"] = mask
    generator = torch.Generator().manual_seed(1)
    for parameter in net.parameters():  # some layers start at zero and would hide what reaches them
        parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return (
        net.eval().requires_grad_(False),
        call,
        RewardTokens(NAMES, WIDTH, "masked" if "encoder_attention_mask" in call else "padding"),
    )


MODELS = ("sd3", "flux", "pixart", "sana")
LEVELS = torch.tensor([1.0, 0.3, math.nan])


@pytest.mark.parametrize("model", MODELS)
def test_before_training_the_model_computes_what_it_did(model):
    net, call, tokens = tiny(model)
    before = net(**call)[0]
    with RewardGuidance(tokens, LEVELS).applied_to(net):
        after = net(**call)[0]
    torch.testing.assert_close(after, before, rtol=0, atol=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_all_weights_of_the_tokens_learn(model):
    net, call, tokens = tiny(model)
    target = torch.randn(net(**call)[0].shape, generator=torch.Generator().manual_seed(2))
    optimizer = torch.optim.Adam(tokens.parameters(), 1e-2)
    losses = []
    for step in range(12):
        # The third reward is known in every other step.
        levels = torch.tensor([1.0, 0.3, math.nan if step % 2 else 0.5])
        with RewardGuidance(tokens, levels).applied_to(net):
            loss = (net(**call)[0] - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for name, parameter in tokens.named_parameters():
        assert parameter.grad is not None, name
    assert tokens.unknown[2].abs().max() > 0
    assert all(mlp[2].weight.abs().max() > 0 for mlp in tokens.mlps)


def trained(tokens):
    """Weights as after training."""
    generator = torch.Generator().manual_seed(3)
    for parameter in tokens.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator))
    return tokens


@pytest.mark.parametrize("model", MODELS)
def test_guidance_is_the_sum_of_two_passes(model):
    net, call, tokens = tiny(model)
    trained(tokens)
    high, low = torch.ones(3), torch.zeros(3)
    found = {}
    for name, levels in (("high", high), ("low", low)):
        with RewardGuidance(tokens, levels).applied_to(net):
            found[name] = net(**call)[0]
    assert not torch.allclose(found["high"], found["low"], atol=1e-3)
    with RewardGuidance(tokens, high, low, scale=2.0).applied_to(net):
        guided = net(**call)[0]
    torch.testing.assert_close(guided, 3 * found["high"] - 2 * found["low"], rtol=1e-4, atol=1e-5)
    assert guided.shape == net(**call)[0].shape  # and the hooks are gone


@pytest.mark.parametrize("model", MODELS)
def test_the_second_pass_may_lose_its_caption(model):
    net, call, tokens = tiny(model)
    trained(tokens)
    high, low = torch.ones(3), torch.zeros(3)
    empty = {
        name: torch.randn(1, *call[name].shape[1:])
        for name in ("encoder_hidden_states", "pooled_projections")
        if name in call
    }
    if "encoder_attention_mask" in call:
        empty["encoder_attention_mask"] = torch.tensor([[1.0] + [0.0] * (LENGTH - 1)])
    with RewardGuidance(tokens, high).applied_to(net):
        towards = net(**call)[0]
    nothing = {name: value.expand(BATCH, *value.shape[1:]) for name, value in empty.items()}
    with RewardGuidance(tokens, low).applied_to(net):
        without = net(**(call | nothing))[0]
    with RewardGuidance(tokens, high, low, 1.5, empty).applied_to(net):
        guided = net(**call)[0]
    torch.testing.assert_close(guided, 2.5 * towards - 1.5 * without, rtol=1e-4, atol=1e-5)


def test_images_may_have_targets_of_their_own():
    net, call, tokens = tiny("sd3")
    trained(tokens)
    with RewardGuidance(tokens, torch.tensor([[0.0] * 3, [1.0] * 3])).applied_to(net):
        both = net(**call)[0]
    for row, level in enumerate((0.0, 1.0)):
        with RewardGuidance(tokens, torch.full((3,), level)).applied_to(net):
            torch.testing.assert_close(net(**call)[0][row], both[row], rtol=1e-4, atol=1e-5)


def test_outputs_of_a_class_stay_so():
    net, call, tokens = tiny("sd3")
    with RewardGuidance(tokens, torch.ones(3), torch.zeros(3), 1.0).applied_to(net):
        assert net(**(call | {"return_dict": True})).sample.shape == call["hidden_states"].shape


def test_the_pocket_pipeline_with_tokens_is_that_with_longer_padding():
    pipe = load_pipeline()
    pipe.set_progress_bar_config(disable=True)
    words, _, pooled, _ = pipe.encode_prompt("a photo of a red clock")
    tokens = RewardTokens(NAMES, words.shape[2])
    longer = torch.nn.functional.pad(words, (0, 0, 0, 3))
    call = {"num_inference_steps": 2, "output_type": "latent"}

    def latents(embeds):
        generator = torch.Generator().manual_seed(0)
        return pipe(prompt_embeds=embeds, pooled_prompt_embeds=pooled, generator=generator, **call).images

    with RewardGuidance(tokens, torch.ones(3)).applied_to(pipe.transformer):
        found = latents(words)
    torch.testing.assert_close(found, latents(longer))


def test_targets_are_levels_by_name():
    tokens = RewardTokens(NAMES, 8)
    assert tokens.target(1.0).tolist() == [1.0, 1.0, 1.0]
    found = tokens.target({"pick": 0.625})
    assert found[:2].isnan().all()
    assert found[2] == 0.625
    assert tokens.target(None).isnan().all()
    with pytest.raises(UsageError, match="target: expected rewards of geneval, aesthetic, pick, got 'clip'"):
        tokens.target({"clip": 1.0})
    with pytest.raises(UsageError, match=r"target\['pick'\]: expected a level in \[0, 1\] or None, got 1.5"):
        tokens.target({"pick": 1.5})


def test_equal_levels_give_equal_tokens_and_unknown_is_not_zero():
    tokens = trained(RewardTokens(NAMES, 8))
    found = tokens.tokens(torch.tensor([[0.0, 0.5, 1.0], [0.0, math.nan, 1.0]]))
    assert torch.equal(found[0, 0], found[1, 0])
    assert not torch.equal(found[0, 1], found[1, 1])
    assert not torch.allclose(found[0, 0], found[0, 2])  # each reward has its own weights


def test_half_precision_gives_the_same_tokens_but_for_rounding():
    tokens = trained(RewardTokens(NAMES, 8))
    levels = torch.tensor([[0.0, 0.7, math.nan]])
    whole = tokens.tokens(levels)
    half = tokens.to(torch.bfloat16).tokens(levels)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), whole, rtol=0.05, atol=0.1)
    embeds, _ = tokens(torch.zeros(1, 4, 8, dtype=torch.bfloat16), None, levels)
    assert embeds.dtype == torch.bfloat16


def test_wrong_calls_are_refused():
    tokens = RewardTokens(NAMES, 8)
    with pytest.raises(UsageError, match="levels: expected numbers in"):
        tokens(torch.zeros(1, 4, 8), None, torch.tensor([0.0, 0.5, 2.0]))
    with pytest.raises(UsageError, match="expected 3 rewards and width 8, got 2 and 8"):
        tokens(torch.zeros(1, 4, 8), None, torch.tensor([0.0, 0.5]))
    with pytest.raises(UsageError, match="mask: expected none with place='append', got one"):
        tokens(torch.zeros(1, 4, 8), torch.ones(1, 4), torch.zeros(3))
    with pytest.raises(UsageError, match="mask: expected one with place='masked', got none"):
        RewardTokens(NAMES, 8, "masked")(torch.zeros(1, 4, 8), None, torch.zeros(3))
    with pytest.raises(UsageError, match="expected more than 3 positions, got 3"):
        RewardTokens(NAMES, 8, "padding")(torch.zeros(1, 3, 8), None, torch.zeros(3))
    with pytest.raises(UsageError, match="place: expected append, padding or masked, got 'front'"):
        RewardTokens(NAMES, 8, "front")
    with pytest.raises(UsageError, match="expected at least one reward"):
        RewardTokens([], 8)
    with pytest.raises(UsageError, match="scale: expected a number >= 0, got -1"):
        RewardGuidance(tokens, torch.ones(3), torch.zeros(3), -1.0)
    with pytest.raises(UsageError, match="s_minus: expected levels to lead away from"):
        RewardGuidance(tokens, torch.ones(3), scale=1.0)
    net, call, padded = tiny("sd3")
    with (
        RewardGuidance(padded, torch.ones(3)).applied_to(net),
        pytest.raises(UsageError, match="encoder_hidden_states"),
    ):
        net(call["hidden_states"], call["encoder_hidden_states"])
