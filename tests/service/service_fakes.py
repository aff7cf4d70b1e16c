"""Scorers for worker processes: what the detector answers, and what happens to its process, is written in the image.

The first pixel of an image is `(what, value, confidence)`; the answer is one bench of that confidence.
"""

import os
import signal
import time

import torch

from geneval_reward.testing import FakeDetector, scorer_for

PLAIN, SLEEP, RAISE, DIE, DIE_ONCE = range(5)


def picture(confidence: int = 200, what: int = PLAIN, value: int = 0, size: int = 8) -> torch.Tensor:
    """`(3, size, size)` uint8."""
    image = torch.zeros(3, size, size, dtype=torch.uint8)
    image[:, 0, 0] = torch.tensor([what, value, confidence])
    return image


def look(image: torch.Tensor) -> dict[str, list[list[float]]]:
    what, value, confidence = image[:, 0, 0].tolist()
    if image.shape[1] > 64:  # the photograph of the self-test
        return {}
    if what == SLEEP:
        time.sleep(value / 10)
    if what == RAISE:
        raise ValueError("the detector does not like this image")
    if what == DIE or (what == DIE_ONCE and _first_time()):
        os.kill(os.getpid(), signal.SIGKILL)
    return {"bench": [[1.0, 1.0, 7.0, 7.0, confidence / 255]]}


def _first_time() -> bool:
    try:
        os.close(os.open(os.environ["GENEVAL_TEST_MARK"], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def make():
    return scorer_for(FakeDetector(look), batch_size=4)


def broken():
    raise RuntimeError("no weights in this fake")
