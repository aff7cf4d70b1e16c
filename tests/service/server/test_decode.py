"""Images of hostile senders, decoded where a process can be replaced."""

import io
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from geneval_reward.errors import ImageError
from geneval_reward.service.server import decode as decode_module
from geneval_reward.service.server.decode import decode, decode_all, split_by_pixels


def encoded(kind, image=None, **options):
    buffer = io.BytesIO()
    (image or Image.new("RGB", (6, 4), (9, 8, 7))).save(buffer, kind, **options)
    return buffer.getvalue()


def test_lossless_formats():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    expected = torch.from_numpy(pixels).permute(2, 0, 1)
    profile = b"x" * 9001  # an extended WebP has its image data after this
    for data in (encoded("webp", picture, lossless=True), encoded("webp", picture, lossless=True, icc_profile=profile)):
        assert torch.equal(decode({"format": "webp"}, data, 100), expected)
    assert torch.equal(decode({"format": "png"}, encoded("png", picture), 100), expected)
    raw = {"format": "raw", "shape": [4, 6, 3], "layout": "hwc"}
    assert torch.equal(decode(raw, pixels.tobytes(), 100), expected)


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        ("png", encoded("jpeg"), "expected a PNG, got something else"),
        ("webp", encoded("png"), "expected a WebP, got something else"),
        ("jpeg", encoded("png"), "expected a JPEG, got something else"),
        ("webp", encoded("webp", quality=80), "expected a lossless WebP, got a lossy or animated one"),
        (
            "webp",
            encoded("webp", save_all=True, append_images=[Image.new("RGB", (6, 4))], lossless=True),
            "expected a lossless WebP, got a lossy or animated one",
        ),
        ("png", encoded("png")[:50], "damaged"),
        ("png", encoded("png", Image.new("RGB", (20, 10))), "expected at most 100 pixels, got 20 x 10"),
        ("png", b"%!PS-Adobe-3.0", "expected a PNG"),
    ],
)
def test_what_is_refused(kind, data, message):
    with pytest.raises(ImageError, match=rf"here: .*{message}"):
        decode({"format": kind}, data, 100, "here")


def test_raw_values_of_another_size():
    raw = {"format": "raw", "shape": [3, 4, 6], "layout": "chw"}
    with pytest.raises(ImageError, match="expected 72 bytes for the shape"):
        decode(raw, bytes(71), 100)
    with pytest.raises(ImageError, match="expected at most 10 pixels, got 6 x 4"):
        decode(raw, bytes(72), 10)


def test_a_jpeg_of_thousands_of_scans_is_not_decoded():
    data = encoded("jpeg", Image.new("RGB", (64, 64)), progressive=True)
    assert decode({"format": "jpeg"}, data, 10**4).shape == (3, 64, 64)
    at = data.rindex(b"\xff\xda")
    scan = data[at:-2]
    bomb = data[:-2] + scan * 500 + b"\xff\xd9"
    begun = time.process_time()
    with pytest.raises(ImageError, match="expected a JPEG of at most 100 scans"):
        decode({"format": "jpeg"}, bomb, 10**4)
    assert time.process_time() - begun < 0.1


def test_a_decoder_that_does_not_end_costs_its_own_image(monkeypatch):
    release = threading.Event()
    original = decode_module.decode

    def stuck(image, data, max_pixels, where="image"):
        if where == "images[1]":
            release.wait(30)
        return original(image, data, max_pixels, where)

    monkeypatch.setattr(decode_module, "decode", stuck)
    heads = [{"format": "png", "where": f"images[{index}]"} for index in range(3)]
    found, left_behind = decode_all(heads, [encoded("png")] * 3, 100, 0.3)
    release.set()
    assert left_behind
    assert found[1] == "images[1]: expected an image that is decoded within 0.3 s, got one that is not; leave it out"
    assert torch.is_tensor(found[0])
    assert torch.is_tensor(found[2])
    assert decode_all(heads, [encoded("png")] * 3, 100, 5.0)[1] is False


def test_a_batch_of_large_images_is_decoded_in_parts():
    heads = [{"format": "png"}] * 4 + [{"format": "raw"}] * 2 + [{"format": "png"}]
    blobs = [encoded("png", Image.new("RGB", (20, side))) for side in (5, 5, 6, 40)] + [bytes(300), bytes(330), b"odd"]
    parts = split_by_pixels(heads, blobs, 200)
    assert [range(7)[part] for part in parts] == [range(2), range(2, 3), range(3, 4), range(4, 5), range(5, 7)]
    assert split_by_pixels([], [], 200) == []
