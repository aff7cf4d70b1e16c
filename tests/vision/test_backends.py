import sys
from types import ModuleType
from typing import Any

import pytest
import torch

from geneval_reward.errors import DependencyError
from geneval_reward.judge import Rules
from geneval_reward.vision.backends import BACKENDS, PRECISIONS, load_backend, resolve_device
from geneval_reward.vision.colors.lite import LiteVerifier
from geneval_reward.vision.detectors.lite import LiteDetector
from geneval_reward.vision.protocols import Detector, Verifier

HOMES = {
    "Mask2FormerDetector": "geneval_reward.vision.detectors.mask2former",
    "MMDetDetector": "geneval_reward.vision.detectors.mmdet",
    "ClipVerifier": "geneval_reward.vision.colors.clip",
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """Modules of the heavy backends whose classes only write down what they were asked for."""
    calls: dict[str, dict[str, Any]] = {}

    def make(name: str) -> type:
        class Part:
            @classmethod
            def from_pretrained(cls, **arguments: Any) -> Any:
                calls[name] = arguments
                return cls()

        return Part

    for name, home in HOMES.items():
        module = ModuleType(home)
        setattr(module, name, make(name))
        monkeypatch.setitem(sys.modules, home, module)
    return calls


def test_lite_needs_nothing_and_has_its_own_rules() -> None:
    loaded = load_backend("lite", device="cpu")
    assert isinstance(loaded.detector, LiteDetector)
    assert isinstance(loaded.verifier, LiteVerifier)
    assert isinstance(loaded.detector, Detector)
    assert isinstance(loaded.verifier, Verifier)
    assert loaded.name == "lite"
    assert loaded.rules == Rules.parse("lite")
    assert loaded.batch_size >= 1
    assert load_backend("lite", device="cpu", rules="geneval").rules == Rules()


@pytest.mark.parametrize(("name", "detector"), [("paper", "Mask2FormerDetector"), ("mmdet", "MMDetDetector")])
def test_the_benchmarks_backends_get_what_was_asked_for(
    name: str, detector: str, asked: dict[str, dict[str, Any]]
) -> None:
    rules = Rules(background="original", crop=False)
    loaded = load_backend(
        name, device="cpu", precision="fp32", rules=rules, checkpoint="a.pth", clip_model="RN50", clip_pretrained="b.pt"
    )
    device = torch.device("cpu")
    assert asked[detector] == {"device": device, "precision": "fp32", "checkpoint": "a.pth"}
    assert asked["ClipVerifier"] == {
        "device": device,
        "precision": "fp32",
        "background": "original",
        "crop": False,
        "model": "RN50",
        "pretrained": "b.pt",
    }
    assert (loaded.name, loaded.rules) == (name, rules)
    assert load_backend(name, device="cpu").rules == Rules()


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_refuses_options_that_it_does_not_know(name: str) -> None:
    with pytest.raises(TypeError, match="no_such_option"):
        load_backend(name, device="cpu", no_such_option=1)


def test_names_are_checked_before_anything_is_loaded() -> None:
    with pytest.raises(ValueError, match=r"backend: expected one of lite, nanodet, paper, mmdet, got 'light'"):
        load_backend("light")
    with pytest.raises(ValueError, match=r"precision: expected one of auto, fp32, tf32, fp16, bf16, got 'fp8'"):
        load_backend("paper", precision="fp8")
    with pytest.raises(ValueError, match=r"device: expected 'auto' or a torch device, got 'gpu'"):
        load_backend("paper", device="gpu")
    with pytest.raises(ValueError, match=r"rules: expected a profile"):
        load_backend("lite", device="cpu", rules="strict")
    assert PRECISIONS[0] == "auto"


def test_devices() -> None:
    assert resolve_device("cpu") == resolve_device(torch.device("cpu")) == torch.device("cpu")
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match=r"device: expected a device that is here, got 'cuda:1', .*no CUDA; use 'cpu'"):
        resolve_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("cuda")


@pytest.mark.parametrize("backend", ["paper", "mmdet"])
@pytest.mark.parametrize("module", ["cv2", "open_clip", "transformers"])
def test_a_core_install_names_the_extra_at_once(backend, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        DependencyError, match=rf"backend: expected the package {module}, got .*geneval-reward\[paper\]"
    ):
        load_backend(backend)
