"""The page, parsed: it says what the file says, whatever the file holds, and asks nobody for anything."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from geneval_reward.errors import ResultsError
from geneval_reward.prompts import PromptSpec
from geneval_reward.results import FailedImage, GeneratorNotes, ResultWriter
from geneval_reward.study.report.collect import collect
from geneval_reward.study.report.html import write_html
from geneval_reward.study.summary import summarize

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


class Page(HTMLParser):
    """Elements with their attributes, visible text, and the gallery's data."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.text, self.scripts, self._in = [], [], [], None
        self.feed(path.read_text(encoding="utf-8"))
        self.data = json.loads(self.scripts[0])

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._in = tag if tag in ("script", "style") else None

    def handle_endtag(self, tag):
        self._in = None

    def handle_data(self, data):
        if self._in == "script":
            self.scripts.append(data)
        elif self._in is None:
            self.text.append(data)

    @property
    def words(self):
        return re.sub(r"\s+", " ", " ".join(self.text))

    def sides(self, run=0):
        return [item[2][run] for item in self.data["items"]]


@pytest.fixture
def page(tmp_path):
    def make(paths, *arguments, **options):
        report = collect(paths, *arguments, draws=200, command="geneval-reward report it", **options)
        return Page(write_html(report, tmp_path / "out" / "report.html", max_bytes=2_000_000, now=0.0)), report

    return make


def test_a_run(write, rows, page):
    path = write("a", rows[0])
    shown, report = page([path])
    summary = summarize(report.runs[0].results, draws=200)
    assert f"{summary.scores.overall.value:.3f} overall" in shown.words
    interval = summary.scores.overall.interval
    assert f"95 % interval [{interval.low:.3f}, {interval.high:.3f}]" in shown.words
    assert "PARTIAL: 18 of 553 prompts" in shown.words
    assert "535 of 553 prompts are missing" in shown.words
    assert not report.complete
    assert report.runs[0].sha256 in shown.words
    assert "geneval-reward report it" in shown.words
    assert "synthetic synthetic" in shown.words
    # Published rows stand beside, with their source.
    assert len(report.runs[0].published) == 5
    for row in report.runs[0].published:
        assert row.model in shown.words
        assert row.source in shown.words
    assert "✎ rewritten" in shown.words
    sides = shown.sides()
    assert len(sides) == len(rows[0])
    for side, row in zip(sides, rows[0], strict=True):
        assert side["v"] == int(row.correct)
        assert side["n"] == row.filename
        assert side["s"] == str(row.seed)
        assert [shown.data["reasons"][i] for i in side.get("r", [])] == row.reason.split("\n" if row.reason else "-")[
            : len(side.get("r", []))
        ]
        assert len(side["p"]) > 50
        counted = sum(len(boxes) for boxes in json.loads(row.details).values())
        assert sum(box[6] for box in side["b"]) == counted
        assert all(0 <= value <= 1000 for box in side["b"] for value in box[1:5])


def test_nothing_is_asked_of_anybody(write, rows, page):
    shown, _ = page([write("a", rows[0]), write("b", rows[1])])
    for tag, attributes in shown.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "srcset", "poster", "action", "data"):
            value = attributes.get(name) or ""
            assert value.startswith(("data:image/webp;base64,", "#")) or not value, (tag, name, value)
        assert not any(name.startswith("on") for name in attributes)
    policy = next(a["content"] for tag, a in shown.elements if tag == "meta" and "Policy" in a.get("http-equiv", ""))
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "@import" not in " ".join(shown.scripts)
    assert len(shown.scripts) == 2


def test_hostile_text_stays_text(write, rows, page, tmp_path):
    spec = PromptSpec.parse({"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": EVIL})
    row = replace(
        rows[0][0],
        filename=f"{EVIL}.png".replace("/", "_"),
        prompt=EVIL,
        metadata=spec.to_json(),
        correct=False,
        reason=EVIL,
        rewritten=EVIL,
    )
    path = write("a", [row], pictures=False)
    (path.parent / "generate.json").write_text(json.dumps({EVIL: EVIL}))
    shown, _ = page([path], title=EVIL, names=[EVIL])
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert EVIL not in text
    assert "onerror" not in {name for _, attributes in shown.elements for name in attributes}
    assert sum(tag == "script" for tag, _ in shown.elements) == 2
    assert shown.data["prompts"][0][0] == EVIL
    assert shown.words.count("<script>alert(1)</script>") >= 4


