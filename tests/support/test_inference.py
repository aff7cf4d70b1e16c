import pytest
import torch

from geneval_reward.support.inference import is_out_of_memory, run_in_batches


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        # An error of another kind may quote such words, for example in a prompt.
        (ValueError("a photo of a robot that is out of memory"), False),
    ],
)
def test_out_of_memory_is_told_from_other_errors(error, expected):
    assert is_out_of_memory(error) is expected


def test_the_batch_is_halved_and_stays_halved(caplog):
    sizes = []

    def call(part):
        sizes.append(part.stop - part.start)
        if sizes[-1] > 3:
            raise RuntimeError("MPS backend out of memory")
        return list(range(12))[part]

    assert run_in_batches(call, 12, 10, name="mine") == (list(range(12)), 2)
    assert sizes == [10, 5, 2, 2, 2, 2, 2, 2]
    assert "mine: out of memory; going on with batches of 5" in caplog.text


def test_a_last_part_that_is_smaller_than_a_batch_is_halved_from_its_own_size():
    sizes = []

    def call(part):
        sizes.append(part.stop - part.start)
        if sizes[-1] > 2:
            raise MemoryError
        return [0] * sizes[-1]

    assert run_in_batches(call, 3, 64, name="mine") == ([0, 0, 0], 1)
    assert sizes == [3, 1, 1, 1]


def test_an_item_that_does_not_fit_alone_is_named():
    def call(part):
        if part.start <= 2 < part.stop:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return [0] * (part.stop - part.start)

    with pytest.raises(torch.OutOfMemoryError, match=r"^mine: expected room for item 2, got out of memory; free some"):
        run_in_batches(call, 4, 4, name="mine", describe=lambda index: f"item {index}")


def test_other_errors_pass_through_at_once():
    calls = []

    def call(part):
        calls.append(part)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_in_batches(call, 4, 4, name="mine")
    assert len(calls) == 1
