"""The adapter beside fakes with mmdet's names, and the real mmdet at full size where it can be installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from geneval_reward.errors import DependencyError, WeightsError
from geneval_reward.vision.detectors.mmdet import (
    MMDetDetector,
    from_mmdet2,
    from_mmdet3,
    load_strictly,
    predict_mmdet3,
)
from geneval_reward.vision.preprocess import normalise, resize_and_pad
from geneval_reward.vision.protocols import Detector, Wanted

SIZE = (6, 4)
ROWS = {3: [[0, 0, 3, 2, 0.9], [1, 1, 4, 4, 0.2]], 41: [[2, 0, 6, 4, 0.5]]}


def mask(row: list[float]) -> npt.NDArray[np.bool_]:
    picture = np.zeros((SIZE[1], SIZE[0]), np.bool_)
    picture[int(row[1]) : int(row[3]), int(row[0]) : int(row[2])] = True
    return picture


def answer2(_: npt.NDArray[np.uint8]) -> Any:
    boxes = [np.array(ROWS.get(c, np.zeros((0, 5))), np.float32) for c in range(80)]
    return boxes, [[mask(row) for row in ROWS.get(c, [])] for c in range(80)]


class Instances(dict[str, Any]):
    """mmengine's InstanceData can be read like a mapping."""


def answer3(_: npt.NDArray[np.uint8]) -> Any:
    rows = [(c, row) for c, group in ROWS.items() for row in group]
    table = torch.tensor([row for _, row in rows])
    masks = torch.from_numpy(np.stack([mask(row) for _, row in rows]))
    labels = torch.tensor([c for c, _ in rows])
    return SimpleNamespace(
        pred_instances=Instances(bboxes=table[:, :4], scores=table[:, 4], labels=labels, masks=masks)
    )


@pytest.mark.parametrize(("read", "answer"), [(from_mmdet2, answer2), (from_mmdet3, answer3)])
def test_reading(read: Any, answer: Any) -> None:
    found = read(answer(np.zeros((4, 6, 3), np.uint8)), SIZE)
    assert found.class_id.tolist() == [3, 3, 41]
    np.testing.assert_allclose(found.confidence, [0.9, 0.2, 0.5])
    np.testing.assert_array_equal(found.xyxy[2], [2, 0, 6, 4])
    np.testing.assert_array_equal(found.mask[2], mask([2, 0, 6, 4]))
    assert found.image_size == SIZE


def test_nothing_found() -> None:
    empty = ([np.zeros((0, 5), np.float32)] * 80, [[] for _ in range(80)])
    found = from_mmdet2(empty, SIZE)
    assert len(found) == 0
    assert found.mask is not None
    assert found.mask.shape == (0, 4, 6)


def test_other_models_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \(boxes, masks\) of 80 classes"):
        from_mmdet2([np.zeros((0, 5))] * 80, SIZE)


@pytest.mark.parametrize(("major", "answer"), [(2, answer2), (3, answer3)])
@pytest.mark.parametrize("swap_rb", [False, True])
def test_mmdet_is_handed_bgr(major: int, answer: Any, swap_rb: bool) -> None:
    seen: list[npt.NDArray[np.uint8]] = []

    def infer(pixels: npt.NDArray[np.uint8]) -> Any:
        seen.append(pixels)
        return answer(pixels)

    detector = MMDetDetector(infer, major, swap_rb=swap_rb)
    assert isinstance(detector, Detector)
    red = torch.zeros(3, 4, 6, dtype=torch.uint8)
    red[0] = 255
    wanted = Wanted(frozenset({3}), frozenset({3}), 0.3)
    (found,) = detector.detect([red], [wanted])
    assert seen[0].shape == (4, 6, 3)
    assert seen[0].flags.c_contiguous
    assert seen[0][0, 0].tolist() == ([255, 0, 0] if swap_rb else [0, 0, 255])
    np.testing.assert_allclose(found.confidence, [0.9])
    assert found.mask is not None
    (everything,) = detector.detect([red], [Wanted(None)])
    assert len(everything) == 3
    assert everything.mask is None
    assert detector.fingerprint()["swap_rb"] is swap_rb


def test_only_checkpoints_that_fit_in_every_tensor_are_loaded(tmp_path: Path) -> None:
    """mmdet loads loosely: 2.x weights in a 3.x model, or the weights of a larger one, stay random without an error."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 3))
    state = {"0.weight": torch.ones(3, 2), "0.bias": torch.zeros(3)}
    load_strictly(model, state, tmp_path / "c.pth")
    assert torch.equal(model[0].weight, torch.ones(3, 2))
    for wrong in (
        {"0.weight": torch.ones(3, 2)},
        state | {"1.weight": torch.ones(1)},
        state | {"0.weight": torch.ones(4, 2)},
    ):
        with pytest.raises(
            WeightsError, match=r"c\.pth: expected the tensors of the mmdet model, got .*2\.x needs mmdet 2\.x"
        ):
            load_strictly(model, wrong, tmp_path / "c.pth")


def fake_mmdet(monkeypatch: pytest.MonkeyPatch, folder: Path, version: str) -> None:
    """A package with mmdet's names, so that what surrounds it can be tested everywhere."""
    package, apis = ModuleType("mmdet"), ModuleType("mmdet.apis")
    package.__version__, package.__file__, package.apis = version, str(folder / "mmdet" / "__init__.py"), apis  # type: ignore[attr-defined]

    def init_detector(config: str, checkpoint: Any, device: str) -> torch.nn.Module:
        assert checkpoint is None, "mmdet would load it loosely"
        print("load checkpoint from local path: ...")  # as mmdet does
        warnings.warn("checkpoint is None, use COCO classes by default.", stacklevel=1)
        return torch.nn.Linear(2, 3)

    apis.init_detector = init_detector  # type: ignore[attr-defined]
    apis.inference_detector = lambda model, pixels: answer2(pixels)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mmdet", package)
    monkeypatch.setitem(sys.modules, "mmdet.apis", apis)


