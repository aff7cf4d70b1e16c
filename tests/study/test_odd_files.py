"""Results files as nobody should write them: every command ends with a sentence of ours, and never with a traceback."""

import json
import warnings

import pytest
from made_up_results import synthetic_rows
from simulated_runs import simulate_runs

from geneval_reward.errors import GenEvalError
from geneval_reward.judge import Detections, judge
from geneval_reward.prompts import official_suite
from geneval_reward.results import ResultRow, ResultWriter, read_results
from geneval_reward.results.tables import FORMATS, render
from geneval_reward.study.compare import compare_results
from geneval_reward.study.compare.render import document
from geneval_reward.study.report.collect import collect
from geneval_reward.study.report.html import write_html
from geneval_reward.study.report.text import document as report_document
from geneval_reward.study.rules_grid import judge_grid
from geneval_reward.study.summary import summarize

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
OFFICIAL = ("filename", "tag", "prompt", "correct", "reason", "metadata", "details")
ODD = [None, True, -1, 10**30, "x", "", [], [[]], {}, {"a": {}}, "10" * 400, "\u2028[/x]=1", ["\x00"]]
RAW = ["1e999", "-1e999", "1" + "0" * 400, "NaN", "[" * 3000 + "]" * 3000]
PLACES = [
    ("filename",), ("tag",), ("prompt",), ("correct",), ("reason",), ("metadata",), ("details",),
    ("index",), ("seed",), ("credits",), ("credits", "partial"), ("image_size",), ("image_size", 0), ("rules",),
    ("rules", "confidence"), ("backend",), ("fingerprint",), ("schema",), ("rewritten",), ("best_of",),
    ("min_confidence",), ("clauses",), ("detections",), ("detections", "confidence"), ("detections", "confidence", 0),
    ("detections", "boxes"), ("detections", "boxes", 0), ("detections", "xyxy"), ("detections", "xyxy", 0),
]  # fmt: skip


@pytest.fixture(scope="module")
def lines():
    runs = simulate_runs([dict.fromkeys(TAGS, 0.6)], prompts=dict.fromkeys(TAGS, 2), images_per_prompt=2, seed=1)
    return [json.loads(row.to_json()) for row in synthetic_rows(runs)]


def attempts(path, other):
    """Everything that the commands do with a results file."""

    def report():
        made = collect([path], draws=100)
        write_html(made, path.with_suffix(".html"), max_bytes=300_000, workers=1)
        return report_document(made)

    yield lambda: summarize(read_results(path), draws=100).document()
    yield lambda: summarize(read_results(path), "partial", "confidence=.5", draws=100).document()
    yield lambda: judge_grid(read_results(path), ["confidence=.3:.9:.6"], draws=100).document()
    yield lambda: document(compare_results([read_results(path), read_results(other)], draws=100))
    yield report


def check(path, other):
    for attempt in attempts(path, other):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            try:
                made = attempt()
            except GenEvalError:
                continue
        for format in FORMATS:
            render(made, format)


def changed(record, place, value):
    record = json.loads(json.dumps(record))
    *way, last = place
    at = record
    try:
        for key in way:
            at = at[key]
        at[last]
        at[last] = value
    except (KeyError, IndexError, TypeError):
        return None
    return record


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_one_odd_value_is_a_result_or_a_sentence(lines, tmp_path, place):
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for number, value in enumerate([*ODD, *RAW]):
        record = changed(lines[0], place, "@@" if value in RAW else value)
        if record is None:
            return
        text = json.dumps(record)
        text = text.replace('"@@"', value) if value in RAW else text
        path = tmp_path / f"{number}.jsonl"
        path.write_text("\n".join([text, *map(json.dumps, lines[1:])]) + "\n")
        check(path, other)


@pytest.mark.parametrize(
    "details",
    [
        '{"%s": [[1e999, 0, 1, 1, 0.5]]}',
        '{"%s": [[1%s, 0, 1, 1, 0.5]]}',
        '{"%s": [[0, 0, 1, 1, 1e999]]}',
        "[" * 9000,
        '{"%s": 1}',
    ],
)
def test_odd_boxes_of_the_official_script(lines, tmp_path, details):
    records = [{key: line[key] for key in OFFICIAL} for line in lines]
    name = json.loads(records[0]["metadata"])["include"][0]["class"]
    records[0]["details"] = details.replace("%s", name, 1).replace("%s", "0" * 400)
    path = tmp_path / "official.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    with pytest.raises(GenEvalError, match="details: expected an object of lists"):
        collect([path], draws=100)
    check(path, path)


def test_a_full_disk_leaves_the_old_report_whole(lines, tmp_path, monkeypatch):
    rows = tmp_path / "r.jsonl"
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    made = collect([rows], draws=100)
    page = write_html(made, tmp_path / "old.html", max_bytes=300_000)
    before = page.read_bytes()

    def no_space(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        write_html(made, page, max_bytes=200_000)
    assert page.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old.html", "r.jsonl"]


def test_a_report_of_a_name_that_is_not_utf8(tmp_path) -> None:
    """Linux allows any bytes in file names; JSON holds them as lone surrogates."""
    spec = official_suite()[0]
    row = ResultRow.from_verdict(judge(spec, Detections.empty((64, 64))), "caf\udce9.png")
    path = tmp_path / "r.jsonl"
    with ResultWriter(path) as writer:
        writer.write([row])
    page = write_html(collect([path]), tmp_path / "r.html")
    assert "caf?.png" in page.read_text("utf-8")
