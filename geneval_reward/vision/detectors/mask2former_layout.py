"""Maps the tensor names of an mmdet Mask2Former-Swin checkpoint to those of the model in `transformers`.

The mapping was found by running both implementations on the same seeded weights; docs/paper_backend.md says how. All functions
here are pure: they take state dicts and return state dicts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

import torch

from geneval_reward.errors import WeightsError

# mmdet 2.x -> 3.x: the same tensors under new names. In the decoder, mmcv's attention 0 is the cross attention.
_TO_3X: Final = [
    (r"^(panoptic_head\.pixel_decoder\.encoder\.layers\.\d+)\.attentions\.0\.", r"\1.self_attn."),
    (r"^(panoptic_head\.transformer_decoder\.layers\.\d+)\.attentions\.0\.", r"\1.cross_attn."),
    (r"^(panoptic_head\.transformer_decoder\.layers\.\d+)\.attentions\.1\.", r"\1.self_attn."),
    (r"^(panoptic_head\.(?:pixel_decoder\.encoder|transformer_decoder)\.layers\.\d+)\.ffns\.0\.", r"\1.ffn."),
]

_ENCODER: Final = "model.pixel_level_module.encoder."
_PIXEL: Final = "model.pixel_level_module.decoder."
_DECODER: Final = "model.transformer_module."

# Each entry is (mmdet 3.x prefix, transformers 5 prefix, pairs of names below them). `#` stands for a number and `@` for
# `weight` or `bias`. A target with `{}` is a packed query-key-value tensor that is split into three; `~` marks a patch-merging
# tensor, whose channels are reordered; an empty target is a buffer that is checked and dropped.
_SECTIONS: Final[list[tuple[str, str, list[tuple[str, str]]]]] = [
    (
        "backbone.",
        _ENCODER,
        [
            ("patch_embed.projection.@", "swin.embeddings.patch_embeddings.projection.@"),
            ("patch_embed.norm.@", "swin.embeddings.norm.@"),
            ("stages.#.downsample.norm.@", "~swin.encoder.layers.#.downsample.norm.@"),
            ("stages.#.downsample.reduction.weight", "~swin.encoder.layers.#.downsample.reduction.weight"),
            *((f"norm{index}.@", f"hidden_states_norms.stage{index + 1}.@") for index in range(4)),
        ],
    ),
    (
        "backbone.stages.#.blocks.#.",
        _ENCODER + "swin.encoder.layers.#.blocks.#.",
        [
            ("norm1.@", "layernorm_before.@"),
            ("attn.w_msa.qkv.@", "attention.{}_proj.@"),
            ("attn.w_msa.proj.@", "attention.o_proj.@"),
            (
                "attn.w_msa.relative_position_bias_table",
                "attention.relative_position_bias.relative_position_bias_table",
            ),
            ("attn.w_msa.relative_position_index", ""),
            ("norm2.@", "layernorm_after.@"),
            ("ffn.layers.0.0.@", "mlp.fc1.@"),
            ("ffn.layers.1.@", "mlp.fc2.@"),
        ],
    ),
    (
        "panoptic_head.pixel_decoder.",
        _PIXEL,
        [
            ("input_convs.#.conv.@", "input_projections.#.0.@"),
            ("input_convs.#.gn.@", "input_projections.#.1.@"),
            ("level_encoding.weight", "level_embed"),
            ("encoder.layers.#.self_attn.sampling_offsets.@", "encoder.layers.#.self_attn.sampling_offsets.@"),
            ("encoder.layers.#.self_attn.attention_weights.@", "encoder.layers.#.self_attn.attention_weights.@"),
            ("encoder.layers.#.self_attn.value_proj.@", "encoder.layers.#.self_attn.value_proj.@"),
            ("encoder.layers.#.self_attn.output_proj.@", "encoder.layers.#.self_attn.output_proj.@"),
            ("encoder.layers.#.norms.0.@", "encoder.layers.#.self_attn_layer_norm.@"),
            ("encoder.layers.#.norms.1.@", "encoder.layers.#.final_layer_norm.@"),
            ("encoder.layers.#.ffn.layers.0.0.@", "encoder.layers.#.fc1.@"),
            ("encoder.layers.#.ffn.layers.1.@", "encoder.layers.#.fc2.@"),
            ("lateral_convs.0.conv.weight", "adapter_1.0.weight"),
            ("lateral_convs.0.gn.@", "adapter_1.1.@"),
            ("output_convs.0.conv.weight", "layer_1.0.weight"),
            ("output_convs.0.gn.@", "layer_1.1.@"),
            ("mask_feature.@", "mask_projection.@"),
        ],
    ),
    (
        "panoptic_head.transformer_decoder.",
        _DECODER + "decoder.",
        [
            ("layers.#.cross_attn.attn.in_proj_@", "layers.#.cross_attn.in_proj_@"),
            ("layers.#.cross_attn.attn.out_proj.@", "layers.#.cross_attn.out_proj.@"),
            ("layers.#.self_attn.attn.in_proj_@", "layers.#.self_attn.{}_proj.@"),
            ("layers.#.self_attn.attn.out_proj.@", "layers.#.self_attn.out_proj.@"),
            ("layers.#.norms.0.@", "layers.#.cross_attn_layer_norm.@"),
            ("layers.#.norms.1.@", "layers.#.self_attn_layer_norm.@"),
            ("layers.#.norms.2.@", "layers.#.final_layer_norm.@"),
            ("layers.#.ffn.layers.0.0.@", "layers.#.fc1.@"),
            ("layers.#.ffn.layers.1.@", "layers.#.fc2.@"),
            ("post_norm.@", "layernorm.@"),
        ],
    ),
    (
        "panoptic_head.",
        _DECODER,
        [
            ("decoder_input_projs.#.@", "input_projections.#.@"),
            ("query_embed.weight", "queries_embedder.weight"),
            ("query_feat.weight", "queries_features.weight"),
            ("level_embed.weight", "level_embed.weight"),
            *((f"mask_embed.{2 * i}.@", f"decoder.mask_predictor.mask_embedder.{i}.0.@") for i in range(3)),
        ],
    ),
    ("panoptic_head.cls_embed.", "class_predictor.", [("@", "@")]),
]

# transformers 5 -> 4.57 names of the Swin backbone.
_TO_TRANSFORMERS_4: Final = [
    (r"\.encoder\.swin\.", ".encoder."),
    (r"\.attention\.q_proj\.", ".attention.self.query."),
    (r"\.attention\.k_proj\.", ".attention.self.key."),
    (r"\.attention\.v_proj\.", ".attention.self.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"\.attention\.relative_position_bias\.", ".attention.self."),
    (r"(\.blocks\.\d+)\.mlp\.fc1\.", r"\1.intermediate.dense."),
    (r"(\.blocks\.\d+)\.mlp\.fc2\.", r"\1.output.dense."),
]


def _compile(source: str) -> re.Pattern[str]:
    return re.compile(re.escape(source).replace(r"\#", r"(\d+)").replace("@", "(weight|bias)"))


_RULES: Final = [
    # A `~` moves to the front of the whole target name.
    (_compile(head + source), ("~" if target.startswith("~") else "") + (base + target.lstrip("~") if target else ""))
    for head, base, names in _SECTIONS
    for source, target in names
]


def to_3x(state_dict: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], str]:
    """Rename the tensors of an mmdet state dict as in mmdet 3.x.

    Args:
        state_dict: A state dict that mmdet 2.x or 3.x saved.

    Returns:
        The same tensors under 3.x names, and the layout that was found: `"2.x"` or `"3.x"`.

    Raises:
        WeightsError: If names of both layouts are mixed.
    """
    renamed: dict[str, torch.Tensor] = {}
    changed = 0
    for name, tensor in state_dict.items():
        new = name
        for pattern, replacement in _TO_3X:
            new = re.sub(pattern, replacement, new)
        changed += new != name
        if new in renamed:
            raise WeightsError(f"checkpoint: expected one layout, got both mmdet 2.x and 3.x names for {new!r}")
        renamed[new] = tensor
    marks = (".self_attn.", ".cross_attn.", ".ffn.")
    old = sum(name.startswith("panoptic_head.") and any(m in name for m in marks) for name in state_dict)
    if changed and old:
        raise WeightsError(f"checkpoint: expected one layout, got {changed} mmdet 2.x and {old} mmdet 3.x names")
    return renamed, "2.x" if changed else "3.x"


def to_transformers(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Convert mmdet 3.x tensors to the names and layouts of transformers 5.

    Args:
        state_dict: Tensors under mmdet 3.x names (`to_3x`).

    Returns:
        Tensors under the names of `Mask2FormerForUniversalSegmentation`, contiguous.

    Raises:
        WeightsError: If a name is unknown, or a relative position index is not Swin's.
    """
    converted: dict[str, torch.Tensor] = {}
    unknown: list[str] = []
    for name, tensor in state_dict.items():
        for pattern, target in _RULES:
            match = pattern.fullmatch(name)
            if match:
                converted.update(_place(name, tensor, target, match.groups()))
                break
        else:
            unknown.append(name)
    if unknown:
        raise WeightsError(
            f"checkpoint: expected mmdet's Mask2Former with a Swin backbone, got {_some(unknown)} that it does not "
            "have; use the file that `geneval-reward weights list` names"
        )
    return converted


