"""What `serve` makes of its options, without a server."""

from pathlib import Path

import pytest

from geneval_reward.scorer import LazyScorer

FACTORY = """
from geneval_reward.testing import FakeDetector, scorer_for

def make():
    return scorer_for(FakeDetector(lambda image: {}), batch_size=4)
"""


@pytest.fixture
def config(run, monkeypatch, tmp_path: Path):
    """Call `serve` with arguments and return the configuration that its workers would get."""
    (tmp_path / "mine.py").write_text(FACTORY)

    def call(*args):
        found = []
        monkeypatch.setattr("geneval_reward.service.server.runner.serve", lambda config, **_: found.append(config))
        result, code, message = run("serve", "--device", "cpu", "--threads", 1, *args)
        assert code == 0, message or result.stderr
        return found[0]

    return call


def test_batches_of_a_scorer_of_ones_own(config) -> None:
    """The server fills batches of the size asked for, and the scorer's factory gets no option that it would refuse."""
    found = config("--backend", "mine.py:make", "--batch-size", 2)
    assert found.batch_size == 2
    assert LazyScorer(found.backend, device="cpu", **found.options).load().batch_size == 4


def test_batches_of_a_backend(config) -> None:
    found = config("--backend", "lite", "--batch-size", 2)
    assert found.batch_size == found.options["batch_size"] == 2