def test_pictures_that_are_gone_or_broken_or_others(write, rows, page):
    path = write("a", rows[0], size=(128, 64))
    (path.parent / rows[0][0].filename).unlink()
    (path.parent / rows[0][1].filename).write_text("no image")
    shown, report = page([path])
    sides = shown.sides()
    assert len(sides) == len(rows[0])
    assert sides[0]["m"] == "image not found"
    assert "p" not in sides[0]
    assert "u" not in sides[0]
    assert sides[0]["b"]
    assert sides[1]["m"] == "image cannot be read: not an image"
    assert sides[2]["m"] == "the file is 128 x 64 pixels now and was 512 x 512 when it was judged: another image?"
    assert f"1 of {len(rows[0])} images were not found beside the results" in shown.words
    assert report.runs[0].missing == 1


def test_all_pictures_moved(write, rows, page):
    shown, report = page([write("a", rows[0], pictures=False)])
    assert report.runs[0].missing == len(rows[0])
    assert (
        f"{len(rows[0])} of {len(rows[0])} images were not found beside the results; name their folder with --images"
        in shown.words
    )
    assert all(side["m"] == "image not found" for side in shown.sides())


def test_failed_rewritten_and_chosen_images_are_flagged(tmp_path, rows, page):
    notes = GeneratorNotes(negative_prompt="blurry")
    changed = [
        replace(rows[0][0], rewritten="a dog, 8k", generator=notes),
        replace(rows[0][1], best_of=4),
        *rows[0][2:8],
    ]
    path = tmp_path / "a.jsonl"
    with ResultWriter(path) as writer:
        writer.write([*changed, FailedImage("x/9.png", "cannot be decoded")])
    shown, report = page([path])
    for words in (
        "1 image was generated from rewritten prompts",
        "1 image was chosen by this very metric, best of 4",
        "1 image could not be scored, such as x/9.png: cannot be decoded",
        "rewritten prompts negative prompt 'blurry' best of 4 1 not scored",
    ):
        assert words in shown.words
    sides = shown.sides()
    assert sides[0]["w"] == "a dog, 8k"
    assert sides[1]["o"] == 4
    assert sides[-1]["v"] == 2
    assert shown.data["reasons"][sides[-1]["r"][0]] == "cannot be decoded"
    assert not report.complete


def test_the_official_scripts_file(tmp_path, rows, official, page):
    lines = [official(replace(row, filename=f"/home/me/out/{row.filename}")) for row in rows[0]]
    (tmp_path / "results.jsonl").write_text("\n".join(lines) + "\n")
    shown, report = page([tmp_path / "results.jsonl"])
    assert "written by the official script" in shown.words
    assert report.runs[0].thresholds == ()
    assert "Confidence around the thresholds" not in shown.words
    counted = [sum(len(b) for b in json.loads(row.details).values()) for row in rows[0]]
    assert [len(side["b"]) for side in shown.sides()] == counted


def test_a_cut_line_a_double_and_two_judges_are_said(write, rows, page):
    path = write("a", rows[0][:9], duplicate=rows[0][0])
    with path.open("a") as file:
        file.write(replace(rows[0][10], fingerprint="other").to_json() + "\n" + rows[0][11].to_json()[:99])
    shown, report = page([path])
    assert "more than one judge in this file: fingerprint synthetic / other" in shown.words
    assert "line 12 is cut off" in shown.words
    assert f"{rows[0][0].filename}: 2 lines" in shown.words
    assert report.runs[0].thresholds == ()
    assert len(shown.sides()) == 11


def test_verdicts_that_the_detections_do_not_give(write, rows, page):
    forged = replace(rows[0][0], correct=not rows[0][0].correct, reason="" if rows[0][0].reason else "because")
    shown, _ = page([write("a", [forged, *rows[0][1:]])])
    assert f"1 verdict is not what the stored detections give, such as {forged.filename}" in shown.words


