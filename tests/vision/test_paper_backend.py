"""Detector, verifier and judge together, through the scorer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch

from geneval_reward.prompts import CLASS_NAMES, COLORS
from geneval_reward.scorer import GenEvalScorer
from geneval_reward.vision.protocols import Wanted

CLIP = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "patch_size": 16, "head_width": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory, checkpoint_2x: Path) -> GenEvalScorer:
    from safetensors.torch import save_file

    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("clip")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CLIP, "preprocess_cfg": {"size": 32}}))
    state = {name: value.contiguous() for name, value in open_clip.CLIP(**CLIP).state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("geneval_reward.vision.detectors.mask2former.warnings.warn", lambda *_, **__: None)
        return GenEvalScorer.from_pretrained(
            "paper",
            device="cpu",
            checkpoint=str(checkpoint_2x),
            clip_model=f"local-dir:{folder}",
            clip_pretrained=None,
        )


def records(scorer: GenEvalScorer, images: list[torch.Tensor]) -> list[dict[str, Any]]:
    """One record of each kind, of classes that this detector sees in the image."""
    made = []
    for index, found in enumerate(scorer.detector.detect(images, [Wanted(None, frozenset(), 0.3)] * len(images))):
        first, second = (CLASS_NAMES[c] for c in list(dict.fromkeys(found.class_id.tolist()))[:2])
        include: list[dict[str, Any]] = [{"class": first, "count": 1}, {"class": second, "count": 1}]
        if index % 3 == 0:
            include[0]["color"] = COLORS[index]
        if index % 3 == 1:
            include[1]["position"] = ["left of", 0]
        made.append({"tag": ["color_attr", "position", "two_object"][index % 3], "include": include})
    return made


@pytest.mark.slow
def test_verdicts(scorer: GenEvalScorer, strip: Any) -> None:
    images = [strip(index) for index in range(6)]
    specs = records(scorer, images)
    verdicts = scorer.score(images, specs)
    for verdict, spec in zip(verdicts, specs, strict=True):
        colored = [item for item in spec["include"] if "color" in item]
        asked = verdict.detections.color
        assert (asked is not None) == bool(colored)
        if asked is not None:
            rows = asked[~np.isnan(asked[:, 0])]
            assert len(rows) == 1
            assert rows.sum() == pytest.approx(1, abs=1e-5)
    assert any(verdict.correct for verdict in verdicts)
    assert not all(verdict.correct for verdict in verdicts)
    whole = GenEvalScorer(scorer.detector, scorer.verifier, all_classes=True, min_confidence=0.0, batch_size=2)
    for one, other in zip(verdicts, whole.score(images, specs), strict=True):
        assert one.correct == other.correct
        assert one.reason == other.reason


def test_fingerprint(scorer: GenEvalScorer) -> None:
    fingerprint = json.loads(json.dumps(scorer.fingerprint()))
    assert fingerprint["detector"]["precision"] == "fp32"
    assert fingerprint["verifier"]["background"] == "#999"
    assert fingerprint["detector"]["weights"].startswith("unverified weights")
