from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from geneval_reward.errors import WeightsError
from geneval_reward.vision.detectors import mask2former_convert as convert
from geneval_reward.vision.detectors.mask2former_architecture import SWIN_S, Architecture, random_model
from geneval_reward.vision.detectors.mask2former_layout import to_3x, to_installed, to_transformers
from geneval_reward.vision.weights import KNOWN_FILES, WeightFile

Save = Callable[..., Path]
State = dict[str, torch.Tensor]


def load(path: Path) -> convert.ConvertedWeights:
    return convert.load_converted(path)


def run(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **env}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=environment, timeout=120
    )


def test_both_layouts_give_the_same_tensors(checkpoint_2x: Path, checkpoint_3x: Path) -> None:
    old, new = load(checkpoint_2x), load(checkpoint_3x)
    assert (old.layout, new.layout) == ("2.x", "3.x")
    assert old.architecture == new.architecture
    assert old.tensors.keys() == new.tensors.keys()
    assert all(torch.equal(old.tensors[name], new.tensors[name]) for name in old.tensors)
    assert not old.verified


def test_every_number_arrives_exactly_once(state_2x: State) -> None:
    """Conversion only moves numbers: none is lost, made up or changed."""
    moved = to_transformers(to_3x(state_2x)[0])
    before = np.sort(np.concatenate([v.numpy().ravel() for n, v in state_2x.items() if "index" not in n]))
    after = np.sort(np.concatenate([value.numpy().ravel() for value in moved.values()]))
    np.testing.assert_array_equal(before, after)


def test_patch_merging_channels(state_2x: State) -> None:
    """mmdet: channel = c * 4 + row * 2 + column (nn.Unfold); Swin: blocks (0,0), (1,0), (0,1), (1,1) of C channels."""
    width = 24
    source = torch.arange(4 * width, dtype=torch.float32)
    moved = to_transformers({"backbone.stages.0.downsample.norm.weight": source})
    (tensor,) = moved.values()
    for block, (row, column) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1)]):
        for channel in range(width):
            assert tensor[block * width + channel] == channel * 4 + row * 2 + column


def test_sizes_are_read_off_the_tensors(checkpoint_2x: Path) -> None:
    sizes = load(checkpoint_2x).architecture
    assert sizes.depths == (1, 1, 2, 1)
    assert sizes.num_heads == (1, 2, 4, 8)
    assert (sizes.embed_dim, sizes.window_size, sizes.num_queries, sizes.decoder_layers) == (24, 7, 20, 3)
    assert (sizes.attention_heads, sizes.encoder_feedforward_dim, sizes.dim_feedforward) == (8, 96, 128)