def to_installed(tensors: Mapping[str, torch.Tensor], names: Iterable[str]) -> dict[str, torch.Tensor]:
    """Rename tensors from transformers 5 to the installed version, which the names of its model identify."""
    if any(".encoder.swin." in name for name in names):
        return dict(tensors)
    renamed: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        new = name
        if name.startswith(_ENCODER):
            for pattern, replacement in _TO_TRANSFORMERS_4:
                new = re.sub(pattern, replacement, new)
        renamed[new] = tensor
    return renamed


def _place(name: str, tensor: torch.Tensor, target: str, found: tuple[str, ...]) -> dict[str, torch.Tensor]:
    if not target:
        _check_index(name, tensor)
        return {}
    for value in found:
        target = target.replace("@" if value in ("weight", "bias") else "#", value, 1)
    if target.startswith("~"):
        return {target[1:]: _merge_order(tensor)}
    if "{}" in target:
        return {target.format(part): rows.contiguous() for part, rows in zip("qkv", tensor.chunk(3), strict=True)}
    return {target: tensor.contiguous()}


def _merge_order(tensor: torch.Tensor) -> torch.Tensor:
    # mmdet merges patches with nn.Unfold: channel = c * 4 + row * 2 + column. Swin and transformers concatenate four blocks
    # of C channels in the order (row, column) = (0,0), (1,0), (0,1), (1,1).
    blocks = tensor.reshape(*tensor.shape[:-1], -1, 4)[..., [0, 2, 1, 3]]
    return blocks.transpose(-1, -2).flatten(-2).contiguous()


def _check_index(name: str, tensor: torch.Tensor) -> None:
    window = round(tensor.shape[0] ** 0.5)
    rows, columns = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    rows, columns = rows.flatten(), columns.flatten()
    expected = (rows[:, None] - rows + window - 1) * (2 * window - 1) + columns[:, None] - columns + window - 1
    if tensor.shape != expected.shape or not torch.equal(tensor.cpu().long(), expected):
        raise WeightsError(f"checkpoint: expected Swin's relative position index in {name!r}, got another order")


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return f"{len(names)} names ({shown}{', ...' if len(names) > 3 else ''})"
