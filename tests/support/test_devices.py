import threading

import pytest
import torch

from geneval_reward.reward.worker import Worker
from geneval_reward.support import inference
from geneval_reward.support.devices import stack_to_device, to_device, to_host
from geneval_reward.vision.images import try_images


@pytest.fixture
def copies(monkeypatch):
    """Let meta tensors stand for a GPU's; the list gets the thread and the shape of each copy to the host."""
    made = []

    def cpu(tensor):
        made.append((threading.current_thread(), tuple(tensor.shape)))
        return torch.zeros(tensor.shape, dtype=tensor.dtype, device="cpu")

    monkeypatch.setattr(torch.Tensor, "cpu", cpu)
    return made


def test_to_host_copies_each_shape_once_and_keeps_the_order(copies):
    here = torch.ones(3, 2, 2)
    there = [torch.empty(3, 4, 4, device="meta"), torch.empty(3, 5, 4, device="meta")]
    found = to_host([there[0], here, there[1], there[0]])
    assert found[1] is here
    assert [tensor.shape for tensor in found] == [(3, 4, 4), (3, 2, 2), (3, 5, 4), (3, 4, 4)]
    assert {tensor.device.type for tensor in found} == {"cpu"}
    assert [shape for _, shape in copies] == [(2, 3, 4, 4), (1, 3, 5, 4)]


def test_copies_to_a_gpu_come_from_pinned_memory(monkeypatch):
    moves = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: moves.append("pin") or tensor)
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *args, **kwargs: moves.append((*args, kwargs)) or tensor)
    to_device(torch.zeros(2), "cuda:1")
    assert moves == ["pin", (torch.device("cuda:1"), {"non_blocking": True})]
    moves.clear()
    # A copy to the host that does not block would be read before it is whole.
    to_device(torch.zeros(2), "cpu")
    assert moves == [(torch.device("cpu"), {})]


def test_stack_to_device_on_the_cpu():
    assert stack_to_device([torch.zeros(2), torch.ones(2)], "cpu").tolist() == [[0, 0], [1, 1]]


def test_floats_of_a_batch_are_read_together(monkeypatch):
    reads = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: reads.append(1) or tolist(tensor))
    monkeypatch.setattr(torch.Tensor, "item", lambda tensor: pytest.fail("an image was read by itself"))
    good, bad = torch.rand(3, 4, 4, dtype=torch.float16), torch.full((3, 4, 4), 7.0)
    found = try_images([good, bad, good.float(), None])
    assert len(reads) == 1
    assert [type(item).__name__ for item in found] == ["Tensor", "ImageError", "Tensor", "ImageError"]
    assert str(found[1]).startswith("images[1]: expected floats in [0, 1], got the range [7, 7]")
    assert (found[0].float() / 255 - good.float()).abs().max() < 0.003


def test_blocks_in_two_threads_give_the_tf32_flags_back():
    """They take turns: a block that began within another would give back what the other had set."""
    matmul = torch.backends.cuda.matmul
    before, seen = matmul.allow_tf32, []
    matmul.allow_tf32 = True
    try:
        entered, other = threading.Event(), None

        def second():
            entered.set()
            with inference.precision_scope("tf32", "cuda"):
                seen.append("second")

        with inference.precision_scope("fp32", "cuda"):
            other = threading.Thread(target=second)
            other.start()
            entered.wait(10)
            other.join(0.2)
            seen.append("first")
        other.join(10)
        assert seen == ["first", "second"]
        assert matmul.allow_tf32 is True
    finally:
        matmul.allow_tf32 = before


class TestWorker:
    @pytest.fixture
    def cuda(self, monkeypatch):
        """CUDA's functions, recorded; the caller's current GPU is number 1."""
        calls = []

        class Event:
            def record(self):
                calls.append("record")

        class Stream:
            def __init__(self, device):
                self.device = device
                calls.append(f"stream on {device}")

            def wait_event(self, event):
                calls.append("wait")

            def __enter__(self):
                calls.append(f"enter {self.device}")

            def __exit__(self, *_):
                calls.append("leave")

        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
        return calls

    def test_works_on_the_callers_gpu_after_what_it_has_queued(self, cuda):
        worker = Worker("test")
        for _ in range(2):
            assert worker.submit(lambda: cuda.append("work") or 3).result(10) == 3
        worker.close()
        turn = ["enter 1", "wait", "work", "leave"]
        assert [call for call in cuda if call != "record"] == ["stream on 1", *turn, *turn]
        assert cuda[0] == "record"

    def test_cuda_is_not_set_up_for_work_on_the_cpu(self, cuda, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
        worker = Worker("test")
        assert worker.submit(lambda: 3).result(10) == 3
        worker.close()
        assert cuda == []


def test_a_scorer_that_leaves_the_gpu_gives_its_memory_back(monkeypatch):
    from geneval_reward.scorer import GenEvalScorer
    from geneval_reward.testing import FakeDetector

    given = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: given.append(1))
    GenEvalScorer(FakeDetector([])).to("cpu")
    assert given == [1]