def mmdet_state(sizes: Architecture, seed: int = 0) -> State:
    """A random mmdet 3.x state dict of given sizes, by mmdet's own shapes."""
    g = torch.Generator().manual_seed(seed)
    state: State = {}

    def put(name: str, *shape: int) -> None:
        state[name] = torch.randn(*shape, generator=g) * 0.05

    def pair(name: str, *shape: int) -> None:
        put(f"{name}.weight", *shape)
        put(f"{name}.bias", shape[0])

    c, f, m, d = sizes.embed_dim, sizes.feature_size, sizes.mask_feature_size, sizes.hidden_dim
    window = sizes.window_size
    pair("backbone.patch_embed.projection", c, 3, sizes.patch_size, sizes.patch_size)
    pair("backbone.patch_embed.norm", c)
    for stage, (depth, heads) in enumerate(zip(sizes.depths, sizes.num_heads, strict=True)):
        width = c * 2**stage
        for block in range(depth):
            base = f"backbone.stages.{stage}.blocks.{block}"
            pair(f"{base}.norm1", width)
            pair(f"{base}.norm2", width)
            put(f"{base}.attn.w_msa.relative_position_bias_table", (2 * window - 1) ** 2, heads)
            pair(f"{base}.attn.w_msa.qkv", 3 * width, width)
            pair(f"{base}.attn.w_msa.proj", width, width)
            pair(f"{base}.ffn.layers.0.0", int(width * sizes.mlp_ratio), width)
            pair(f"{base}.ffn.layers.1", width, int(width * sizes.mlp_ratio))
        if stage < 3:
            pair(f"backbone.stages.{stage}.downsample.norm", 4 * width)
            put(f"backbone.stages.{stage}.downsample.reduction.weight", 2 * width, 4 * width)
        pair(f"backbone.norm{stage}", width)
    pixel = "panoptic_head.pixel_decoder"
    for level in range(3):
        pair(f"{pixel}.input_convs.{level}.conv", f, c * 2 ** (3 - level), 1, 1)
        pair(f"{pixel}.input_convs.{level}.gn", f)
    for layer in range(sizes.encoder_layers):
        base = f"{pixel}.encoder.layers.{layer}"
        pair(f"{base}.self_attn.sampling_offsets", sizes.attention_heads * 24, f)
        pair(f"{base}.self_attn.attention_weights", sizes.attention_heads * 12, f)
        pair(f"{base}.self_attn.value_proj", f, f)
        pair(f"{base}.self_attn.output_proj", f, f)
        pair(f"{base}.ffn.layers.0.0", sizes.encoder_feedforward_dim, f)
        pair(f"{base}.ffn.layers.1", f, sizes.encoder_feedforward_dim)
        pair(f"{base}.norms.0", f)
        pair(f"{base}.norms.1", f)
    put(f"{pixel}.level_encoding.weight", 3, f)
    put(f"{pixel}.lateral_convs.0.conv.weight", f, c, 1, 1)
    pair(f"{pixel}.lateral_convs.0.gn", f)
    put(f"{pixel}.output_convs.0.conv.weight", f, f, 3, 3)
    pair(f"{pixel}.output_convs.0.gn", f)
    pair(f"{pixel}.mask_feature", m, f, 1, 1)
    if f != d:
        for level in range(3):
            pair(f"panoptic_head.decoder_input_projs.{level}", d, f, 1, 1)
    for layer in range(sizes.decoder_layers):
        base = f"panoptic_head.transformer_decoder.layers.{layer}"
        for attention in ("cross_attn", "self_attn"):
            put(f"{base}.{attention}.attn.in_proj_weight", 3 * d, d)
            put(f"{base}.{attention}.attn.in_proj_bias", 3 * d)
            pair(f"{base}.{attention}.attn.out_proj", d, d)
        pair(f"{base}.ffn.layers.0.0", sizes.dim_feedforward, d)
        pair(f"{base}.ffn.layers.1", d, sizes.dim_feedforward)
        for norm in range(3):
            pair(f"{base}.norms.{norm}", d)
    pair("panoptic_head.transformer_decoder.post_norm", d)
    put("panoptic_head.query_embed.weight", sizes.num_queries, d)
    put("panoptic_head.query_feat.weight", sizes.num_queries, d)
    put("panoptic_head.level_embed.weight", 3, d)
    pair("panoptic_head.cls_embed", sizes.num_classes + 1, d)
    pair("panoptic_head.mask_embed.0", d, d)
    pair("panoptic_head.mask_embed.2", d, d)
    pair("panoptic_head.mask_embed.4", m, d)
    return state


@pytest.mark.slow
def test_published_sizes_make_the_published_number_of_tensors() -> None:
    """757 tensors come from the 625 used ones of the published file (three of each packed query-key-value)."""
    model = random_model(SWIN_S)
    assert sum(not convert._UNUSED.fullmatch(name) for name in model.state_dict()) == 757
    state = mmdet_state(SWIN_S)
    assert len(state) == 625
    assert Architecture.of(state) == SWIN_S
    assert len(to_transformers(state)) == 757


@pytest.mark.parametrize(
    "changes",
    [
        {"window_size": 4, "embed_dim": 16, "num_heads": (2, 4, 8, 16), "depths": (2, 1, 3, 1), "mlp_ratio": 3.0},
        {"feature_size": 32, "mask_feature_size": 48, "hidden_dim": 64, "attention_heads": 4, "encoder_layers": 1},
        {"num_queries": 7, "decoder_layers": 4, "dim_feedforward": 40, "num_classes": 5},
    ],
)
def test_other_sizes_load_strictly(checkpoint_2x: Path, save_checkpoint: Save, changes: dict[str, Any]) -> None:
    sizes = replace(load(checkpoint_2x).architecture, **changes)
    weights = load(save_checkpoint(mmdet_state(sizes)))
    assert weights.architecture == sizes
    model = convert.build_model(weights)
    with torch.no_grad():
        output = model(pixel_values=torch.zeros(1, 3, 64, 96))
    assert output.class_queries_logits.shape == (1, sizes.num_queries, sizes.num_classes + 1)
    assert output.masks_queries_logits.shape == (1, sizes.num_queries, 16, 24)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.training


