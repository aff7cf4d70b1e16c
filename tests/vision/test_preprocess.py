from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from geneval_reward.errors import ImageError
from geneval_reward.vision.images import load_image
from geneval_reward.vision.preprocess import geometry, normalise, read_image, resize_and_pad

NAMES = ["0_512x512", "1_333x500", "2_640x384", "3_96x96", "4_1500x400"]


@pytest.mark.parametrize("name", NAMES)
def test_network_input_is_mmdets_to_the_bit(golden_dir: Path, name: str) -> None:
    golden = np.load(golden_dir / f"{name}.npz")
    pixels, sizes = resize_and_pad(read_image(golden_dir / f"{name}.png"))
    values = normalise(pixels[None])[0].numpy()
    assert sizes.padded == tuple(golden["input_shape"]) == values.shape[1:]
    np.testing.assert_array_equal(values[:, :8, :8], golden["input_corner"])
    assert values.sum(dtype=np.float64) == golden["input_checksum"]


def test_normalise_is_mmcvs_arithmetic() -> None:
    """mmcv.imnormalize: cv2.subtract the mean, cv2.multiply by 1 / std, on float32 pixels."""
    ramp = np.repeat(np.arange(256, dtype=np.float32)[:, None, None], 3, axis=2)
    mean = np.float64(np.array([123.675, 116.28, 103.53], np.float32)).reshape(1, -1)
    inverse = 1 / np.float64(np.array([58.395, 57.12, 57.375], np.float32)).reshape(1, -1)
    expected = cv2.multiply(cv2.subtract(ramp, mean), inverse)
    got = normalise(torch.arange(256, dtype=torch.uint8)[None, None, None].expand(1, 3, 1, 256))
    np.testing.assert_array_equal(got[0, :, 0].T.numpy(), expected[:, 0])


def test_padding_is_grey_128_before_normalisation() -> None:
    pixels, sizes = resize_and_pad(torch.zeros(3, 333, 500, dtype=torch.uint8))
    assert sizes.resized == (800, 1201)
    assert sizes.padded == (800, 1216)
    assert (pixels[:, :, 1201:] == 128).all()
    assert (pixels[:, :, :1201] == 0).all()


@given(height=st.integers(1, 5000), width=st.integers(1, 5000))
def test_geometry_laws(height: int, width: int) -> None:
    sizes = geometry(height, width)
    (h, w), (hp, wp) = sizes.resized, sizes.padded
    assert max(h, w) <= 1333
    assert min(h, w) <= 800
    assert max(h, w) == 1333 or min(h, w) == 800
    assert min(h, w) >= 1
    assert hp % 32 == wp % 32 == 0
    assert 0 <= hp - h < 32
    assert 0 <= wp - w < 32
    assert geometry(width, height).resized == (w, h)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9000), (4000, 2), (3, 3)])
def test_extreme_sizes(height: int, width: int) -> None:
    pixels, sizes = resize_and_pad(torch.zeros(3, height, width, dtype=torch.uint8))
    assert pixels.shape == (3, *sizes.padded)


def test_read_image_modes(tmp_path: Path) -> None:
    """Grey is repeated, alpha dropped (not composited), palettes looked up, 16 bits cut to 8."""
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (9, 7), np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png").numpy(), np.stack([grey] * 3))
    rgba = rng.integers(0, 256, (9, 7, 4), np.uint8)
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    np.testing.assert_array_equal(read_image(tmp_path / "rgba.png").numpy(), rgba[..., :3].transpose(2, 0, 1))
    palette = Image.fromarray(rgba[..., :3]).quantize(8)
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(
        read_image(tmp_path / "palette.png").numpy(), np.asarray(palette.convert("RGB")).transpose(2, 0, 1)
    )
    deep = rng.integers(0, 65536, (9, 7), np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png").numpy()[0], (deep >> 8).astype(np.uint8))


# EXIF in PNG is read by newer OpenCV versions only.
@pytest.mark.parametrize(("suffix", "orientation"), [("png", 1), *(("jpg", turn) for turn in range(1, 9))])
def test_files_read_by_opencv_and_pillow_are_the_same(tmp_path: Path, suffix: str, orientation: int) -> None:
    """The benchmark's detector reads by OpenCV, its colour check by Pillow; both turn as EXIF says."""
    pixels = np.random.default_rng(1).integers(0, 256, (10, 14, 3), np.uint8)
    smooth = Image.fromarray(pixels).resize((140, 100), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"image.{suffix}"
    smooth.save(path, exif=exif)
    by_opencv, by_pillow = read_image(path), load_image(path)
    assert by_opencv.shape == by_pillow.shape
    difference = (by_opencv.int() - by_pillow.int()).abs()
    # Two builds of libjpeg may round a colour conversion differently.
    assert difference.max() <= (0 if suffix == "png" else 2)
    assert torch.equal(by_opencv, by_opencv.contiguous())


def test_bad_images() -> None:
    for bad in (torch.zeros(3, 4, 4), torch.zeros(4, 4, 3, dtype=torch.uint8), torch.zeros(4, 4, dtype=torch.uint8)):
        with pytest.raises(ImageError, match="expected uint8"):
            resize_and_pad(bad)
    with pytest.raises(ImageError, match="at least one pixel"):
        resize_and_pad(torch.zeros(3, 0, 4, dtype=torch.uint8))
