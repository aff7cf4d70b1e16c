"""Threshold grids over stored detections."""

import csv
import dataclasses
import io
import json

import pytest
from made_up_results import synthetic_rows
from PIL import Image
from simulated_runs import simulate_runs
from typer.testing import CliRunner

from geneval_reward.cli import app
from geneval_reward.errors import ResultsError
from geneval_reward.judge import Rules
from geneval_reward.prompts import TAGS, PromptSpec
from geneval_reward.results import ResultWriter, read_results
from geneval_reward.study.rules_grid import is_grid, judge_grid, parse_grid, plot, save_plot
from geneval_reward.study.summary import summarize

SIZES = dict.fromkeys(("single_object", "two_object", "counting", "colors", "position", "color_attr"), 5)


def write(path, change=lambda row: row, **options):
    rows = synthetic_rows(
        simulate_runs([dict.fromkeys(SIZES, 0.6)], prompts=SIZES, images_per_prompt=2), rules=Rules(), **options
    )
    with ResultWriter(path) as writer:
        writer.write(change(dataclasses.replace(row, min_confidence=0.05)) for row in rows)
    return path


@pytest.fixture
def results(tmp_path):
    return read_results(write(tmp_path / "r.jsonl"))


def test_every_cell_is_what_summarize_says_under_its_rules(results) -> None:
    grid = judge_grid(results, ["confidence=.1:.9:.4", "counting_confidence=.3:.95:.65"], draws=200)
    assert [(cell.rules.confidence, cell.rules.counting_confidence) for cell in grid.cells] == [
        (c, n) for c in (0.1, 0.5, 0.9) for n in (0.3, 0.95)
    ]
    for cell in grid.cells:
        scores = summarize(results, rules=cell.rules, draws=200).scores
        assert cell.overall.value == pytest.approx(scores.overall.value)
        assert {tag: one.value for tag, one in cell.tags.items()} == {t: one.value for t, one in scores.tags.items()}
    assert len({cell.overall.value for cell in grid.cells}) > 3, "the thresholds must matter"
    assert f"move the overall score by {100 * grid.spread:.1f} points" in grid.notes[0]


def test_the_files_own_rules_hold_besides(tmp_path) -> None:
    own = Rules(position=0.3)
    results = read_results(write(tmp_path / "r.jsonl", lambda row: dataclasses.replace(row, rules=own.to_dict())))
    assert judge_grid(results, ["max_objects=1:3:1"], draws=100).cells[0].rules == dataclasses.replace(
        own, max_objects=1
    )
    given = judge_grid(results, ["lite", "position=0:.2:.1"], draws=100)
    assert given.cells[0].rules == dataclasses.replace(Rules.parse("lite"), position=0.0)


def test_other_credits(results) -> None:
    official = judge_grid(results, ["confidence=.1:.9:.4"], draws=100)
    dense = judge_grid(results, ["confidence=.1:.9:.4"], "dense", draws=100)
    assert dense.credit == "dense"
    assert [c.overall.value for c in dense.cells] != [c.overall.value for c in official.cells]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("confidence=.1:.9:.1", (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)),
        ("confidence = 0.25 : 0.3 : 0.01", (0.25, 0.26, 0.27, 0.28, 0.29, 0.3)),
        ("confidence=.5:.5:1", (0.5,)),
        ("confidence=.1:.35:.1", (0.1, 0.2, 0.3)),
        ("max_objects=1:16:5", (1, 6, 11, 16)),
    ],
)
def test_ranges(text, values) -> None:
    assert is_grid([text])
    (found,) = parse_grid([text])[0].values()
    assert found == values


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["confidence=.1:.9"], r"expected from:to:step such as confidence=\.1:\.9:\.1"),
        (["confidence=a:b:c"], "expected from:to:step"),
        (["confidence=.9:.1:.1"], "expected from <= to and a step > 0"),
        (["confidence=.1:.9:0"], "expected from <= to and a step > 0"),
        (["confidence=.1:.9:1e-9"], "expected at most 2500 values"),
        (["confidence=.1:1.9:.1"], r"confidence: expected a number in \[0, 1\], got 1\.9"),
        (["max_objects=1:2:.5"], "max_objects: expected whole numbers"),
        (["background=1:2:1"], "other rules change what the colour verifier sees, so score the images again"),
        (["crop=0:1:1"], "expected a range of confidence, counting_confidence"),
        (["confidence=0:1:.5", "confidence=0:1:.1"], "expected one range of confidence, got two"),
        (["confidence=0:1:.5", "position=0:1:.5", "max_overlap=0:1:.5"], "expected one or two ranges .* got 3"),
        (["confidence=0:1:.01", "position=0:1:.01"], "expected at most 2500 combinations, got 10201"),
        (["nonsense", "confidence=0:1:.5"], "rules: expected a profile"),
    ],
)
def test_bad_grids(texts, message) -> None:
    with pytest.raises(ValueError, match=message):
        parse_grid(texts)


