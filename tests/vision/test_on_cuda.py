"""What a GPU would be given, checked without one: fake CUDA tensors refuse mixed devices and cannot be read.

A value that is read from a GPU makes the host wait for it. On fake tensors that is an error.
"""

import gc
import threading
import warnings

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from geneval_reward.reward.worker import Worker
from geneval_reward.vision import preprocess
from geneval_reward.vision.detectors import lite, nanodet, packaged
from geneval_reward.vision.detectors.mask2former import Mask2FormerDetector
from geneval_reward.vision.detectors.mask2former_architecture import Architecture, random_model
from geneval_reward.vision.detectors.mask2former_convert import build_model, load_converted
from geneval_reward.vision.detectors.mask2former_postprocess import postprocess
from geneval_reward.vision.preprocess import geometry
from geneval_reward.vision.protocols import Wanted

ALL = Wanted(None, frozenset(range(80)))
WAITS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::_unique2", "aten::masked_select", "aten::is_nonzero")


@pytest.fixture
def fake_cuda(monkeypatch):
    # Autocast and pinned memory ask for a driver.
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    caches = (preprocess._table, lite.sample_grid, nanodet._taps)
    for cache in caches:
        cache.cache_clear()
    # Modules of fake tensors cannot be moved; they are made where they belong.
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, *_, **__: module)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield
    for cache in caches:
        cache.cache_clear()


@pytest.fixture(scope="module")
def sizes(checkpoint_2x) -> Architecture:
    return load_converted(checkpoint_2x).architecture


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
def test_the_forward_of_paper_stays_on_the_gpu_and_reads_nothing(fake_cuda, sizes, precision, monkeypatch):
    monkeypatch.setattr(
        "geneval_reward.vision.detectors.mask2former.stack_to_device",
        lambda pixels, device: torch.stack(pixels).to(device),
    )
    with torch.device("cuda"):
        model = random_model(sizes).eval()
        # The one parameter that transformers makes on the CPU whatever the device.
        decoder = model.model.pixel_level_module.decoder
        decoder.level_embed = torch.nn.Parameter(torch.zeros(decoder.level_embed.shape))
    detector = Mask2FormerDetector(model, weights_sha256="0", weights_status="fake", device="cuda", precision=precision)
    pixels, shape = torch.zeros(3, 128, 96, dtype=torch.uint8), geometry(128, 96)
    classes, masks = detector.forward(type("Batch", (), {"pixels": [pixels] * 2, "geometries": [shape] * 2}))
    half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32)
    assert (classes.device.type, classes.dtype, classes.shape[0]) == ("cuda", half, 2)
    assert (masks.device.type, masks.dtype) == ("cuda", half)


