from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch

from geneval_reward.vision.detectors.deformable import LeanDeformableAttention, make_lean, sample_levels, sample_rows
from geneval_reward.vision.detectors.mask2former_convert import build_model, load_converted

SHAPES = [(5, 7), (10, 14), (20, 28)]


def inputs(seed: int = 0) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    value = torch.randn(2, sum(h * w for h, w in SHAPES), 4, 8, generator=g)
    # Some locations lie outside of the maps, where samples are zero.
    locations = torch.rand(2, 33, 4, 3, 4, 2, generator=g) * 1.4 - 0.2
    weights = torch.rand(2, 33, 4, 12, generator=g).softmax(-1).view(2, 33, 4, 3, 4)
    return value, locations, weights


@pytest.mark.parametrize("sampler", [sample_levels, sample_rows])
def test_equals_transformers(sampler: Any) -> None:
    from transformers.models.mask2former.modeling_mask2former import multi_scale_deformable_attention

    value, locations, weights = inputs()
    expected = multi_scale_deformable_attention(value, SHAPES, locations, weights)
    torch.testing.assert_close(sampler(value, SHAPES, locations, weights), expected, rtol=0, atol=2e-6)


@pytest.mark.slow
def test_compiled_equals_plain() -> None:
    value, locations, weights = inputs(1)
    compiled = torch.compile(sample_levels, dynamic=False)
    expected = sample_levels(value, SHAPES, locations, weights)
    torch.testing.assert_close(compiled(value, SHAPES, locations, weights), expected, rtol=1e-4, atol=1e-5)


def test_whole_model_is_unchanged(checkpoint_2x: Path) -> None:
    """Same names, same numbers before the first mask is thresholded (later stages jump where a logit is near zero)."""
    weights = load_converted(checkpoint_2x)
    plain, lean = build_model(weights).double(), make_lean(build_model(weights)).double()
    assert plain.state_dict().keys() == lean.state_dict().keys()
    replaced = [module for module in lean.modules() if isinstance(module, LeanDeformableAttention)]
    assert len(replaced) == 2
    pixels = torch.randn(1, 3, 96, 160, generator=torch.Generator().manual_seed(2)).double()
    with torch.no_grad():
        a, b = plain(pixel_values=pixels), lean(pixel_values=pixels)
    torch.testing.assert_close(b.masks_queries_logits, a.masks_queries_logits, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(b.class_queries_logits, a.class_queries_logits, rtol=1e-9, atol=1e-9)


def test_signature_still_fits_transformers(checkpoint_2x: Path) -> None:
    """The layer calls its attention by these names; a version that drops one must be noticed."""
    model: Any = build_model(load_converted(checkpoint_2x))
    layer = model.model.pixel_level_module.decoder.encoder.layers[0]
    names = inspect.signature(type(layer.self_attn).forward).parameters
    for name in ("hidden_states", "encoder_hidden_states", "reference_points", "spatial_shapes_list"):
        assert name in names
