import io
import os
import random
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from geneval_reward.errors import ImageError
from geneval_reward.vision import images as module
from geneval_reward.vision.images import as_image, as_images, load_image, load_rgb

RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
CHW = torch.from_numpy(RGB.transpose(2, 0, 1).copy())


def saved(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


def same(found: torch.Tensor, expected: Any = CHW) -> bool:
    assert found.dtype == torch.uint8
    assert found.is_contiguous()
    return torch.equal(found, torch.as_tensor(expected))


# --- what is accepted ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(RGB),
        RGB,
        RGB.transpose(2, 0, 1),
        np.asfortranarray(RGB),
        CHW,
        CHW.permute(1, 2, 0),
        CHW.double() / 255,
        CHW.float() / 255,
        (CHW.float() / 255).half(),
        CHW.permute(1, 2, 0).contiguous().float() / 255,
        RGB.astype(np.float64) / 255,
        RGB.astype(np.float32).transpose(2, 0, 1) / 255,
        (CHW.float() / 255).requires_grad_(),
        np.dstack((RGB, np.zeros((6, 9), np.uint8))),
    ],
)
def test_every_form_of_an_image_gives_the_same_pixels(image: Any) -> None:
    assert same(as_image(image))


def test_half_precision_is_off_by_one_level_at_most() -> None:
    found = as_image((CHW.float() / 255).to(torch.bfloat16))
    assert (found.int() - CHW.int()).abs().max() <= 1
    assert as_image(torch.ones(3, 4, 4, dtype=torch.bfloat16)).min() == 255


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(3))))
def test_eight_bits_survive_the_way_through_floats(pixels: np.ndarray) -> None:
    expected = torch.from_numpy(pixels).permute(2, 0, 1)
    assert torch.equal(as_image(pixels), expected)
    assert torch.equal(as_image(pixels.astype(np.float32) / 255), expected)
    assert torch.equal(as_image(expected.half() / 255), expected)
    assert torch.equal(as_image(Image.fromarray(pixels)), expected)


@pytest.mark.parametrize("steps", [(-1, 1, 1), (1, -1, 1), (1, 1, -1), (2, 3, 1)])
def test_strided_views_of_arrays(steps: tuple[int, int, int]) -> None:
    view = RGB[:: steps[0], :: steps[1], :: steps[2]]
    assert same(as_image(view), view.transpose(2, 0, 1).copy())
    floats = view.astype(np.float32)[::-1] / 255
    assert same(as_image(floats), view[::-1].transpose(2, 0, 1).copy())


def test_read_only_arrays_are_neither_refused_nor_warned_about() -> None:
    frozen = RGB.copy()
    frozen.setflags(write=False)
    assert same(as_image(frozen))


def test_the_input_is_left_alone() -> None:
    floats = torch.full((3, 4, 4), 0.5)
    mine = CHW.clone()
    as_image(floats)
    out = as_image(mine)
    assert floats.unique().tolist() == [0.5]
    assert torch.equal(mine, CHW)
    assert torch.equal(out, CHW)


def test_grey_becomes_three_channels() -> None:
    grey = RGB[..., :1]
    expected = np.repeat(grey.transpose(2, 0, 1), 3, axis=0)
    for image in (grey, torch.from_numpy(grey.transpose(2, 0, 1).copy()), Image.fromarray(grey[..., 0])):
        assert same(as_image(image), expected)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_batches(n: int) -> None:
    nhwc = np.stack([np.roll(RGB, i, axis=1) for i in range(n)])
    nchw = np.ascontiguousarray(nhwc.transpose(0, 3, 1, 2))
    expected = torch.from_numpy(nchw)
    forms = [nhwc, nchw, list(nhwc), tuple(nchw), torch.from_numpy(nhwc), torch.from_numpy(nchw).float() / 255]
    forms += [[Image.fromarray(array) for array in nhwc], nhwc.astype(np.float16) / np.float16(255)]
    for form in forms:
        found = as_images(form)
        assert len(found) == n
        assert torch.equal(torch.stack(found), expected)


