import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from geneval_reward.errors import ImageError
from geneval_reward.service.server.headers import image_size

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (13, 17, 4), dtype=np.uint8), "RGBA")


def encoded(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_png(mode):
    assert image_size(encoded(NOISE.convert(mode), "PNG"), "png", "x") == (17, 13)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_lossless_webp(mode):
    assert image_size(encoded(NOISE.convert(mode), "WEBP", lossless=True, exact=True), "webp", "x") == (17, 13)
    # With metadata the file is an extended one.
    assert image_size(encoded(NOISE.convert(mode), "WEBP", lossless=True, exif=b"Exif\0\0"), "webp", "x") == (17, 13)


@pytest.mark.parametrize(
    ("data", "format", "got"),
    [
        (encoded(NOISE.convert("RGB"), "JPEG"), "png", "a JPEG"),
        (encoded(NOISE.convert("RGB"), "JPEG"), "webp", "a JPEG"),
        (encoded(NOISE, "PNG"), "webp", "a PNG"),
        (encoded(NOISE, "WEBP", lossless=True), "png", "a WebP"),
        (encoded(NOISE.convert("RGB"), "WEBP", quality=100), "webp", "a lossy one"),
        (encoded(NOISE, "WEBP", quality=50), "webp", "a lossy one"),
        (
            encoded(NOISE, "WEBP", lossless=True, save_all=True, append_images=[NOISE.rotate(90)]),
            "webp",
            "an animated one",
        ),
        (b"", "png", "nothing"),
        (b"GIF89a", "png", "a GIF"),
        (encoded(NOISE, "PNG")[:20], "png", "a PNG"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 0, 5) + b"\x08\x02\0\0\0", "png", "0 x 5"),
    ],
)
def test_others_are_refused(data, format, got):
    with pytest.raises(ImageError, match=f"images.3.: .*{got}"):
        image_size(data, format, "images[3]")


def test_a_bomb_is_known_by_its_header():
    bomb = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 65500, 65500) + b"\x08\x02\0\0\0"
    assert image_size(bomb, "png", "x") == (65500, 65500)


@settings(deadline=None)
@given(
    st.binary(max_size=200),
    st.sampled_from(["png", "webp"]),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"RIFF\xff\xff\xff\xffWEBP", b"RIFF\0\0\0\0WEBPVP8X"]),
)
def test_any_bytes_give_a_size_or_an_error_of_ours(data, format, head):
    try:
        width, height = image_size(head + data, format, "x")
    except ImageError:
        return
    assert width > 0
    assert height > 0
