"""One notation in the output of every command: `docs/notation.md` says what is tested here."""

import csv
import io
import itertools
import json
import re

import pytest
import typer
from made_up_results import write_synthetic
from simulated_runs import simulate_runs
from typer.testing import CliRunner

from geneval_reward.cli import app
from geneval_reward.cli.shared.tables import print_document
from geneval_reward.prompts.vocabulary import TAGS
from geneval_reward.results import read_results
from geneval_reward.stats import Difference, Estimate, Interval
from geneval_reward.study.sweep.grid import make_cells
from geneval_reward.study.sweep.table import SweepRow, SweepTable
from geneval_reward.study.sweep.timing import Timing

FORMATS = ("table", "markdown", "latex", "csv", "json")
COMMANDS = {
    "summary": "summary a.jsonl",
    "one prompt per task, graded": "summary one.jsonl --credit partial",
    "other rules": "summary a.jsonl --rules confidence=0.5",
    "a range of rules": "summary a.jsonl --rules confidence=.3:.5:.1",
    "two ranges": "summary a.jsonl --rules confidence=.3:.5:.1 --rules position=.1:.2:.1",
    "compare": "compare a.jsonl b.jsonl",
    "compare three": "compare a.jsonl b.jsonl c.jsonl",
    "compare one prompt": "compare few.jsonl other.jsonl",
    "report": "report a.jsonl b.jsonl",
    "audit": "audit a.jsonl --second b.jsonl",
    "human-agreement": "human-agreement people.csv a.jsonl",
    "mt-geneval": "mt-geneval data said",
}
# They print no score, or end with the table of `summary`; the table of `sweep` is tested below, and `geneval2` with its model.
OTHERS = {
    *(
        "annotate",
        "score",
        "demo",
        "doctor",
        "generate",
        "geneval2",
        "parity",
        "prompts",
        "recipes",
        "search",
        "serve",
        "surgery",
        "sweep",
        "weights",
    ),
}
SHARE, POINTS, KAPPA = r"\d\.\d{3}", r"[+-]\d+\.\d", r"-?\d\.\d{2}"
BRACKETS = re.compile(rf"\[({SHARE}, {SHARE}|{POINTS}, {POINTS}|{KAPPA}, {KAPPA})\]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Results of three runs, of runs with one and two prompts a task, of people, and translations."""
    root = tmp_path_factory.mktemp("notation")
    for names, prompts in ((("a", "b", "c"), 4), (("one", "same"), 1), (("few", "other"), 2)):
        accuracies = [
            dict(zip(TAGS, shares, strict=True)) for shares in itertools.permutations((0.9, 0.7, 0.5, 0.4, 0.3, 0.6))
        ]
        runs = simulate_runs(
            accuracies[: len(names)], prompts=dict.fromkeys(TAGS, prompts), images_per_prompt=2, seed=3
        )
        for number, name in enumerate(names):
            write_synthetic(root / f"{name}.jsonl", runs, number)
    results = read_results(root / "a.jsonl")
    header = [
        "Input.prompt_id",
        "Input.image_id",
        "Input.image_url",
        "Input.caption",
        "Input.object_0_name",
        "Input.object_1_name",
    ]
    answers = ["count-0", "count-1", "color-0", "color-1", "position-x", "position-y", "quality"]
    with (root / "people.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*header, *(f"Answer.task-{name}" for name in answers)], restval="")
        writer.writeheader()
        for spec in results.specs():
            for place, _ in itertools.product(range(2), range(3)):
                row = dict.fromkeys(writer.fieldnames, "") | {
                    "Input.prompt_id": "0",
                    "Input.image_id": str(place),
                    "Input.image_url": f"https://x/images/sdv2/00000/samples/{place:05d}.png",
                    "Input.caption": spec.prompt,
                    "Answer.task-quality": "4",
                }
                for i, item in enumerate(spec.include):
                    row[f"Input.object_{i}_name"] = item.class_name
                    row[f"Answer.task-count-{i}"] = str(item.count)
                    row[f"Answer.task-color-{i}"] = item.color or "black"
                writer.writerow(row)
    wiki = root / "data" / "context"
    wiki.mkdir(parents=True)
    (root / "said").mkdir()
    for path, text in (
        (wiki / "geneval-context-wikiprofessions-2to1-test.en_de.en", "Before. <sep> The visitor came in number"),
        (wiki / "geneval-context-wikiprofessions-original-test.en_de.de", "Die Ärztin kam als Nummer"),
        (wiki / "geneval-context-wikiprofessions-flipped-test.en_de.de", "Der Arzt kam als Nummer"),
        (root / "said" / "context.de", "Die Ärztin kam als Nummer"),
    ):
        path.write_text("".join(f"{text} {n}\n" for n in range(5)), encoding="utf-8")
    return root


@pytest.fixture
def printed(folder, monkeypatch):
    """What a command prints in a format, at 80 columns."""
    monkeypatch.chdir(folder)

    def call(name, format):
        draws = ["--draws", "500"] if name.startswith("compare") and format == "table" else []
        words = COMMANDS[name].split()
        if words[0] == "report" and format == "table":
            pytest.skip("a report is a page, which tests/study/report reads")
        result = CliRunner(env={"COLUMNS": "80"}).invoke(app, [*words, "--format", format, *draws])
        assert result.exit_code in (0, 1), result.exception
        return result.stdout

    return call


def check_words(text):
    """What no format may hold."""
    assert not re.search(r"\b(nan|NaN|inf|None)\b", text)
    assert not re.search(r"(single|two) object|color attr\b", text)


def check_numbers(text):
    """Scores, differences and their intervals, as people read them."""
    check_words(text)
    text = text.replace("\\_", "_").replace("\\%", "%")
    assert not re.search(r"\btags?\b", text)
    assert not re.search(r"\d (to|\.\.) [+-]?\d|±|\+-\d|\d%", text)
    for found in re.findall(r"\[[^\]]*\]", text):
        assert BRACKETS.fullmatch(" ".join(found.split())), found
    # What stands before an interval has as many decimals as its ends.
    for number, low in re.findall(r"(\S+) \[(\S+),", text):
        if number[-1:].isdigit():
            assert len(number.partition(".")[2]) == len(low.partition(".")[2]), (number, low)
    for number in re.findall(r"(?<![\d.=])\d\.\d+(?![\d.])", re.sub(r"rules .*|other rules.*|judged by.*", "", text)):
        assert len(number) <= 5, f"a share with more than three decimals: {number}"


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("format", ["table", "markdown", "latex"])
def test_people_read_shares_points_and_square_brackets(printed, name, format):
    text = printed(name, format)
    check_numbers(text)
    if format == "table":
        assert max(map(len, text.splitlines())) <= 80
        assert "…" not in text


@pytest.mark.parametrize("name", COMMANDS)
def test_csv_is_for_machines(printed, name):
    text = printed(name, "csv")
    check_words(text)
    header, *rows = csv.reader(io.StringIO(text))
    assert rows
    assert len(set(header)) == len(header)
    words = {
        "task",
        "run",
        "against",
        "kind",
        "cause",
        "rules",
        "other_rules",
        "source",
        "rewritten",
        "language",
        "set",
    }
    for column in header:
        if column.endswith("low"):
            assert header.index(column) + 1 == header.index(f"{column[:-3]}high")
            assert header.index(column) - 1 == header.index(column[:-4] or "value")
    for row in rows:
        assert len(row) == len(header)
        for column, cell in zip(header, row, strict=True):
            if column not in words and cell:
                float(cell)
    tasks = {row[header.index("task")] for row in rows if "task" in header}
    assert tasks <= {
        *TAGS,
        "overall",
        "all",
        "images_correct",
        "prompts_correct",
        "",
        *(f"pass@{k}" for k in (1, 2, 4)),
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_json_is_for_machines(printed, name):
    check_words(printed(name, "json").replace("null", ""))

    def walk(value):
        if isinstance(value, dict):
            if "low" in value and "value" in value:
                assert value["low"] is None or value["low"] <= value["value"] <= value["high"]
            assert not value.keys() & {"single object", "two object", "color attr"}
            for item in value.values():
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)

    walk(json.loads(printed(name, "json")))


@pytest.mark.parametrize("name", ["summary", "compare", "report"])
@pytest.mark.parametrize("format", FORMATS)
def test_pass_at_k_is_in_every_format(printed, name, format):
    if (name, format) == ("report", "table"):
        pytest.skip("a report is a page")
    text = printed(name, format)
    assert "pass_at_k" in text if format == "json" else "pass@2" in text


def test_every_command_is_walked_over():
    walked = {line.split()[0] for line in COMMANDS.values()}
    assert walked | OTHERS == set(typer.main.get_command(app).commands)


def test_a_sweep_follows_too(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    unknown = Interval(float("nan"), float("nan"), 0.95, "none")
    scores = (
        Estimate(0.5, Interval(0.4, 0.6, 0.95, "bootstrap"), 0.05, 10, 10),
        Estimate(0.625, unknown, 0.05, 10, 10),
    )
    change = Difference(0.5, 0.625, 0.125, Interval(-0.1, 0.35, 0.95, "t"), 0.1, 0.2, 0.3, 0.28, 10, 10)
    times = (Timing(1.234, 1.1, 1.4, 10), Timing(2.5, float("nan"), float("nan"), 3))
    cells = make_cells({"guidance_scale": [1, 3.5], "num_inference_steps": [28], "precision": ["bf16"]})
    rows = tuple(
        SweepRow(cell, score, {}, time, difference, best, True, "results.jsonl")
        for cell, score, time, difference, best in zip(cells, scores, times, (None, change), (False, True), strict=True)
    )
    document = SweepTable(rows, None, 10, 10, 1, 0.95, (), "lite").document()
    print_document(document, "table")
    text = capsys.readouterr().out
    check_words(text)
    assert max(map(len, text.splitlines())) <= 80
    for words in ("0.500 [0.400, 0.600]", "0.625 ", "1.23 [1.1, 1.4]", "+12.5"):
        assert words in text or all(word in text for word in words.split(" ", 1))
    print_document(document, "csv")
    header, *lines = csv.reader(io.StringIO(capsys.readouterr().out))
    assert header[3:] == [
        *("value", "low", "high", "images", "prompts", "seconds_per_image", "seconds_low", "seconds_high"),
        *("difference", "p_holm", "selected", "front", "results"),
    ]
    assert len(lines) == 2