def test_sizes_and_forms_may_differ_within_a_call() -> None:
    found = as_images([Image.fromarray(RGB[:3]), RGB, torch.zeros(3, 1, 1), np.zeros((5, 7, 4), np.float32)])
    assert [tuple(image.shape) for image in found] == [(3, 3, 9), (3, 6, 9), (3, 1, 1), (3, 5, 7)]
    assert as_images([]) == as_images(torch.zeros(0, 3, 8, 8)) == []


def test_one_pixel(tmp_path: Path) -> None:
    tensor = torch.tensor([10, 20, 30], dtype=torch.uint8).reshape(3, 1, 1)
    assert same(as_image(tensor), tensor)
    assert same(as_image(np.uint8([[[10, 20, 30]]])), tensor)
    assert same(load_image(saved(Image.new("RGB", (1, 1), (10, 20, 30)), tmp_path / "p.png")), tensor)


def test_ambiguous_shapes_are_channels_first_for_tensors_and_last_for_arrays() -> None:
    square = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    assert same(as_image(square), square.transpose(2, 0, 1).copy())
    assert same(as_image(torch.from_numpy(square)), square)
    # Three rows of an image, and three columns.
    assert as_image(torch.zeros(3, 8, 3)).shape == (3, 8, 3)
    assert as_image(np.zeros((3, 8, 3), np.uint8)).shape == (3, 3, 8)
    assert as_image(torch.zeros(8, 4, 3)).shape == (3, 8, 4)


def test_floats_may_leave_the_range_by_a_hair() -> None:
    assert as_image(torch.tensor([-0.001, 0.5, 1.001]).reshape(3, 1, 1)).flatten().tolist() == [0, 128, 255]


# --- Pillow modes -------------------------------------------------------------------------------------------------------


def test_alpha_is_dropped_and_not_composited(tmp_path: Path) -> None:
    clear = Image.fromarray(RGB)
    clear.putalpha(0)
    assert clear.mode == "RGBA"
    assert same(as_image(clear))
    assert same(load_image(saved(clear, tmp_path / "clear.png")))
    grey = Image.fromarray(RGB[..., 0]).convert("LA")
    grey.putalpha(7)
    assert same(as_image(grey), np.repeat(RGB[None, ..., 0], 3, axis=0))