def test_what_cannot_be_judged_again_is_refused(tmp_path, results) -> None:
    with pytest.raises(
        ResultsError, match=r"at least 0\.05, got confidence 0; .* so start the range at 0\.05, or score"
    ):
        judge_grid(results, ["confidence=0:.5:.1"])
    with pytest.raises(ResultsError, match=r"got counting_confidence 0\.01"):
        judge_grid(results, ["counting_confidence=.01:.5:.1"])
    plain = write(tmp_path / "plain.jsonl", lambda row: dataclasses.replace(row, detections=None))
    with pytest.raises(ResultsError, match="expected stored detections, got none"):
        judge_grid(read_results(plain), ["confidence=.1:.5:.1"])

    def without_colours(row):
        return dataclasses.replace(row, detections=row.detections.with_color(None))

    blind = write(tmp_path / "blind.jsonl", without_colours)
    with pytest.raises(ResultsError, match=r"blind\.jsonl: .*png: color: expected colour probabilities"):
        judge_grid(read_results(blind), ["confidence=.1:.5:.1"])


def test_tables_and_pictures(tmp_path, results) -> None:
    one = judge_grid(results, ["confidence=.1:.9:.2"], draws=100)
    (table,) = one.document().tables
    header, rows = table.header, table.rows
    assert header == ["confidence", "overall", *TAGS]
    assert [row[0] for row in rows] == ["0.1", "0.3", "0.5", "0.7", "0.9"]
    axes = plot(one).axes[0]
    assert len(axes.lines) == 8, "six tasks, the overall and the rule in force"
    two = judge_grid(results, ["confidence=.1:.9:.2", "position=0:.3:.1"], draws=100)
    (table,) = two.document().tables
    header, rows = table.header, table.rows
    assert header == ["confidence \\ position", "0", "0.1", "0.2", "0.3"]
    assert len(rows) == 5
    assert rows[1][2] == f"{two.cells[5].overall.value:.3f}"
    assert plot(two).axes[0].images[0].get_array().shape == (5, 4)
    record = two.to_dict()
    assert json.loads(json.dumps(record)) == record
    with Image.open(save_plot(two, tmp_path / "x.png")) as image:
        assert image.width > 800
    with pytest.raises(ValueError, match="expected a picture file"):
        save_plot(one, tmp_path / "x.txt")


def test_command(tmp_path, results, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")

    def run(*args):
        return CliRunner().invoke(app, ["summary", str(results.path), *args])

    shown = run("--rules", "confidence=.1:.9:.4")
    assert shown.exit_code == run().exit_code == 1, "30 of 553 prompts, as without a grid"
    assert "overall" in shown.stdout
    assert "was found on these images" in " ".join(shown.stderr.split())
    assert (tmp_path / "r.rules.png").exists()
    for form in ("json", "csv", "markdown", "latex"):
        text = run(
            "--rules",
            "confidence=.1:.9:.4",
            "--rules",
            "position=.1:.2:.1",
            "-f",
            form,
            "--plot",
            str(tmp_path / "p.svg"),
        )
        assert text.exit_code == 1
        assert len(json.loads(text.stdout)["cells"]) == 6 if form == "json" else "0.9" in text.stdout
    assert (tmp_path / "p.svg").exists()
    assert isinstance(run("--plot", "p.png").exception, ValueError)
    rows = list(csv.DictReader(io.StringIO(run("--rules", "confidence=.1:.9:.4", "-f", "csv").stdout)))
    assert [row["task"] for row in rows if row["confidence"] == "0.5"] == ["overall", *TAGS]
    assert all(0 <= float(row["low"]) <= float(row["value"]) <= float(row["high"]) <= 1 for row in rows)
    assert all("counting_confidence=0.9" in row["other_rules"] for row in rows)
    # Plain rules still judge once, also when given in parts.
    one = json.loads(run("--rules", "geneval,confidence=0.9", "-f", "json").stdout)
    parts = json.loads(run("--rules", "geneval", "--rules", "confidence=0.9", "-f", "json").stdout)
    assert one == parts
    assert one["rejudged"]


def test_what_weakens_a_summary_weakens_its_grid(tmp_path) -> None:
    path = write(tmp_path / "r.jsonl", lambda row: dataclasses.replace(row, best_of=4, rewritten="a longer text"))
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, lines[0]]))
    results = read_results(path)
    grid = judge_grid(results, ["confidence=.1:.9:.4"], draws=100)
    problems = summarize(results, draws=100).problems
    assert list(grid.notes[1:]) == problems
    for words in ("523 of 553 prompts are missing", "best of 4", "rewritten prompts", "1 image occurs more than once"):
        assert any(words in note for note in grid.notes)
    assert not grid.complete
    assert grid.to_dict()["complete"] is False


def test_a_sound_set_of_ones_own_ends_well(tmp_path) -> None:
    def own(row):
        record = json.dumps(json.loads(row.spec.to_json()) | {"prompt": f"my {row.spec.prompt}"})
        spec = PromptSpec.parse(record)
        return dataclasses.replace(row, prompt=spec.prompt, metadata=spec.to_json())

    path = write(tmp_path / "own.jsonl", own)
    assert CliRunner().invoke(app, ["summary", str(path), "--rules", "confidence=.1:.9:.4"]).exit_code == 0
    assert judge_grid(read_results(path), ["confidence=.1:.9:.4"], draws=100).complete