def test_loading_prints_nothing_to_stdout_and_checks_the_weights(tmp_path, monkeypatch, capsys) -> None:
    fake_mmdet(monkeypatch, tmp_path, "2.28.2")
    config, file = tmp_path / "c.py", tmp_path / "w.pth"
    config.touch()
    # A NumPy number in "meta" is read as `paper` reads it; mmcv's own loading refuses it from torch 2.6 on.
    torch.save({"meta": {"mAP": np.float64(0.5)}, "state_dict": torch.nn.Linear(2, 3).state_dict()}, file)
    detector = MMDetDetector.from_pretrained(file, config, device="cpu")
    assert len(detector.detect([torch.zeros(3, 4, 6, dtype=torch.uint8)], [Wanted(None)])[0]) == 3
    assert capsys.readouterr().out == ""
    torch.save(torch.nn.Linear(2, 4).state_dict(), file)
    with pytest.raises(WeightsError, match="expected the tensors of the mmdet model"):
        MMDetDetector.from_pretrained(file, config, device="cpu")
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(WeightsError, match="expected a PyTorch checkpoint, got a file that cannot be read"):
        MMDetDetector.from_pretrained(file, config, device="cpu")
    with pytest.raises(WeightsError, match="config: expected a config file of mmdet, got nothing at"):
        MMDetDetector.from_pretrained(file, tmp_path / "no.py", device="cpu")
    with pytest.raises(WeightsError, match=r"config: expected mask2former/.* beside .*install mmdet from its wheel"):
        MMDetDetector.from_pretrained(file, device="cpu")


@pytest.mark.parametrize(
    "error", [ModuleNotFoundError("No module named 'mmcv'"), AssertionError("MMCV==2.2.0 is used")]
)
def test_an_mmdet_that_cannot_be_imported_is_one_sentence(monkeypatch, error) -> None:
    """mmdet answers an mmcv of another version with an AssertionError."""

    class Finder:
        def find_spec(self, name: str, *_: Any) -> None:
            if name.split(".")[0] == "mmdet":
                raise error

    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "mmdet", raising=False)
    with pytest.raises(
        DependencyError, match=f"mmdet: expected mmdet 2.x or 3.x with an mmcv that fits it, got {error}"
    ):
        MMDetDetector.from_pretrained()


def test_mmdet3_is_fed_the_input_of_mmdet2(monkeypatch) -> None:
    """Its own pipeline would resize in float32 and pad with 0, which gives the network another picture."""
    structures = ModuleType("mmdet.structures")
    structures.DetDataSample = SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mmdet", ModuleType("mmdet"))
    monkeypatch.setitem(sys.modules, "mmdet.structures", structures)

    class Model(torch.nn.Linear):
        def predict(self, pixels: torch.Tensor, samples: list[Any]) -> list[Any]:
            self.seen = pixels, samples[0].metainfo
            return ["answer"]

    model = Model(1, 1)
    rgb = torch.randint(0, 256, (3, 30, 45), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    bgr = np.ascontiguousarray(rgb.permute(1, 2, 0).numpy()[:, :, ::-1])
    assert predict_mmdet3(model, bgr) == "answer"
    pixels, meta = model.seen
    padded, sizes = resize_and_pad(rgb)
    assert torch.equal(pixels, normalise(padded[None]))
    assert (meta["ori_shape"], meta["img_shape"], meta["batch_input_shape"]) == ((30, 45), (800, 1200), (800, 1216))
    # Grey 128 after the normalisation, in red: (128 - 123.675) / 58.395.
    assert abs(float(pixels[0, 0, -1, -1]) - 0.0741) < 1e-3
    assert sizes.padded == (800, 1216)


def test_bad_options() -> None:
    with pytest.raises(ValueError, match="2 or 3"):
        MMDetDetector(answer2, 1)
    with pytest.raises(ValueError, match="'auto' or 'fp32'"):
        MMDetDetector.from_pretrained(precision="fp16")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("version", ["2.28.2", "3.3.0"])
def test_real_mmdet_agrees_at_full_size(version: str) -> None:
    """Installs mmdet into a folder of its own with a stub of mmcv's operators, and compares all detections of an image."""
    script = Path(__file__).parents[3] / "benchmarks" / "mmdet_parity.py"
    command = [sys.executable, str(script), "--version", version, "--images", "1", "--json"]
    if "GENEVAL_REWARD_MMDET_FOLDER" in os.environ:
        command += ["--folder", f"{os.environ['GENEVAL_REWARD_MMDET_FOLDER']}/{version}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode == 3:
        pytest.skip(result.stderr.strip().splitlines()[-1])
    assert result.returncode == 0, result.stderr[-2000:]
    (row,) = [json.loads(line) for line in result.stdout.splitlines()]
    assert row["matched"] == row["objects"][0] == row["objects"][1] == 100
    assert row["confidence"] < 1e-3
    assert row["box"] == 0
    assert row["mask_iou"] > 0.99
