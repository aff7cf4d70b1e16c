"""Pictures fit their bytes, keep their shape, and say why they are missing."""

import io

import numpy as np
import pytest
from PIL import Image

from geneval_reward.study.report import thumbnails as module
from geneval_reward.study.report.thumbnails import LADDER, MISSING, thumbnails
from geneval_reward.vision.images import load_rgb


def noise(path, size=(256, 128), seed=0, **options):
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def opened(one):
    return Image.open(io.BytesIO(one.data))


@pytest.mark.parametrize("budget", [30_000, 200_000])
def test_all_of_them_fit(tmp_path, budget):
    paths = [noise(tmp_path / f"{i}.png", seed=i) for i in range(12)]
    found = thumbnails(paths, budget, workers=2)
    assert sum(len(one.data) for one in found) <= budget
    assert all(one.size == (256, 128) for one in found)
    width, height = opened(found[0]).size
    assert width == 2 * height
    assert {opened(one).size for one in found} == {(width, height)}


def test_more_room_makes_larger_pictures(tmp_path):
    paths = [noise(tmp_path / f"{i}.png", seed=i) for i in range(4)]
    small, large = (opened(thumbnails(paths, budget)[0]).width for budget in (6_000, 100_000))
    assert small < large <= 256


def test_a_sample_that_misleads_is_made_up_for(tmp_path):
    """Most are empty, and what the sample sees is; the rest is noise."""
    paths = []
    for i in range(60):
        path = tmp_path / f"{i}.png"
        if i % 2:
            noise(path, seed=i)
        else:
            Image.new("RGB", (256, 128)).save(path)
        paths.append(path)
    found = thumbnails(paths, 60_000)
    assert sum(len(one.data) for one in found) <= 60_000


def test_no_image_is_decoded_twice(tmp_path, monkeypatch):
    """Decoding is most of the work, so the step must fit at the first try, and what was sampled is kept."""
    decoded = []
    monkeypatch.setattr(module, "load_rgb", lambda path: decoded.append(path) or load_rgb(path))
    paths = [noise(tmp_path / f"{i}.png", size=(64 + i % 7 * 16, 64), seed=i) for i in range(150)]
    for budget in (100_000, 200_000, 400_000):
        decoded.clear()
        found = thumbnails(paths, budget, workers=2)
        assert sorted(decoded) == sorted(paths)
        assert 0.5 * budget < sum(len(one.data) for one in found) <= budget


def test_a_picture_is_the_mean_of_what_it_shows(tmp_path):
    """Stripes become grey and edges stay where they are, at a size that does not divide the image's."""
    stripes = np.zeros((500, 1000, 3), np.uint8)
    stripes[:, ::2] = 255
    stripes[:, 750:] = (255, 0, 0)
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    (one,) = thumbnails([tmp_path / "stripes.png"], 3_000)
    picture = np.asarray(opened(one).convert("RGB"), np.float64)
    height, width = picture.shape[:2]
    assert width == 2 * height <= LADDER[0][0]
    edge = 0.75 * width
    assert abs(picture[:, : round(edge) - 3] - 127.5).max() < 25
    assert abs(picture[:, round(edge) + 3 :] - (255, 0, 0)).max() < 40


def test_nothing_fits(tmp_path):
    found = thumbnails([noise(tmp_path / "a.png")], 1)
    assert max(opened(found[0]).size) == LADDER[-1][0]


def test_what_is_wrong_is_said(tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(noise(tmp_path / "a.png").read_bytes()[:300])
    text = tmp_path / "text.png"
    text.write_text("no image")
    found = thumbnails([None, broken, text, tmp_path / "a.png"], 50_000)
    assert found[0] == MISSING
    assert found[1].problem == "image cannot be read: damaged"
    assert found[2].problem == "image cannot be read: not an image"
    assert found[3].data is not None
    assert thumbnails([], 10) == []
    assert thumbnails([None], 10) == [MISSING]


def test_as_the_scorer_sees_it(tmp_path):
    """Turned by EXIF, alpha dropped, sixteen bits scaled."""
    turned = Image.new("RGB", (100, 50), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    clear = Image.new("RGBA", (64, 64), (0, 0, 255, 0))
    clear.save(tmp_path / "clear.png")
    Image.fromarray(np.full((64, 64), 40_000, np.uint16)).save(tmp_path / "deep.png")
    first, second, third = thumbnails([tmp_path / name for name in ("turned.jpg", "clear.png", "deep.png")], 100_000)
    assert first.size == (50, 100)
    assert opened(first).size == (50, 100)
    assert opened(second).convert("RGB").getpixel((30, 30))[2] > 200
    assert 120 < opened(third).convert("RGB").getpixel((30, 30))[0] < 190


@pytest.mark.parametrize(("options", "words"), [({"budget": 0}, "bytes > 0"), ({"budget": 9, "workers": 0}, ">= 1")])
def test_arguments(options, words):
    with pytest.raises(ValueError, match=words):
        thumbnails([None], **options)