def test_palette_with_transparency(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([1, 2, 3, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    expected = [[[1, 200]], [[2, 100]], [[3, 50]]]
    assert same(as_image(palette), torch.tensor(expected, dtype=torch.uint8))
    path = saved(palette, tmp_path / "palette.png", transparency=1)
    assert same(load_image(path), torch.tensor(expected, dtype=torch.uint8))


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    ink = Image.new("CMYK", (4, 3), (0, 255, 255, 0))
    assert same(as_image(ink), torch.tensor([255, 0, 0], dtype=torch.uint8).reshape(3, 1, 1).expand(3, 3, 4))
    red = load_image(saved(ink, tmp_path / "ink.jpg", quality=100))
    assert red.shape == (3, 3, 4)
    assert red[0].min() > 240
    assert red[1:].max() < 15


def test_black_and_white(tmp_path: Path) -> None:
    bits = Image.fromarray(RGB[..., 0] > 127)
    assert bits.mode == "1"
    assert same(
        load_image(saved(bits, tmp_path / "b.png")), np.repeat((RGB[None, ..., 0] > 127) * np.uint8(255), 3, axis=0)
    )


def test_sixteen_bit_grey_is_read_by_its_high_byte(tmp_path: Path) -> None:
    deep = np.array([[0, 255, 256, 0x7FFF], [0x8000, 0xFF00, 0xFFFF, 4660]], np.uint16)
    expected = np.repeat((deep >> 8).astype(np.uint8)[None], 3, axis=0)
    image = Image.fromarray(deep)
    assert image.mode == "I;16"
    assert same(as_image(image), expected)
    assert same(load_image(saved(image, tmp_path / "deep.png")), expected)
    assert same(as_image(Image.fromarray(deep.astype(np.int32))), expected)


@pytest.mark.parametrize(
    "values", [np.array([[-1, 5]], np.int32), np.array([[0, 70000]], np.int32), np.array([[0.0, 1.0]], np.float32)]
)
def test_deeper_images_are_refused(values: np.ndarray) -> None:
    with pytest.raises(
        ImageError, match=r"images\[0\]: expected 8 or 16 bits per channel, got values from .* convert it"
    ):
        as_images([Image.fromarray(values)])


def test_dark_sixteen_bit_images_are_refused_rather_than_black() -> None:
    """Values of 0..255 under a 16-bit mode are 8-bit values as a rule, whose high bytes are all 0."""
    for dtype in (np.int32, np.uint16):
        with pytest.raises(
            ImageError, match=r"expected 16-bit values up to 65535, got at most 255, which would be black"
        ):
            as_image(Image.fromarray(np.array([[0, 255]], dtype)))
        assert not as_image(Image.fromarray(np.zeros((2, 2), dtype))).any()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(Image.fromarray(RGB), tmp_path / "turned.png", exif=exif)
    turns = {1: 0, 2: 0, 3: 2, 4: 2, 5: 3, 6: 3, 7: 1, 8: 1}
    expected = np.rot90(RGB, turns[orientation])
    if orientation in (2, 4, 5, 7):
        expected = expected[:, ::-1]
    assert same(load_image(path), expected.transpose(2, 0, 1).copy())
    with Image.open(path) as lazy:
        assert same(as_image(lazy), expected.transpose(2, 0, 1).copy())


def test_load_rgb_shows_what_load_image_returns(tmp_path: Path) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 4), np.uint8))
    files = [
        saved(clear, tmp_path / "clear.png"),
        saved(clear, tmp_path / "clear.webp"),
        saved(clear.convert("RGB"), tmp_path / "plain.png"),
        saved(clear.convert("RGB"), tmp_path / "turned.png", exif=exif),
        saved(clear.convert("RGB"), tmp_path / "turned.jpg", exif=exif),
        saved(clear.convert("CMYK"), tmp_path / "ink.jpg"),
        saved(clear.convert("P"), tmp_path / "palette.png", transparency=3),
        saved(clear.convert("LA"), tmp_path / "grey.png"),
        saved(Image.fromarray(grey > 99), tmp_path / "bits.png"),
        saved(Image.fromarray(grey.astype(np.uint16) * 257), tmp_path / "deep.png"),
    ]
    for file in files:
        image = load_rgb(file)
        assert image.mode == "RGB"
        assert same(load_image(file), np.asarray(image).transpose(2, 0, 1).copy()), file.name
    with pytest.raises(ImageError, match=r"nothing\.png: expected an image file, got nothing"):
        load_rgb(tmp_path / "nothing.png")


def test_a_mode_that_pillow_cannot_convert_is_refused() -> None:
    with pytest.raises(ImageError, match=r"image: expected a mode that converts to RGB, got La; convert it"):
        as_image(Image.new("La", (3, 2)))


