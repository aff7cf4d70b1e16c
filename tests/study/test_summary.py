"""Summaries: what is called complete, and what a caption says."""

import dataclasses
import json

import numpy as np
import pytest
from made_up_results import synthetic_rows
from simulated_runs import simulate_runs
from typer.testing import CliRunner

from geneval_reward.cli import app
from geneval_reward.judge import Detections, Rules, judge
from geneval_reward.prompts import CLASS_IDS, PromptSpec, counterfactual_prompts, official_suite
from geneval_reward.results import GeneratorNotes, ResultRow, ResultWriter, read_results
from geneval_reward.results.tables import render
from geneval_reward.study.compare.table import compare_results
from geneval_reward.study.report.collect import collect
from geneval_reward.study.report.html import write_html
from geneval_reward.study.rules_grid import judge_grid
from geneval_reward.study.summary import summarize

WHOLE = {"single_object": 80, "two_object": 99, "counting": 80, "colors": 94, "position": 100, "color_attr": 100}
FEW = dict.fromkeys(WHOLE, 4)


def made(prompts, images):
    runs = simulate_runs([dict.fromkeys(prompts, 0.6)], prompts=prompts, images_per_prompt=images)
    return list(synthetic_rows(runs))


def custom(row):
    """The same image under a record that the suite does not have."""
    spec = PromptSpec.parse(json.dumps(json.loads(row.spec.to_json()) | {"prompt": f"my {row.spec.prompt}"}))
    return dataclasses.replace(row, prompt=spec.prompt, metadata=spec.to_json())


@pytest.fixture
def write(tmp_path):
    def make(rows, name="r.jsonl"):
        with ResultWriter(tmp_path / name) as writer:
            writer.write(rows)
        return tmp_path / name

    return make


