"""The published table is whole, and is searched as it says."""

import pytest

from geneval_reward.prompts import TAGS
from geneval_reward.study.published import published


def test_every_row_is_sound():
    rows = published()
    assert len(rows) == 143
    for row in rows:
        assert row.model
        assert row.source
        assert row.overall is not None or row.tags
        assert all(0 <= share <= 1 for share in row.tags.values())
        assert set(row.tags) <= set(TAGS)


def test_the_overall_is_the_mean_of_the_tasks_up_to_rounding():
    # The paper's rounding explains half a point; a few rows are further off as printed.
    gaps = [abs(row.overall - sum(row.tags.values()) / 6) for row in published() if row.overall and len(row.tags) == 6]
    assert len(gaps) > 80
    assert sum(gap <= 0.0101 for gap in gaps) >= len(gaps) - 2


def test_the_benchmarks_own_figures():
    own = {row.model: row.overall for row in published() if "arXiv 2310.11513" in row.source}
    assert own == {
        "CLIP retrieval (baseline)": 0.35,
        "minDALL-E": 0.23,
        "Stable Diffusion v1.5": 0.43,
        "Stable Diffusion v2.1": 0.50,
        "SDXL 1.0": 0.55,
        "DeepFloyd IF-XL": 0.61,
    }


def test_rows_are_chosen():
    between = published(minimum=0.6, maximum=0.7, rewritten=False)
    assert between
    assert all(0.6 <= row.overall <= 0.7 and not row.rewritten for row in between)
    assert [row.overall for row in between] == sorted((row.overall for row in between), reverse=True)
    assert all(row.rewritten for row in published(rewritten=True))
    assert {row.model for row in published(model="bagel", rewritten=True)} >= {"BAGEL"}
    assert any(row.overall is None for row in published())


@pytest.mark.parametrize("call", [lambda: published(minimum=66), lambda: published(maximum=-1)])
def test_bad_arguments(call):
    with pytest.raises(ValueError, match="expected"):
        call()
