from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

DATA = Path(__file__).parents[1] / "data" / "mask2former"

# mmdet 2.x -> 3.x, written down a second time and the other way round from the package's own table.
OLD_TO_NEW = (
    ("pixel_decoder.encoder.layers", "attentions.0", "self_attn"),
    ("transformer_decoder.layers", "attentions.0", "cross_attn"),
    ("transformer_decoder.layers", "attentions.1", "self_attn"),
    ("pixel_decoder.encoder.layers", "ffns.0", "ffn"),
    ("transformer_decoder.layers", "ffns.0", "ffn"),
)


def rename_to_3x(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    renamed = {}
    for name, tensor in state.items():
        for place, old, new in OLD_TO_NEW:
            name = re.sub(rf"({place}\.\d+)\.{old}\.", rf"\1.{new}.", name)
        renamed[name] = tensor
    return renamed


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    return DATA


@pytest.fixture(scope="session")
def checkpoint_2x() -> Path:
    return DATA / "checkpoint_2x.pth"


@pytest.fixture(scope="session")
def state_2x(checkpoint_2x: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint_2x, weights_only=True)["state_dict"]


@pytest.fixture(scope="session")
def checkpoint_3x(state_2x: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mmdet3") / "checkpoint_3x.pth"
    torch.save({"meta": {"dataset_meta": {"classes": ("a",) * 80}}, "state_dict": rename_to_3x(state_2x)}, path)
    return path


@pytest.fixture
def save_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    def save(state: dict[str, Any], name: str = "checkpoint.pth", **meta: Any) -> Path:
        path = tmp_path / name
        torch.save({"meta": meta, "state_dict": state}, path)
        return path

    return save


@pytest.fixture(scope="session")
def golden_detector(checkpoint_2x: Path) -> Any:
    from geneval_reward.vision.detectors.mask2former import Mask2FormerDetector

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("geneval_reward.vision.detectors.mask2former._warned", _Everything())
        return Mask2FormerDetector.from_pretrained(checkpoint_2x, device="cpu")


class _Everything(set[str]):
    def __contains__(self, item: object) -> bool:
        return True


@pytest.fixture
def strip() -> Callable[..., torch.Tensor]:
    """Wide, low pictures of noise: the network sees 1344 x 64 of them, which is fast."""

    def make(seed: int, width: int = 400, height: int = 12) -> torch.Tensor:
        noise = np.random.default_rng(seed).integers(0, 256, (3, height, width), np.uint8)
        return torch.from_numpy(noise)

    return make


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENEVAL_REWARD_CACHE", str(tmp_path / "cache"))
    for name in ("GENEVAL_REWARD_MASK2FORMER", "GENEVAL_REWARD_CLIP", "GENEVAL_REWARD_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
