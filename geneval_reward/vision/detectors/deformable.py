"""Multi-scale deformable attention with a fraction of the memory, for the modules of `transformers`' Mask2Former."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from geneval_reward.vision.detectors.mask_decoder import LeanMaskDecoder

Sampler = Callable[[torch.Tensor, Sequence[tuple[int, int]], torch.Tensor, torch.Tensor], torch.Tensor]


def sample_levels(
    value: torch.Tensor, shapes: Sequence[tuple[int, int]], locations: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Weighted sum of bilinear samples (Deformable DETR, arXiv:2010.04159, eq. 3).

    The levels are summed as they are sampled. Stacking them first, as the usual PyTorch form does, keeps all samples at
    once: 154 MiB per image and layer at 800 x 800, three times as much as here.

    Args:
        value: `(B, sum of h*w, heads, d)`.
        shapes: `(h, w)` of each level.
        locations: `(B, N, heads, levels, points, 2)`, x and y in [0, 1].
        weights: `(B, N, heads, levels, points)`, summing to 1 over levels and points.

    Returns:
        `(B, N, heads * d)`.
    """
    batch, _, heads, depth = value.shape
    queries = locations.shape[1]
    total: torch.Tensor | None = None
    parts = torch.split(value, [height * width for height, width in shapes], dim=1)
    for level, part in enumerate(parts):
        height, width = shapes[level]
        maps = part.permute(0, 2, 3, 1).reshape(batch * heads, depth, height, width)
        grid = (2 * locations[:, :, :, level] - 1).transpose(1, 2).flatten(0, 1)
        # Half types are sampled in float32: a grid in fp16 is too coarse, and CPU kernels are wrong in half types.
        samples = functional.grid_sample(maps.to(grid.dtype), grid, padding_mode="zeros", align_corners=False)
        scale = weights[:, :, :, level].transpose(1, 2).reshape(batch * heads, 1, queries, -1)
        found = samples.mul_(scale).sum(-1)
        total = found if total is None else total.add_(found)
    assert total is not None
    return total.view(batch, heads * depth, queries).transpose(1, 2)