# --- files --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "mpo"])
def test_truncated_and_damaged_files_raise_image_errors_only(kind: str, tmp_path: Path) -> None:
    whole = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x829A] = 6, "a camera", 0.01
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(
        whole, {"jpg": "JPEG"}.get(kind, kind), exif=exif
    )
    data, chance = whole.getvalue(), random.Random(0)
    path = tmp_path / f"bad.{kind}"
    said: list[str] = []
    for trial in range(120):
        broken = bytearray(data)
        if trial < 40:
            broken = broken[: len(broken) * trial // 40]
        else:
            for _ in range(4):
                broken[chance.randrange(min(len(broken), chance.choice((60, 10**6))))] = chance.randrange(256)
        path.write_bytes(broken)
        try:
            assert load_image(path).shape[0] == 3
        except ImageError as error:
            said.append(str(error))
    assert len(said) >= 35
    assert all(message.startswith(f"{path}: expected ") for message in said)


def test_a_truncated_png_names_the_file_and_what_to_do(tmp_path: Path) -> None:
    whole = saved(
        Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)), tmp_path / "a.png"
    )
    path = tmp_path / "00003.png"
    path.write_bytes(whole.read_bytes()[:6000])
    with pytest.raises(
        ImageError, match=r"00003\.png: expected a whole image, got a damaged one \(.*\); generate it again"
    ):
        load_image(path)
    # Pillow opens lazily: the damage shows only when the pixels are asked for.
    with (
        Image.open(path) as lazy,
        pytest.raises(ImageError, match=r"images\[1\]: expected a whole image, got a damaged one"),
    ):
        as_images([RGB, lazy])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"x\.png: expected an image file, got nothing; check the path"),
        (b"", r"x\.png: expected an image \(PNG, JPEG or WebP\), got something else"),
        (b"not an image at all", r"x\.png: expected an image \(PNG, JPEG or WebP\), got something else"),
    ],
)
def test_files_that_are_no_images(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    if content is not None:
        path.write_bytes(content)
    for form in (path, str(path)):
        with pytest.raises(ImageError, match=message):
            load_image(form)


def test_a_png_that_is_postscript_starts_no_ghostscript(tmp_path: Path, monkeypatch) -> None:
    spy = tmp_path / "bin" / "gs"
    spy.parent.mkdir()
    spy.write_text(f"#!/bin/sh\necho called >> {tmp_path}/called\nexit 1\n")
    spy.chmod(0o755)
    monkeypatch.setenv("PATH", str(spy.parent), prepend=os.pathsep)
    path = tmp_path / "x.png"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(ImageError, match="expected an image"):
        load_image(path)
    assert not (tmp_path / "called").exists()


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "0000.png")
    with pytest.raises(ImageError, match="no regular file"):
        load_image(tmp_path / "0000.png")


def test_a_jpeg_with_hundreds_of_scans_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    whole = io.BytesIO()
    Image.fromarray(RGB).save(whole, "JPEG", progressive=True)
    data = whole.getvalue()
    last = data.rindex(b"\xff\xda")
    path = tmp_path / "scans.jpg"
    path.write_bytes(data)
    assert load_image(path).shape[0] == 3
    path.write_bytes(data[:last] + 200 * data[last:-2] + data[-2:])
    with pytest.raises(ImageError, match=r"at most 100 scans, got 2\d\d"):
        load_image(path)


