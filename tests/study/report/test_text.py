"""A report as LaTeX, Markdown, CSV and JSON, and as figures."""

import csv
import io
import json
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from PIL import Image

from geneval_reward.results.tables import render as render_document
from geneval_reward.study.report.collect import collect
from geneval_reward.study.report.figures import save_figures
from geneval_reward.study.report.text import document


def render(report, format):
    return render_document(document(report), format)


@pytest.fixture
def single(write, rows):
    return collect([write("a", rows[0])], draws=200, names=["my_run"])


@pytest.fixture
def double(write, rows):
    return collect([write("b", rows[0]), write("c", rows[1])], draws=200, names=["b_1", "c"])


def test_json_holds_everything(double):
    data = json.loads(render(double, "json"))
    assert [run["name"] for run in data["runs"]] == ["b_1", "c"]
    assert data["complete"] is False
    assert any("535 of 553 prompts are missing" in problem for problem in data["problems"])
    for run, made in zip(data["runs"], double.runs, strict=True):
        assert run["summary"]["overall"]["value"] == pytest.approx(made.summary.scores.overall.value, abs=1e-6)
        assert sum(failure["images"] for failure in run["failures"]) >= int((~made.results.correct).sum())
        assert {one["field"] for one in run["thresholds"]} == {"confidence", "counting_confidence"}
    assert data["comparison"]["pairs"][0]["message"] == double.comparison.pairs[0].message
    assert len(data["published"]) == 5


def test_csv_has_a_line_per_figure(double):
    lines = list(csv.DictReader(io.StringIO(render(double, "csv"))))
    kinds = {line["kind"] for line in lines}
    assert kinds == {"run", "failures", "published", "difference"}
    overall = next(line for line in lines if (line["run"], line["against"], line["task"]) == ("c", "", "overall"))
    assert float(overall["value"]) == pytest.approx(double.runs[1].summary.scores.overall.value, abs=1e-6)
    assert all(line["source"] for line in lines)


@pytest.mark.parametrize("format", ["latex", "markdown"])
def test_tables_say_what_weakens_them(double, format):
    text = render(double, format)
    name = {"latex": r"b\_1", "markdown": "b_1"}[format]
    assert f"{name} (PARTIAL)" in text
    assert "535 of 553 prompts are missing" in text
    assert double.comparison.pairs[0].message.split(":")[0] in text.replace("\\_", "_")
    for row in double.published:
        assert row.source.split("(")[0] in text
    assert "(r)" in text


def test_rewritten_and_chosen_are_marked(write, rows):
    changed = [replace(row, rewritten="x", best_of=4) for row in rows[0]]
    report = collect([write("a", changed, pictures=False)], draws=200, names=["run"])
    for format in ("latex", "markdown"):
        assert "run (r) (best of 4) (PARTIAL)" in render(report, format)
    assert json.loads(render(report, "json"))["runs"][0]["best_of"] == 4


def test_a_line_break_in_a_name_does_not_leave_a_comment(write, rows):
    bad = [replace(rows[0][0], filename="x\n\\input{secret}.png"), *rows[0][1:]]
    text = render(collect([write("a", bad, pictures=False)], draws=200), "latex")
    for line in text.splitlines():
        assert "input{secret}" not in line or line.startswith("%")


@pytest.mark.slow
def test_figures(single, double, tmp_path):
    files = save_figures(double, tmp_path / "figures")
    assert {path.name for path in files} == {
        f"{name}.{kind}" for name in ("scores", "failures", "confidence", "comparison") for kind in ("png", "svg")
    }
    for path in files:
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert min(image.size) > 300
                assert len(image.convert("RGB").getcolors(1 << 24)) > 20
        else:
            assert ET.parse(path).getroot().tag.endswith("svg")
    assert len(save_figures(single, tmp_path / "one")) == 6
