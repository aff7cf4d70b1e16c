import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geneval_reward.vision.detectors.lite import SIDE, SSDLite, anchors, decode, resize_turned


def random_net() -> SSDLite:
    torch.manual_seed(0)
    return SSDLite().eval().requires_grad_(False)


@pytest.mark.parametrize("shape", [(1, 1), (7, 31), (640, 333)])
def test_resize_is_tensorflows_turned(shape):
    """Against the definition of ResizeBilinear without corner alignment, at every eleventh pixel."""
    height, width = shape
    image = np.random.default_rng(0).integers(0, 256, (3, *shape), dtype=np.uint8)
    ours = resize_turned([torch.from_numpy(image)])[0].flip(1, 2).numpy()
    pixels = image.astype(float)
    for y in range(0, SIDE, 11):
        for x in range(0, SIDE, 11):
            sy, sx = np.float32(y) * np.float32(height / SIDE), np.float32(x) * np.float32(width / SIDE)
            y0, x0 = int(sy), int(sx)
            y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
            dy, dx = float(sy) - y0, float(sx) - x0
            top = pixels[:, y0, x0] * (1 - dx) + pixels[:, y0, x1] * dx
            bottom = pixels[:, y1, x0] * (1 - dx) + pixels[:, y1, x1] * dx
            np.testing.assert_allclose(ours[:, y, x], (top * (1 - dy) + bottom * dy) / 127.5 - 1, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 900), st.integers(1, 900), st.integers(0, 255))
def test_a_plain_image_stays_plain_at_any_size(height, width, value):
    image = torch.full((3, height, width), value, dtype=torch.uint8)
    out = resize_turned([image])
    assert out.shape == (1, 3, SIDE, SIDE)
    torch.testing.assert_close(out, torch.full_like(out, value / 127.5 - 1), atol=1e-6, rtol=0)


def test_images_of_several_sizes_resize_as_each_alone():
    rng = np.random.default_rng(1)
    images = [
        torch.from_numpy(rng.integers(0, 256, (3, h, w), dtype=np.uint8)) for h, w in ((64, 64), (300, 9), (64, 64))
    ]
    together = resize_turned(images)
    for image, row in zip(images, together, strict=True):
        assert torch.equal(resize_turned([image])[0], row)


def test_anchors_are_those_of_the_paper():
    boxes = anchors()
    assert boxes.shape == (1917, 4)
    assert ((boxes[:, :2] > 0) & (boxes[:, :2] < 1)).all()
    # The last map's six stand in the middle: 1, 2, 1/2, 3, 1/3 at .95 and a square between .95 and 1.
    last = boxes[-6:]
    torch.testing.assert_close(last[:, :2], torch.full((6, 2), 0.5))
    torch.testing.assert_close(last[0, 2:], torch.tensor([0.95, 0.95]))
    torch.testing.assert_close(last[5, 2:], torch.full((2,), 0.95**0.5))
    torch.testing.assert_close(last[1, 3] / last[1, 2], torch.tensor(2.0))
    # Turned: the first anchor stands in the last cell of the finest map.
    torch.testing.assert_close(boxes[0, :2], torch.full((2,), 18.5 / 19))


def test_decode_gives_the_anchor_back_for_zero_codes_and_cuts_at_the_edge():
    anchor = torch.tensor([[0.5, 0.4, 0.2, 0.6], [0.0, 0.0, 1.0, 1.0]])
    boxes = decode(torch.zeros(2, 4), anchor)
    torch.testing.assert_close(boxes, torch.tensor([[0.1, 0.4, 0.7, 0.6], [0.0, 0.0, 0.5, 0.5]]))
    moved = decode(torch.tensor([[10.0, 0, 0, 0]]), torch.tensor([[0.5, 0.5, 0.1, 0.1]]))
    torch.testing.assert_close(moved, torch.tensor([[0.45, 0.55, 0.55, 0.65]]))


def test_padding_is_tensorflows_on_the_upright_image():
    """A stride-2 layer on the turned image equals one that pads after the upright image."""
    net = random_net()
    x = torch.rand(1, 3, 10, 10)
    upright = torch.nn.functional.conv2d(
        torch.nn.functional.pad(x, (0, 1, 0, 1)), net.stem.weight.flip(2, 3), net.stem.bias, stride=2
    ).clamp(0, 6)
    torch.testing.assert_close(net.stem(x.flip(2, 3)).flip(2, 3), upright)