def test_names_of_transformers_4(checkpoint_2x: Path) -> None:
    """Version 4 has no `swin` level and other attention names."""
    tensors = load(checkpoint_2x).tensors
    assert to_installed(tensors, ["model.pixel_level_module.encoder.swin.x"]).keys() == tensors.keys()
    renamed = to_installed(tensors, ["model.pixel_level_module.encoder.encoder.layers.0.x"])
    assert len(renamed) == len(tensors)
    block = "model.pixel_level_module.encoder.encoder.layers.0.blocks.0."
    assert {name.removeprefix(block) for name in renamed if name.startswith(block)} == {
        f"{name}.{end}"
        for name in (
            "layernorm_before",
            "layernorm_after",
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
            "attention.output.dense",
            "intermediate.dense",
            "output.dense",
        )
        for end in ("weight", "bias")
    } | {"attention.self.relative_position_bias_table"}
    assert "model.pixel_level_module.decoder.encoder.layers.0.fc1.weight" in renamed


def test_wrong_tensors_are_named(state_2x: State, save_checkpoint: Save) -> None:
    def fails(state: dict[str, Any], match: str) -> None:
        with pytest.raises(WeightsError, match=match):
            convert.build_model(load(save_checkpoint(state)))

    gone = {n: v for n, v in state_2x.items() if n != "backbone.stages.2.blocks.1.norm2.weight"}
    fails(gone, r"1 missing, first .*layernorm_after\.weight")
    fails({**state_2x, "backbone.extra": torch.zeros(1)}, "'backbone.extra'")
    fails({**state_2x, "backbone.norm2.weight": torch.zeros(5)}, "1 misshapen")
    fails({n: v for n, v in state_2x.items() if "query_feat" not in n}, "query_feat")
    fails({"backbone.conv1.weight": torch.zeros(64, 3, 7, 7)}, "expected mmdet's Mask2Former with a Swin backbone")
    mixed = {**state_2x, "panoptic_head.transformer_decoder.layers.0.self_attn.attn.in_proj_bias": torch.zeros(192)}
    fails(mixed, "one layout")
    index = next(name for name in state_2x if name.endswith("relative_position_index"))
    fails({**state_2x, index: state_2x[index].flip(0)}, "relative position index")
    fails({"a": "text"}, "state dict of tensors")


def test_unreadable_files(checkpoint_2x: Path, tmp_path: Path) -> None:
    def fails(content: bytes, match: str, name: str = "bad.pth") -> None:
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=match) as caught:
            convert.load_converted(path)
        assert str(path) in str(caught.value)
        assert not list(tmp_path.glob("*.safetensors"))

    whole = checkpoint_2x.read_bytes()
    fails(whole[: len(whole) // 2], "cannot be read")
    fails(b"", "cannot be read")
    fails(b"<html>not found</html>", "expected a (PyTorch checkpoint|checkpoint of tensors)")
    fails(whole, "begins with deadbeef, as its name says", name="model-deadbeef.pth")
    with pytest.raises(WeightsError, match="nothing at"):
        convert.load_converted(tmp_path / "none.pth")


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["BOMB"],)


@pytest.mark.parametrize("old_format", [True, False])
def test_code_in_a_pickle_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old_format: bool) -> None:
    target = tmp_path / "exploded"
    monkeypatch.setenv("BOMB", str(target))
    path = tmp_path / "bomb.pth"
    if old_format:
        path.write_bytes(pickle.dumps({"state_dict": Bomb()}, protocol=2))
    else:
        torch.save({"state_dict": Bomb()}, path)
    with pytest.raises(WeightsError, match="asks to run code"):
        convert.load_converted(path)
    assert not target.exists()


def test_numpy_numbers_in_meta_are_accepted(state_2x: State, save_checkpoint: Save) -> None:
    path = save_checkpoint(state_2x, score=np.float64(0.5), curve=np.arange(3.0), epoch=np.int64(3))
    assert load(path).architecture.num_queries == 20


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_numpy_numbers_of_either_numpy_are_accepted(state_2x: State, save_checkpoint: Save, module: str) -> None:
    """NumPy 1 and 2 pickle their numbers under different module names; a file of 2022 is of NumPy 1."""
    path = save_checkpoint(state_2x, score=np.float64(0.5), curve=np.arange(3.0))
    here = next(name for name in ("numpy._core.multiarray", "numpy.core.multiarray") if name in sys.modules)
    rewritten = path.with_name("other.pth")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(rewritten, "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            if entry.filename.endswith("data.pkl"):
                assert data.count(f"c{here}\n".encode()) == 2
                data = data.replace(f"c{here}\n".encode(), f"c{module}\n".encode())
            new.writestr(entry, data)
    assert load(rewritten).architecture.num_queries == 20


def test_published_hash_is_recognised(checkpoint_2x: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = load(checkpoint_2x)
    file = WeightFile("k", "a", "https://host/x.pth", weights.source_sha256[:8], None, "V")
    monkeypatch.setitem(KNOWN_FILES, "k", file)
    assert weights.verified