def test_a_comparison(write, rows, page):
    paths = [write("a", rows[0]), write("b", rows[1])]
    shown, report = page(paths)
    pair = report.comparison.pairs[0]
    assert pair.message in shown.words
    counts = pair.comparison.overall.counts
    right, wrong = report.changed(1)
    assert (len(right), len(wrong)) == (counts.only_b, counts.only_a)
    assert f"newly right: {counts.only_b} image" in shown.words
    assert f"newly wrong: {counts.only_a} image" in shown.words
    assert shown.data["pairing"] == ["image"]
    for item in shown.data["items"]:
        a, b = item[2]
        assert (a["n"], a["s"]) == (b["n"], b["s"])
    assert len(shown.data["items"]) == len(rows[0])


def test_other_noise_is_said(write, rows, page):
    moved = [replace(row, seed=row.seed + 7) for row in rows[1]]
    shown, _ = page([write("a", rows[0]), write("b", moved)])
    assert shown.data["pairing"] == ["prompt"]
    assert "OTHER noise" in shown.words
    assert "different seeds" in shown.words


def test_images_that_one_run_lacks(write, rows, page):
    shown, _ = page([write("a", rows[0]), write("b", rows[1][1:]), write("c", rows[1])])
    assert shown.data["items"][0][2][1] is None
    assert shown.data["items"][0][2][2] is not None
    assert "has no partner" in shown.words


def test_what_is_refused(write, rows, tmp_path):
    a, b = write("a", rows[0]), write("b", [replace(row, fingerprint="other") for row in rows[1]])
    with pytest.raises(ResultsError, match="not comparable"):
        collect([a, b])
    assert collect([a, b], allow=["fingerprint"], draws=200).comparison is not None
    with pytest.raises(ValueError, match="a folder for each of the 2 results files, got 1"):
        collect([a, b], [a.parent])
    with pytest.raises(ValueError, match="expected 1 different names"):
        collect([a], names=["x", "y"])
    with pytest.raises(ValueError, match="at least one results file"):
        collect([])
    with pytest.raises(ResultsError, match="got none"):
        collect([tmp_path / "nowhere.jsonl"])
    with pytest.raises(ResultsError, match="details: expected an object of lists"):
        collect([write("c", [replace(rows[0][0], details="[1]", detections=None)], pictures=False)])


def test_the_page_is_as_large_as_asked(write, rows, tmp_path):
    report = collect([write("a", rows[0][:12], size=(512, 512))], draws=200)
    sizes = [write_html(report, tmp_path / "r.html", max_bytes=size).stat().st_size for size in (110_000, 250_000)]
    assert sizes[0] <= 110_000 < sizes[1] <= 250_000
    with pytest.raises(ValueError, match="max_bytes"):
        write_html(report, tmp_path / "r.html", max_bytes=0)


def test_equal_input_gives_an_equal_page(write, rows, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    path = write("a", rows[0])
    pages = [write_html(collect([path], draws=200), tmp_path / f"{i}.html").read_bytes() for i in range(2)]
    assert pages[0] == pages[1]
    assert b"2023-11-14 22:13 UTC" in pages[0]


def test_a_custom_suite_has_no_published_neighbours(write, rows, page):
    spec = PromptSpec.parse(
        {"tag": "colors", "include": [{"class": "dog", "count": 1, "color": "red"}], "prompt": "one red dog"}
    )
    mine = [
        replace(row, metadata=spec.to_json(), prompt="one red dog", tag="colors", detections=None)
        for row in rows[0][:2]
    ]
    shown, report = page([write("a", mine, pictures=False)])
    assert report.runs[0].published == ()
    assert "these are not the official prompts" in shown.words
    assert "not the official suite: 1 prompt" in shown.words


def test_a_run_without_all_tasks_is_not_put_beside_whole_scores(write, rows, page):
    some = [row for row in rows[0] if row.tag in ("colors", "counting")]
    shown, report = page([write("a", some)])
    assert "overall of 2 of 6 tasks" in shown.words
    assert "mean of 2 of 6 tasks" in shown.words
    row = report.runs[0].published[0]
    assert f"{(row.tags['colors'] + row.tags['counting']) / 2:.2f}" in shown.words
    assert "no images for single_object, two_object, position, color_attr" in shown.words