@pytest.mark.parametrize("error", [struct.error("x"), RuntimeError("x"), NotImplementedError("x"), MemoryError()])
def test_whatever_a_decoder_raises_is_the_error_of_its_file(error: Exception, tmp_path: Path, monkeypatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(Image.fromarray(RGB), tmp_path / "a.png", exif=exif)
    for where in ("PIL.Image.open", "PIL.PngImagePlugin.PngImageFile.load", "PIL.ImageOps.exif_transpose"):
        with monkeypatch.context() as patch:
            patch.setattr(where, lambda *args, **more: (_ for _ in ()).throw(error))
            with pytest.raises(ImageError, match=r"a\.png: expected a whole image, got a damaged one"):
                load_image(path)


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"expected a file that can be read, got Is a directory; check the path"):
        load_image(tmp_path)


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises so many pixels and holds none."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (12_000, 12_000), (1, 100_000_001)])
def test_huge_images_are_refused_before_they_fill_the_memory(width: int, height: int, tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    path.write_bytes(png_header(width, height))
    with (
        warnings.catch_warnings(record=True) as said,
        pytest.raises(ImageError, match=r"huge\.png: expected at most 100,000,000 pixels, got .*; scale it down"),
    ):
        load_image(path)
    assert not said


def test_the_limit_holds_for_arrays_and_opened_images_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PIXELS", 53)
    for image in (RGB, CHW, Image.fromarray(RGB)):
        with pytest.raises(ImageError, match=r"images\[0\]: expected at most 53 pixels, got"):
            as_images([image])
    monkeypatch.setattr(module, "MAX_PIXELS", 54)
    assert as_images([RGB])


# --- what is refused ----------------------------------------------------------------------------------------------------

HALF = torch.full((3, 4, 4), 0.5)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (HALF - 1, r"expected floats in \[0, 1\], got the range \[-0.5, -0.5\]; map \[-1, 1\] by \(x \+ 1\) / 2"),
        (torch.linspace(-1, 1, 48).reshape(3, 4, 4), r"got the range \[-1, 1\]; map \[-1, 1\]"),
        (HALF * 3, r"got the range \[1.5, 1.5\]; clamp it to \[0, 1\]"),
        (CHW.float(), r"got the range \[\d+, 24\d\]; divide by 255 or pass uint8"),
        (RGB.astype(np.float64), r"divide by 255 or pass uint8"),
        (HALF * torch.nan, r"expected finite values in \[0, 1\], got NaN or infinity; the generator has diverged"),
        (torch.where(torch.arange(48).reshape(3, 4, 4) == 7, torch.nan, HALF), r"got NaN or infinity"),
        (HALF / 0, r"got NaN or infinity"),
        ((HALF / 0).half(), r"got NaN or infinity"),
        (CHW.long(), r"expected uint8 or floating values, got torch.int64; cast 0..255 to uint8"),
        (RGB.astype(np.uint16), r"expected uint8 or floating values, got torch.uint16"),
        (RGB > 3, r"expected uint8 or floating values, got torch.bool"),
        (RGB.astype(np.complex64), r"expected uint8 or floating values, got torch.complex64"),
        (RGB.astype(object), r"expected a uint8 or floating array, got object; cast it"),
        ((RGB / 255).astype(">f4"), r"expected a uint8 or floating array, got >f4"),
        (torch.zeros(4, 4), r"expected 3 dimensions \(h, w, c\) or \(c, h, w\), got shape \(4, 4\)"),
        (torch.zeros(1, 3, 4, 4), r"expected 3 dimensions .*, got shape \(1, 3, 4, 4\)"),
        (np.zeros((2, 8, 8), np.uint8), r"expected 1, 3 or 4 channels first or last, got shape \(2, 8, 8\)"),
        (np.zeros((8, 3, 8), np.uint8), r"expected 1, 3 or 4 channels first or last, got shape \(8, 3, 8\)"),
        (np.zeros((0, 8, 3), np.uint8), r"expected at least one pixel, got shape \(3, 0, 8\)"),
        (None, r"expected a path, PIL image, numpy array or torch tensor, got NoneType"),
        (b"cat.png", r"expected a path, PIL image, numpy array or torch tensor, got bytes"),
        ([[0, 1], [2, 3]], r"expected a path, PIL image, numpy array or torch tensor, got list"),
    ],
)
def test_bad_images_are_refused_by_index(bad: Any, message: str) -> None:
    with pytest.raises(ImageError, match=rf"^images\[2\]: expected .*{message.removeprefix('expected ')}"):
        as_images([RGB, HALF, bad])
    with pytest.raises(ImageError, match=r"^here: expected "):
        as_image(bad, "here")


def test_paths_are_images(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    assert all(torch.equal(image, as_image(RGB)) for image in as_images([path, str(path), RGB]))
    with pytest.raises(ImageError, match=r"^images\[1\]: .*missing\.png: expected .*image"):
        as_images([RGB, tmp_path / "missing.png"])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (HALF, r"images: expected a batch of 4 dimensions, got shape \(3, 4, 4\); wrap a single image in a list"),
        (RGB, r"images: expected a batch of 4 dimensions, got shape \(6, 9, 3\)"),
        (torch.zeros(2, 1, 3, 4, 4), r"images: expected a batch of 4 dimensions, got shape"),
        (Image.new("RGB", (2, 2)), r"images: expected a sequence of images or a 4-d array, got Image"),
        ("folder", r"images: expected a sequence of images or a 4-d array, got str"),
        (Path("folder"), r"images: expected a sequence of images .*Path"),
        (None, r"images: expected a sequence of images .*NoneType"),
        (iter([RGB]), r"images: expected a sequence of images .*iterator"),
    ],
)
def test_what_is_no_batch_is_refused(bad: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        as_images(bad)


def test_a_bad_image_within_a_batch_array_is_named() -> None:
    batch = torch.full((5, 3, 4, 4), 0.5)
    batch[3, 0, 0, 0] = torch.nan
    with pytest.raises(ImageError, match=r"^images\[3\]: expected finite values"):
        as_images(batch)
