import os
import threading
import time

import pytest
import torch

from geneval_reward.vision.detectors.packaged import run_parts, workers


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_order_is_kept_and_each_worker_computes_alone(two_threads):
    def work(part):
        time.sleep(0.02 * (3 - part))
        return part, torch.get_num_threads(), threading.current_thread().name

    results = run_parts(work, [0, 1, 2])
    assert [part for part, _, _ in results] == [0, 1, 2]
    assert {threads for _, threads, _ in results} == {1}
    assert all(name.startswith("geneval-lite") for _, _, name in results)
    assert torch.get_num_threads() == 2
    assert workers() == 2


def test_a_single_part_is_computed_alone_too(two_threads):
    """With two PyTorch threads oneDNN would take other kernels, whose last bits differ from those of a batch."""
    assert run_parts(lambda _: torch.get_num_threads(), [None]) == [1]


def test_an_error_comes_through(two_threads):
    with pytest.raises(ZeroDivisionError):
        run_parts(lambda part: 1 // part, [1, 0])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_gets_its_own_workers(two_threads):
    assert run_parts(abs, [-1, -2]) == [1, 2]
    pid = os.fork()
    if pid == 0:  # pragma: no cover
        os._exit(0 if run_parts(abs, [-3, -4]) == [3, 4] else 1)
    deadline = time.monotonic() + 30
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            pytest.fail("the forked process hangs")
        time.sleep(0.05)
    assert os.waitstatus_to_exitcode(status) == 0
