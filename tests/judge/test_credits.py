import math

import numpy as np
import pytest

from geneval_reward.errors import UsageError
from geneval_reward.judge import CREDITS, Detections, judge
from geneval_reward.judge.credits import check_credit
from geneval_reward.prompts import PromptSpec

SPEC = PromptSpec.from_text("a photo of a dog and a cat")
VERDICT = judge(SPEC, Detections(np.array([[1, 1, 9, 9]]), np.array([0.9]), np.array([16]), (10, 10)))


def checks(verdict):
    return sum(finding.passed is True for finding in verdict.findings) / len(verdict.findings)


def test_a_function_and_its_import_path_are_credits(tmp_path, monkeypatch):
    (tmp_path / "own_credit_file.py").write_text("def kinds(verdict):\n    return len(verdict.kept)\n")
    monkeypatch.chdir(tmp_path)
    assert (check_credit(checks), VERDICT.credit(checks)) == ("checks", 0.5)
    assert (check_credit("own_credit_file.py:kinds"), VERDICT.credit("own_credit_file.py:kinds")) == ("kinds", 1.0)
    assert [check_credit(name) for name in CREDITS] == list(CREDITS)


@pytest.mark.parametrize(
    ("credit", "message"),
    [
        ("best", "credit: expected one of official, .*, module:attribute or a function of a verdict, got 'best'"),
        (3, "credit: expected one of official, .* got 3"),
        ("math:nothing", "credit: expected math to define nothing"),
        (lambda: 1, r"credit: expected <lambda>\(verdict\), got <lambda>\(\)"),
    ],
)
def test_what_is_no_credit_is_refused(credit, message):
    with pytest.raises(UsageError, match=message):
        check_credit(credit)
    with pytest.raises(UsageError, match=message):
        VERDICT.credit(credit)


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "much"])
def test_a_credit_must_return_a_finite_number(value):
    def mine(verdict):
        return value

    with pytest.raises(
        UsageError, match=r"credit: expected a finite number of mine\(verdict\), got .* 'a photo of a dog and a cat'"
    ):
        VERDICT.credit(mine)