@pytest.mark.parametrize("kind", [lite.LiteDetector, nanodet.NanoDetDetector])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_small_detectors_stay_on_the_gpu_and_read_nothing(fake_cuda, kind, dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("cuda"):
            net = kind.build().eval()
    finally:
        torch.set_default_dtype(before)
    images = [torch.zeros(3, 20, 30, dtype=torch.uint8, device="cuda")] * 2
    with torch.inference_mode():
        codes, logits = net(kind.pixels(images, torch.device("cuda")).to(dtype))
    assert (codes.device.type, logits.device.type, logits.dtype, len(logits)) == ("cuda", "cuda", dtype, 2)


class Waits(TorchDispatchMode):
    """Counts the operations that wait for a GPU if their tensors are there."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        indices = args[1] if name in ("aten::index", "aten::index_put_", "aten::_index_put_impl_") else ()
        masked = any(index is not None and index.dtype == torch.bool for index in indices)
        self.count += masked or name in WAITS
        return func(*args, **(kwargs or {}))


def test_postprocessing_waits_no_more_often_for_more_images(monkeypatch):
    copies = []
    cpu, tolist = torch.Tensor.cpu, torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: copies.append(1) or cpu(tensor))
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: copies.append(1) or tolist(tensor))
    generator = torch.Generator().manual_seed(0)
    waits = []
    for images in (2, 7):
        classes = 4 * torch.randn(images, 20, 81, generator=generator)
        masks = torch.randn(images, 20, 16, 16, generator=generator)
        wanted = [Wanted(frozenset({1, 2, 3}), frozenset({2}), 0.01)] * images
        copies.clear()
        with Waits() as mode:
            found = postprocess(classes, masks, [geometry(64, 64)] * images, wanted, chunk_bytes=1 << 30)
        assert sum(map(len, found)) > images
        waits.append(mode.count + len(copies))
    assert waits[0] == waits[1]


def test_images_on_a_gpu_are_copied_by_the_caller_and_together(golden_detector, monkeypatch):
    """Threads of the resizing would copy on streams of their own, before the caller's stream has made the images."""
    made = []

    def cpu(tensor):
        if tensor.device.type == "meta":
            made.append(threading.current_thread())
        return torch.zeros(tensor.shape, dtype=tensor.dtype, device="cpu")

    monkeypatch.setattr(torch.Tensor, "cpu", cpu)
    monkeypatch.setattr(golden_detector, "swap_rb", True)
    golden_detector.prepare([torch.empty(3, 32, 32, dtype=torch.uint8, device="meta")] * 5)
    assert made == [threading.current_thread()]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_leaves_the_process_wide_flags_alone(precision, monkeypatch):
    """A training in another thread computes under them."""
    detector = lite.LiteDetector.from_pretrained(precision=precision)
    monkeypatch.setattr(packaged, "precision_scope", lambda *_: pytest.fail("flags were touched"))
    found = detector.detect([torch.from_numpy(np.zeros((3, 40, 40), np.uint8))], [Wanted(None, min_confidence=0.5)])
    assert len(found) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
class TestOnAGPU:
    def test_images_that_are_still_being_made_are_waited_for(self, checkpoint_2x):
        """The reward's thread and its helpers must not copy a picture before the caller's stream has painted it."""
        detector = build_detector(checkpoint_2x, swap_rb=True)
        picture = torch.randint(0, 256, (3, 48, 320), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        (right,) = detector.detect([picture], [ALL])
        worker = Worker("test")
        images = [torch.zeros(3, 48, 320, dtype=torch.uint8, device="cuda") for _ in range(4)]
        source = picture.cuda()
        torch.cuda.synchronize()
        torch.cuda._sleep(200_000_000)  # a tenth of a second before the pictures are painted
        for image in images:
            image.copy_(source)
        for found in worker.submit(detector.detect, images, [ALL] * 4).result(60):
            np.testing.assert_allclose(found.confidence, right.confidence, atol=5e-3)
        worker.close()

    def test_a_background_thread_does_not_change_the_callers_flags(self):
        detector = lite.LiteDetector.from_pretrained("cuda")
        torch.backends.cuda.matmul.allow_tf32 = True
        try:
            detector.detect([torch.zeros(3, 40, 40, dtype=torch.uint8)], [Wanted(None, min_confidence=0.5)])
            assert torch.backends.cuda.matmul.allow_tf32
        finally:
            torch.backends.cuda.matmul.allow_tf32 = False

    def test_the_forward_waits_no_more_often_for_more_images(self, checkpoint_2x):
        detector = build_detector(checkpoint_2x)
        counts = []
        for count in (1, 6):
            images = [torch.zeros(3, 48, 320, dtype=torch.uint8, device="cuda")] * count
            detector.detect(images, [ALL] * count)
            torch.cuda.set_sync_debug_mode("warn")
            try:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    detector.detect(images, [Wanted(frozenset({1}), min_confidence=0.99)] * count)
            finally:
                torch.cuda.set_sync_debug_mode("default")
            counts.append(sum("synchroniz" in str(one.message) for one in caught))
        assert counts[0] == counts[1] > 0

    def test_memory_is_given_back(self, checkpoint_2x):
        gc.collect()
        before = torch.cuda.memory_allocated()
        detector = build_detector(checkpoint_2x)
        detector.detect([torch.zeros(3, 48, 320, dtype=torch.uint8)], [ALL])
        assert torch.cuda.memory_allocated() > before
        detector.to("cpu")
        gc.collect()
        # What stays is a table of 3 x 256 floats.
        assert torch.cuda.memory_allocated() - before < 16_384


def build_detector(checkpoint, **options):
    model = build_model(load_converted(checkpoint))
    return Mask2FormerDetector(
        model, weights_sha256="0", weights_status="t", device="cuda", forward_images=8, **options
    )