@pytest.fixture
def invoke(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *args: CliRunner().invoke(app, ["summary", *map(str, args)])


@pytest.fixture(scope="module")
def doubled(tmp_path_factory):
    """The whole suite, one image each, twice in one file."""
    path = tmp_path_factory.mktemp("doubled") / "twice.jsonl"
    with ResultWriter(path) as writer:
        writer.write(made(WHOLE, 1))
    assert summarize(read_results(path), draws=100).complete
    path.write_bytes(2 * path.read_bytes())
    return path


def test_a_doubled_file_is_not_complete(doubled, invoke) -> None:
    found = summarize(read_results(doubled), draws=100)
    assert len(official_suite()) == found.duplicates == 553
    assert found.completeness.complete, "by number of images alone it would be"
    assert not found.complete
    assert found.standing == "INCOMPLETE"
    assert found.to_dict()["complete"] is False
    (note,) = found.problems
    assert note.startswith("553 images occur more than once and are counted each time: ")
    assert note.count(": 2 lines") == 5
    assert note.endswith(" and 548 more")
    shown = invoke(doubled)
    assert shown.exit_code == 1
    assert "NOT complete: 553 of 553 prompts" in shown.stdout
    assert "complete: all" not in shown.stdout
    assert "553 images occur more than once" in shown.stderr


def test_the_report_of_a_doubled_file(doubled, tmp_path) -> None:
    report = collect([doubled], draws=100)
    page = write_html(report, tmp_path / "out.html", max_bytes=4_000_000).read_text()
    assert not report.complete
    assert "complete: 553 prompts" not in page
    assert "INCOMPLETE" in page
    assert "553 images more than once" in page


def test_one_image_twice_is_named(write, invoke) -> None:
    rows = [custom(row) for row in made(FEW, 2)]
    path = write(rows)
    path.write_text(path.read_text() + rows[0].to_json() + "\n")
    found = summarize(read_results(path), draws=100)
    assert f"1 image occurs more than once and is counted each time: {rows[0].filename}: 2 lines" in found.problems
    assert found.standing == "24 prompts, not the official suite, INCOMPLETE"
    assert invoke(path).exit_code == 1


def test_rules_change_only_what_they_name(write) -> None:
    """A file judged by lite's rules, judged again at its own confidence, keeps its scores."""
    lite = Rules.parse("lite")
    runs = simulate_runs([dict.fromkeys(FEW, 0.6)], prompts=FEW, images_per_prompt=2)
    results = read_results(write([*synthetic_rows(runs, rules=lite)], "lite.jsonl"))
    own = summarize(results, "partial", draws=100)
    again = summarize(results, "partial", f"confidence={lite.confidence}", draws=100)
    assert again.rejudged
    assert again.rules == own.rules == lite.to_dict()
    assert {tag: one.value for tag, one in again.scores.tags.items()} == {
        tag: one.value for tag, one in own.scores.tags.items()
    }
    named = summarize(results, rules="geneval,confidence=.5", draws=100).rules
    assert named == Rules(confidence=0.5).to_dict()
    grid = judge_grid(results, ["position=.2", "confidence=.3:.5:.2"], draws=100)
    assert grid.base == dataclasses.replace(lite, position=0.2)


def test_captions_say_what_the_numbers_stand_for(write, invoke) -> None:
    own = write([custom(row) for row in made(FEW, 2)], "own.jsonl")
    for form in ("latex", "markdown"):
        shown = invoke(own, "-f", form)
        assert shown.exit_code == 0
        assert "GenEval, credit official, 24 prompts, not the official suite; 95" in shown.stdout
        assert "complete" not in shown.stdout
    data = json.loads(invoke(own, "-f", "json").stdout)
    assert (data["complete"], data["suite"]) == (True, "custom")
    assert data["standing"] == "24 prompts, not the official suite"

    part = summarize(read_results(write(made(FEW, 2), "part.jsonl")), draws=100)
    assert "credit official, PARTIAL (24 of 553 prompts); 95" in render(part.document(), "markdown")

    rows = made(WHOLE, 1)
    assert "official, complete; 95" in invoke(write(rows, "whole.jsonl"), "-f", "latex").stdout
    rows[0] = dataclasses.replace(rows[0], rewritten="a longer text")
    rows[1] = dataclasses.replace(rows[1], best_of=4)
    for form in ("latex", "markdown"):
        shown = invoke(write(rows, f"{form}.jsonl"), "-f", form).stdout
        assert "complete, rewritten prompts, best of 4 chosen by this metric; 95" in shown


def test_a_cut_line_is_said_once(write, invoke, recwarn) -> None:
    path = write(made(FEW, 2))
    path.write_bytes(path.read_bytes()[:-40])
    for more in ((), ("--rules", "confidence=.5:.9:.4")):
        shown = invoke(path, *more)
        assert shown.exit_code == 1
        assert shown.stderr.count("is cut off and left out") == 1
    assert not [one for one in recwarn if "cut off" in str(one.message)]


def test_prompts_of_others_do_not_count_as_part_of_the_suite(write, invoke) -> None:
    """Four official prompts and four of one's own are 4 of 553, and not 8."""
    rows = made(dict.fromkeys(WHOLE, 4), 1)
    path = write([*rows[:4], *map(custom, rows[4:8])])
    found = summarize(read_results(path), draws=100)
    assert (found.completeness.suite, found.completeness.prompts, found.completeness.covered) == ("official", 8, 4)
    assert found.standing == "PARTIAL (4 of 553 prompts)"
    shown = invoke(path)
    assert "NOT the full suite: 4 of 553 prompts" in shown.stdout
    assert "8 of 553" not in shown.stdout + shown.stderr
    page = write_html(collect([path], draws=100), path.with_suffix(".html"), max_bytes=300_000).read_text()
    assert "PARTIAL: 4 of 553 prompts" in page


@pytest.mark.parametrize("form", ["table", "markdown", "latex", "csv", "json"])
def test_every_format_says_that_images_were_judged_again_and_by_which_rules(write, invoke, form) -> None:
    path = write(made(FEW, 2))

    def text(*more: str) -> str:
        return " ".join(invoke(path, "-f", form, *more).stdout.replace("\\_", "_").split())

    plain, again = text(), text("--rules", "confidence=0.8")
    if form == "json":
        assert json.loads(again)["rejudged"] is True
        assert json.loads(again)["rules"]["confidence"] == 0.8
        return
    assert "confidence=0.8, counting_confidence=0.9" in again
    assert "confidence=0.8" not in plain
    if form == "csv":
        assert plain.startswith("task,value,low,high,images,prompts ")
        assert again.startswith("task,value,low,high,images,prompts,rules ")
    else:
        assert "JUDGED AGAIN by the rules" in again
        assert "JUDGED AGAIN" not in plain
        assert "confidence=0.3, counting_confidence=0.9" in plain


@pytest.mark.parametrize("form", ["table", "markdown", "latex", "csv", "json"])
def test_no_table_prints_nan(write, invoke, form) -> None:
    """A graded credit of a task with one prompt has no interval."""
    rows = [
        dataclasses.replace(row, credits={**row.credits, "partial": 0.5}) for row in made(dict.fromkeys(WHOLE, 1), 2)
    ]
    path = write(rows)
    shown = invoke(path, "--credit", "partial", "-f", form).stdout
    assert "0.5" in shown
    assert "nan" not in shown.lower()
    grid = invoke(path, "--credit", "partial", "--rules", "confidence=.3:.5:.2", "-f", form).stdout
    assert "nan" not in grid.lower()


def test_what_else_the_generator_got_is_in_every_caption(write, invoke) -> None:
    notes = GeneratorNotes(template="Draw {prompt}", trained_on_template=True)
    path = write([dataclasses.replace(row, generator=notes) for row in made(FEW, 1)])
    found = summarize(read_results(path), draws=100)
    assert found.standing.endswith("template 'Draw {prompt}', trained on the benchmark's wording")
    assert found.to_dict()["generator"] == [{"template": "Draw {prompt}", "trained_on_template": True}]
    assert "generator: template 'Draw {prompt}'" in invoke(path).stderr


@pytest.mark.parametrize(
    ("painter", "score", "pairs"), [("reads", 1.0, 1.0), ("same noise", 0.5, 0.0), ("other noise", 0.5, 0.25)]
)
def test_a_generator_that_guesses_sides_is_found_out_by_pairs(write, invoke, painter, score, pairs) -> None:
    """Two objects side by side: as asked, as the noise of the image's number has it, or by chance."""
    specs = counterfactual_prompts([spec for spec in official_suite() if spec.tag == "position"])
    sides = [spec for spec in specs if spec.include[1].positions[0].relation.endswith("of")]
    rng = np.random.default_rng(0)
    rows, noise = [], {}
    for prompt, spec in enumerate(sides):
        asked = spec.include[1].positions[0].relation == "left of"
        for index in range(4):
            chance = {"reads": asked, "other noise": bool(rng.random() < 0.5)}
            left = chance.get(painter, noise.setdefault((prompt // 2, index), chance["other noise"]))
            boxes = [[60, 10, 90, 40], [10, 10, 40, 40]] if left else [[10, 10, 40, 40], [60, 10, 90, 40]]
            ids = np.array([CLASS_IDS[item.class_name] for item in spec.include])
            verdict = judge(spec, Detections(np.array(boxes, float), np.array([0.9, 0.9]), ids, (100, 100)))
            rows.append(ResultRow.from_verdict(verdict, f"{prompt:05}/samples/{index:04}.png"))
    path = write(rows)
    found = summarize(read_results(path))
    assert found.scores.tags["position"].value == pytest.approx(score, abs=0.08)
    estimate = found.pairs["position"]
    assert estimate.value == pytest.approx(pairs, abs=0.08)
    assert (estimate.images, estimate.prompts) == (len(rows) // 2, len(sides) // 2)
    assert estimate.interval.low <= estimate.value <= estimate.interval.high
    assert "position, both of a pair" in invoke(path).stdout
    found = json.loads(invoke(path, "-f", "json").stdout)["counterfactual_pairs"]["position"]
    assert found == estimate.to_dict()


def test_a_set_without_pairs_says_nothing_of_them(write, invoke) -> None:
    path = write(made(FEW, 2))
    assert summarize(read_results(path), draws=100).pairs == {}
    assert "of a pair" not in invoke(path).stdout


def test_a_summary_and_a_comparison_show_themselves(write):
    results = read_results(write(made(FEW, 2)))
    summary = summarize(results, draws=500)
    one = summary.scores.overall
    assert repr(summary).startswith(f"Summary(overall {one.value:.3f} [")
    assert "PARTIAL (24 of 553 prompts)" in repr(summary)
    assert "<caption>GenEval, credit official, PARTIAL" in summary._repr_html_()
    comparison = compare_results([results, results], names=["<before>", "after"], draws=500)
    assert repr(comparison).startswith("Comparison(No difference shown: after - <before> = +0.0 points")
    html = comparison._repr_html_()
    assert html.count("<table>") == 2
    assert "<before>" not in html
    assert "&lt;before&gt;" in html
