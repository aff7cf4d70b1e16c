import math
from types import SimpleNamespace

import pytest
import torch

from geneval_reward.errors import UsageError
from geneval_reward.pocket import pocket_suite
from geneval_reward.train import PocketUnified
from geneval_reward.train.reader_audit import Agreement, ReaderAudit, audit_reader


class Judge:
    """Calls every second picture right."""

    def score(self, images, specs):
        assert all(image.dtype == torch.uint8 and image.shape == (3, 256, 256) for image in images)
        return [SimpleNamespace(correct=n % 2 == 0) for n in range(len(specs))]


def test_rates_are_conditional_on_the_judge():
    found = Agreement.count([True, True, False, True, False, False], [True, True, True, False, False, False])
    assert (found.both, found.judge_only, found.reader_only, found.neither) == (2, 1, 1, 2)
    assert found.missed == pytest.approx(1 / 3)
    assert found.flattered == pytest.approx(1 / 3)
    assert found.log_dict()["reader/says_right"] == 0.5
    interval = found.intervals()["flattered"]
    assert interval.low < 1 / 3 < interval.high
    empty = Agreement.count([True], [True])
    assert math.isnan(empty.flattered)
    assert math.isnan(empty.intervals()["flattered"].low)


def test_pictures_are_painted_asked_about_and_judged():
    model, suite = PocketUnified(steps=2), list(pocket_suite())[::50]
    found = audit_reader(model, Judge(), suite, images_per_prompt=2, batch_size=4)
    assert found.both + found.judge_only == found.reader_only + found.neither == 4
    assert found == audit_reader(model, Judge(), suite, images_per_prompt=2, batch_size=8)


def test_answers_that_cannot_be_read_are_counted(monkeypatch):
    model = PocketUnified(steps=1)
    monkeypatch.setattr(model, "answer", lambda tokens, questions: ["", "hm", "a photo"][: len(questions)])
    found = audit_reader(model, Judge(), list(pocket_suite())[:3])
    assert found.unparsed == 3
    assert found.both == found.reader_only == 0


def test_wrong_numbers_are_refused():
    with pytest.raises(UsageError, match="images_per_prompt and every_n_epochs >= 1"):
        ReaderAudit(Judge(), prompts=6, every_n_epochs=0)
