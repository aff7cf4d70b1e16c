"""What a comparison says, and how: sentences, tables, JSON, pictures."""

import json
import sys
from pathlib import Path

import pytest
from made_up_results import write_synthetic
from simulated_runs import simulate_runs

from geneval_reward.generate.subset import TYPICAL_ACCURACY
from geneval_reward.results.notation import p_text
from geneval_reward.results.tables import render
from geneval_reward.study.compare import compare_files
from geneval_reward.study.compare.plot import plot, save_plot
from geneval_reward.study.compare.render import document
from geneval_reward.study.compare.table import short_names

BETTER = {tag: min(1.0, share + 0.15) for tag, share in TYPICAL_ACCURACY.items()}


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    runs = simulate_runs(
        [TYPICAL_ACCURACY, BETTER, TYPICAL_ACCURACY],
        prompts=dict.fromkeys(TYPICAL_ACCURACY, 30),
        images_per_prompt=2,
        seed=1,
    )
    files = [write_synthetic(folder / f"{name}.jsonl", runs, i) for i, name in enumerate(("base", "lora", "a|b"))]
    return compare_files(files, draws=2000)


def printed(comparison, format="table"):
    return render(document(comparison), format)


def test_a_difference_is_stated_with_its_interval(comparison):
    message = comparison.pairs[0].message
    assert message.startswith("lora is better than base: lora - base = +")
    assert "points, 95 % interval [+" in message
    assert "p < 0.001" in message
    assert "By task, corrected for 6 looks" in message


def test_no_difference_says_what_could_have_been_seen(comparison):
    one = comparison.pairs[1].comparison.overall
    message = comparison.pairs[1].message
    assert not one.shown
    assert message.startswith("No difference shown: a|b - base = ")
    assert f"the smallest visible difference (80 % power) was {100 * one.detectable:.1f} points" in message


def test_p_values_are_corrected_over_the_runs(comparison):
    overall = [pair.comparison.overall for pair in comparison.pairs]
    smaller = min(overall, key=lambda one: one.p_value)
    assert smaller.p_holm == pytest.approx(2 * smaller.p_value)


def test_the_table_holds_every_task_and_run(comparison):
    text = printed(comparison)
    for word in ("single_object", "color_attr", "overall", "lora - base, in points, image by image", "180 prompts"):
        assert word in text
    assert f"{comparison.runs[0].scores.overall.value:.3f} [" in text


def test_markdown_is_a_table_whatever_the_names(comparison):
    text = printed(comparison, "markdown")
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert "a\\|b" in table[0]
    widths = {line.replace("\\|", "").count("|") for line in table[:12]}
    assert widths == {5}


def test_json_holds_everything_and_is_json(comparison):
    record = json.loads(printed(comparison, "json"))
    assert [run["name"] for run in record["runs"]] == ["base", "lora", "a|b"]
    assert record["runs"][0]["identity"]["rules"]["confidence"] == 0.3
    pair = record["pairs"][0]
    assert pair["shown"] is True
    assert pair["comparison"]["overall"]["value"] == comparison.pairs[0].comparison.overall.value
    assert set(pair["comparison"]["tags"]) == set(TYPICAL_ACCURACY)


def test_the_picture_shows_every_run_and_task(comparison, tmp_path):
    figure = plot(comparison)
    scores, differences = figure.axes
    assert [label.get_text() for label in scores.get_yticklabels()][-1] == "overall"
    assert len(scores.containers) == 3
    assert len(differences.containers) == 2 * 7
    path = save_plot(comparison, tmp_path / "new" / "plot.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"such as \.png or \.svg, got the suffix '\.txt'"):
        save_plot(comparison, tmp_path / "plot.txt")


def test_without_matplotlib_the_error_says_what_to_install(comparison, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'geneval-reward\[report\]'"):
        plot(comparison)


@pytest.mark.parametrize(
    ("p", "text"), [(0.00001, "p < 0.001"), (0.0312, "p = 0.031"), (0.5, "p = 0.50"), (float("nan"), "p unknown")]
)
def test_p_text(p, text):
    assert p_text(p) == text


def test_names_are_short_and_different():
    assert short_names([Path("a.jsonl"), Path("b.jsonl")]) == ["a", "b"]
    assert short_names([Path("a.jsonl"), Path("a.jsonl")]) == ["a (1)", "a (2)"]
