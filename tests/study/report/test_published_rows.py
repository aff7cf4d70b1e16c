"""Which published rows stand beside a run."""

import pytest

from geneval_reward.prompts.vocabulary import TAGS
from geneval_reward.study.published import published
from geneval_reward.study.report.published_rows import nearest_published

FLUX = {
    "single_object": 0.98,
    "two_object": 0.81,
    "counting": 0.74,
    "colors": 0.79,
    "position": 0.22,
    "color_attr": 0.45,
}


def test_nearest_of_the_same_kind_and_two_of_the_other():
    rows = nearest_published(FLUX, rewritten=False, count=6)
    assert len(rows) == 6
    assert sum(row.rewritten for row in rows) == 2
    assert any(row.model == "FLUX.1-dev" and not row.rewritten for row in rows)
    means = [sum(row.tags.values()) / 6 for row in rows]
    assert means == sorted(means, reverse=True)
    assert sum(row.rewritten for row in nearest_published(FLUX, rewritten=True, count=5)) == 3


def test_a_run_without_all_tags_is_compared_on_its_own():
    part = {"position": 0.99}
    rows = nearest_published(part, rewritten=False, count=1)
    best = min(abs(row.tags["position"] - 0.99) for row in published() if not row.rewritten and "position" in row.tags)
    assert abs(rows[0].tags["position"] - 0.99) == best


def test_by_name_and_none():
    assert {row.model for row in nearest_published(FLUX, rewritten=False, count=9, models=("sdxl", "FLUX.1"))} >= {
        "SDXL 1.0",
        "FLUX.1-dev",
    }
    assert nearest_published(FLUX, rewritten=False, count=0) == []
    assert nearest_published({}, rewritten=False) == []
    with pytest.raises(ValueError, match="models: expected part of the name"):
        nearest_published(FLUX, rewritten=False, models=("Photoshop",))
    assert set(TAGS) == set(FLUX)
