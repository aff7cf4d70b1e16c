"""The batched verifier against a plain one, on a small CLIP with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU
from PIL import Image
from torch import nn

from geneval_reward.errors import WeightsError
from geneval_reward.prompts import COLORS
from geneval_reward.vision.colors.clip import ClipVerifier
from geneval_reward.vision.protocols import ColorQuery, Verifier

CONFIG = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as open_clip's `local-dir:` reads it."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = open_clip.CLIP(**CONFIG)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.5)
    path = tmp_path_factory.mktemp("clip")
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": {"size": 32}}))
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, path / "open_clip_model.safetensors"
    )
    return path


@pytest.fixture(scope="module")
def verifier(folder: Path) -> ClipVerifier:
    return ClipVerifier.from_pretrained(f"local-dir:{folder}", None, device="cpu", precision="fp32")


def queries(count: int = 7, seed: int = 0) -> list[ColorQuery]:
    rng = np.random.default_rng(seed)
    names = ["cup", "bus", "hot dog", "cup", "computer mouse", "bus", "cup"]
    made = []
    for index in range(count):
        height, width = rng.integers(20, 90, 2)
        noise = rng.integers(-40, 41, (3, height, width)) + rng.integers(0, 256, (3, 1, 1))
        image = torch.from_numpy(noise.clip(0, 255).astype(np.uint8))
        x0, y0 = rng.integers(0, width - 12), rng.integers(0, height - 12)
        box = np.array([x0, y0, rng.integers(x0 + 5, width + 1), rng.integers(y0 + 5, height + 1)], np.float32)
        mask = rng.random((height, width)) < 0.7 if index % 3 else None
        made.append(ColorQuery(image, box, names[index % len(names)], mask))
    return made


def plain(model: Any, tokenizer: Any, query: ColorQuery) -> np.ndarray[Any, Any]:
    """One object as the benchmark does it: PIL, torchvision-free resize, head by its written formula."""
    picture = Image.fromarray(query.image.permute(1, 2, 0).numpy())
    if query.mask is not None:
        picture = Image.composite(picture, Image.new("RGB", picture.size, "#999"), Image.fromarray(query.mask))
    picture = picture.crop(tuple(int(value) for value in query.xyxy))
    short = min(picture.size)
    size = tuple(int(32 * side / short) for side in picture.size)
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    left, top = (round((side - 32) / 2) for side in size)
    pixels = np.asarray(picture.crop((left, top, left + 32, top + 32)), np.float32).transpose(2, 0, 1) / 255
    mean = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)[:, None, None]
    std = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)[:, None, None]
    with torch.no_grad():
        image = model.encode_image(torch.from_numpy((pixels - mean) / std)[None])[0].double()
        image /= image.norm()
        logits = []
        for color in COLORS:
            texts = [
                f"a photo of a {color} {query.class_name}",
                f"a photo of a {color}-colored {query.class_name}",
                f"a photo of a {color} object",
            ]
            rows = [model.encode_text(tokenizer([text]))[0].double() for text in texts]
            weight = torch.stack([row / row.norm() for row in rows]).mean(0)
            logits.append(float(100 * image @ (weight / weight.norm())))
    exponents = np.exp(np.array(logits) - max(logits))
    return exponents / exponents.sum()


def test_equals_the_plain_head(verifier: ClipVerifier) -> None:
    asked = queries()
    got = verifier.colors(asked)
    assert isinstance(verifier, Verifier)
    assert got.shape == (7, 10)
    assert got.dtype == np.float32
    expected = np.stack([plain(verifier._model, verifier._tokenizer, query) for query in asked])
    np.testing.assert_allclose(got, expected, atol=2e-4)
    np.testing.assert_array_equal(got.argmax(1), expected.argmax(1))
    np.testing.assert_allclose(got.sum(1), 1, atol=1e-5)
    assert len(set(got.argmax(1))) > 1, "a head that always says the same proves nothing"


def test_one_forward_for_all_crops(verifier: ClipVerifier, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    encode = verifier._model.encode_image
    monkeypatch.setattr(verifier._model, "encode_image", lambda batch: (sizes.append(len(batch)), encode(batch))[1])
    together = verifier.colors(queries())
    assert sizes == [7]
    monkeypatch.setattr(verifier, "_forward_crops", 3)
    np.testing.assert_allclose(verifier.colors(queries()), together, atol=1e-5)
    assert sizes == [7, 3, 3, 1]
    single = np.concatenate([verifier.colors([query]) for query in queries()])
    np.testing.assert_allclose(single, together, atol=1e-5)


def test_each_class_is_encoded_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = ClipVerifier.from_pretrained(f"local-dir:{folder}", None, device="cpu")
    texts: list[int] = []
    encode = fresh._model.encode_text
    monkeypatch.setattr(fresh._model, "encode_text", lambda tokens: (texts.append(len(tokens)), encode(tokens))[1])
    fresh.colors(queries())
    assert sum(texts) == 4 * 30
    fresh.colors(queries(3, seed=1))
    assert sum(texts) == 4 * 30


def test_no_object_and_no_pixel(verifier: ClipVerifier) -> None:
    assert verifier.colors([]).shape == (0, 10)
    whole = queries(2)
    empty = ColorQuery(whole[0].image, np.zeros(4, np.float32), "cup")
    got = verifier.colors([whole[0], empty, whole[1]])
    assert not got[1].any()
    np.testing.assert_allclose(got[[0, 2]], verifier.colors(whole), atol=1e-5)
    assert not verifier.colors([empty]).any()


def test_options(verifier: ClipVerifier, folder: Path) -> None:
    asked = queries()
    for options in ({"background": "original"}, {"background": "#000"}, {"crop": False}):
        other = ClipVerifier.from_pretrained(f"local-dir:{folder}", None, device="cpu", **options)  # type: ignore[arg-type]
        assert not np.allclose(other.colors(asked), verifier.colors(asked), atol=1e-4)
        assert other.fingerprint() != verifier.fingerprint()
        assert other.fingerprint()["weights_sha256"] == verifier.fingerprint()["weights_sha256"]
    json.dumps(verifier.fingerprint())


def test_own_precision_under_outer_autocast(verifier: ClipVerifier) -> None:
    asked = queries()
    expected = verifier.colors(asked)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        np.testing.assert_array_equal(verifier.colors(asked), expected)
    assert not any(parameter.requires_grad for parameter in verifier._model.parameters())


def test_half_precision(folder: Path, verifier: ClipVerifier) -> None:
    half = ClipVerifier.from_pretrained(f"local-dir:{folder}", None, device="cpu", precision="bf16")
    got = half.colors(queries())
    assert np.isfinite(got).all()
    assert not np.array_equal(got, verifier.colors(queries()))
    assert half.fingerprint()["precision"] == "bf16"


class TestQuickGelu:
    """From 2.29 on, open_clip builds GELU for OpenAI's weights under the plain name."""

    def modules(self, monkeypatch: pytest.MonkeyPatch, folder: Path, model: str) -> set[type[nn.Module]]:
        create = open_clip.create_model
        seen: dict[str, Any] = {}

        def small(name: str, pretrained: Any = None, **options: Any) -> nn.Module:
            seen.update(options, pretrained=pretrained)
            # The activation that open_clip itself gives this name, on a model of test size.
            quick = options.get("force_quick_gelu") or open_clip.get_model_config(name).get("quick_gelu", False)
            built = open_clip.CLIP(**{**CONFIG, "quick_gelu": quick})
            built.visual.preprocess_cfg = {"size": 32}
            return built

        monkeypatch.setattr(open_clip, "create_model", small)
        monkeypatch.setenv("GENEVAL_REWARD_CLIP", str(folder))
        verifier = ClipVerifier.from_pretrained(model, "openai", device="cpu")
        assert create is not small
        assert seen["require_pretrained"] is True
        assert seen["pretrained"] == str(folder / "open_clip_model.safetensors")
        return {type(module) for module in verifier._model.modules()}

    @pytest.mark.parametrize("model", ["ViT-L-14-quickgelu", "ViT-L-14", "ViT-B-32"])
    def test_openai_weights_get_it(self, monkeypatch: pytest.MonkeyPatch, folder: Path, model: str) -> None:
        kinds = self.modules(monkeypatch, folder, model)
        assert QuickGELU in kinds
        assert nn.GELU not in kinds

    def test_default_model_has_it(self) -> None:
        assert open_clip.get_model_config("ViT-L-14-quickgelu")["quick_gelu"] is True
        assert open_clip.get_pretrained_cfg("ViT-L-14-quickgelu", "openai")["quick_gelu"] is True

    def test_plain_gelu_is_refused(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        def stubborn(name: str, **_: Any) -> nn.Module:
            built = open_clip.CLIP(**{**CONFIG, "quick_gelu": False})
            built.visual.preprocess_cfg = {"size": 32}
            return built

        monkeypatch.setattr(open_clip, "create_model", stubborn)
        monkeypatch.setenv("GENEVAL_REWARD_CLIP", str(folder))
        with pytest.raises(WeightsError, match="expected QuickGELU"):
            ClipVerifier.from_pretrained(device="cpu")


class TestLoading:
    def test_a_weights_file_by_path(self, monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path) -> None:
        open_clip.add_model_config(self.config(tmp_path))
        path = str(folder / "open_clip_model.safetensors")
        verifier = ClipVerifier.from_pretrained("tiny-test-clip", path, device="cpu")
        assert verifier.colors(queries(1)).sum() == pytest.approx(1, abs=1e-5)

    def config(self, folder: Path) -> Path:
        path = folder / "tiny-test-clip.json"
        path.write_text(json.dumps(CONFIG))
        return path

    def test_a_folder_without_weights_is_refused(self, tmp_path: Path) -> None:
        """open_clip itself would go on with random weights."""
        (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": {}}))
        with pytest.raises(WeightsError, match="local-dir"):
            ClipVerifier.from_pretrained(f"local-dir:{tmp_path}", None, device="cpu")

    def test_no_weights_named(self) -> None:
        with pytest.raises(WeightsError, match="got None; name the weights"):
            ClipVerifier.from_pretrained("ViT-B-32", None, device="cpu")

    def test_unknown_tag(self) -> None:
        with pytest.raises(WeightsError, match="list_pretrained"):
            ClipVerifier.from_pretrained("ViT-B-32", "no-such-tag", device="cpu")

    def test_variable_names_nothing(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("GENEVAL_REWARD_CLIP", str(tmp_path))
        with pytest.raises(WeightsError, match=r"GENEVAL_REWARD_CLIP: expected open_clip_model\.safetensors"):
            ClipVerifier.from_pretrained(device="cpu")

    def test_no_network_says_which_file_to_get(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def unreachable(*_: Any, **__: Any) -> Any:
            raise RuntimeError("Failed to download weights for tag 'openai': connection refused")

        monkeypatch.setattr(open_clip, "create_model", unreachable)
        with pytest.raises(WeightsError) as caught:
            ClipVerifier.from_pretrained(device="cpu")
        for part in ("open_clip_model.safetensors", "vit_large_patch14_clip_224.openai", "GENEVAL_REWARD_CLIP"):
            assert part in str(caught.value)