def sample_rows(
    value: torch.Tensor, shapes: Sequence[tuple[int, int]], locations: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Compute what `sample_levels` computes, by one weighted sum of table rows (`embedding_bag`).

    A bilinear sample is a weighted sum of four neighbours, so that each query and head sums `4 * levels * points` rows of
    `value`. On a CPU this takes a sixth of the time of `grid_sample`, which reads one channel after the other.

    Args:
        value: As in `sample_levels`.
        shapes: As in `sample_levels`.
        locations: As in `sample_levels`.
        weights: As in `sample_levels`.

    Returns:
        `(B, N, heads * d)` in the dtype of `weights`.
    """
    batch, rows, heads, depth = value.shape
    queries, levels, points = locations.shape[1], *locations.shape[3:5]
    table = value.reshape(-1, depth).to(weights.dtype)

    def each_point(numbers: Sequence[int]) -> torch.Tensor:
        """From one number per level to one per head, level and point: long inner loops are what makes this fast."""
        return locations.new_tensor(numbers).repeat_interleave(points).repeat(heads)

    width, height = each_point([w for _, w in shapes]), each_point([h for h, _ in shapes])
    starts = itertools.accumulate((h * w for h, w in shapes[:-1]), initial=0)
    first = each_point(list(starts)) * heads + torch.arange(heads).repeat_interleave(levels * points)
    x, y = locations.flatten(2, 4).unbind(-1)
    weights = weights.flatten(2)
    index, share = [], []
    for row, row_share in _neighbours(y, height):
        start, row_share = row * (width * heads) + first, row_share * weights
        for column, column_share in _neighbours(x, width):
            index.append((start + column * heads).view(batch, queries * heads, -1))
            share.append((row_share * column_share).view(batch * queries * heads, -1))
    of_image = torch.cat(index, -1).int() + torch.arange(batch, dtype=torch.int32)[:, None, None] * (rows * heads)
    sums = functional.embedding_bag(of_image.flatten(0, 1), table, mode="sum", per_sample_weights=torch.cat(share, -1))
    return sums.view(batch, queries, heads * depth)


def _neighbours(at: torch.Tensor, size: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The two pixels beside each place in [0, 1] of an axis and their shares; pixels outside of the map have none."""
    at = at * size - 0.5
    low = at.floor()
    part = at - low
    found = []
    for pixel, share in ((low, 1 - part), (low + 1, part)):
        near = pixel.clamp(min=0).minimum(size - 1)
        found.append((near, share * (near == pixel)))
    return found


class LeanDeformableAttention(nn.Module):
    """Takes the place of transformers' deformable attention module; parameters and names stay the same.

    For inference only. The padding mask is not read, since the model that owns this module never masks anything.

    Args:
        original: The module to replace.
        sampler: `sample_levels`, `sample_rows` or a compiled form of one. None for the one that is faster in PyTorch:
            `sample_rows` on a CPU and `sample_levels` elsewhere.
    """

    def __init__(self, original: nn.Module, sampler: Sampler | None = None) -> None:
        super().__init__()
        source: Any = original
        self.sampling_offsets = source.sampling_offsets
        self.attention_weights = source.attention_weights
        self.value_proj = source.value_proj
        self.output_proj = source.output_proj
        self.heads: int = source.n_heads
        self.levels: int = source.n_levels
        self.points: int = source.n_points
        self.sampler = sampler

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        reference_points: torch.Tensor,
        spatial_shapes_list: Sequence[tuple[int, int]],
        position_embeddings: torch.Tensor | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        """The signature of the module it replaces; no attention weights are returned."""
        value = self.value_proj(encoder_hidden_states)
        batch, length, width = value.shape
        query = hidden_states if position_embeddings is None else hidden_states + position_embeddings
        shape = (batch, query.shape[1], self.heads, self.levels, self.points)
        exact = torch.promote_types(reference_points.dtype, torch.float32)
        offsets = self.sampling_offsets(query).view(*shape, 2).to(exact)
        weights = self.attention_weights(query).to(exact).view(*shape[:3], -1).softmax(-1).view(shape)
        sizes = [(float(w), float(h)) for h, w in spatial_shapes_list]
        scale = _constant(sizes, offsets)[:, None].expand(-1, self.points, -1).flatten()
        places = reference_points[:, :, None, :, None].expand(-1, -1, 1, -1, self.points, -1).flatten(3)
        locations = (places + offsets.flatten(3) / scale).view_as(offsets)
        heads = value.view(batch, length, self.heads, width // self.heads)
        sampler = self.sampler or (sample_rows if value.device.type == "cpu" else sample_levels)
        return self.output_proj(sampler(heads, spatial_shapes_list, locations, weights)), None


def _constant(sizes: Sequence[tuple[float, float]], like: torch.Tensor) -> torch.Tensor:
    # Built on the device from fills, not from a list: a copy from the host would wait for the GPU in every layer.
    columns = [torch.stack([like.new_full((), w), like.new_full((), h)]) for w, h in sizes]
    return torch.stack(columns)


def make_lean(model: nn.Module, sampler: Sampler | None = None) -> nn.Module:
    """Replace every deformable attention module of a Mask2Former, and its decoder, by the lean ones.

    Args:
        model: A `Mask2FormerForUniversalSegmentation`, changed in place.
        sampler: As in `LeanDeformableAttention`.

    Returns:
        The model.
    """
    for layer in _pixel_layers(model):
        layer.self_attn = LeanDeformableAttention(layer.self_attn, sampler)
    whole: Any = model
    whole.model.transformer_module.decoder = LeanMaskDecoder(whole.model.transformer_module.decoder)
    return model


def _pixel_layers(model: Any) -> Sequence[Any]:
    layers: Sequence[Any] = model.model.pixel_level_module.decoder.encoder.layers
    return layers
