"""Results files as columns: ours, the official script's, and damaged ones."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up_results import synthetic_rows, write_synthetic
from simulated_runs import SUITE_PROMPTS, simulate_runs

from geneval_reward.errors import ResultsError
from geneval_reward.results import FailedImage, GeneratorNotes, ResultRow, read_results, reader
from geneval_reward.results.record import OFFICIAL_KEYS
from geneval_reward.stats import clustered_bootstrap

RUNS = simulate_runs(prompts=dict.fromkeys(SUITE_PROMPTS, 4), images_per_prompt=3, seed=1)
ROWS = list(synthetic_rows(RUNS))
LINES = [row.to_json() for row in ROWS]


def written(path, lines, end="\n"):
    path.write_text("\n".join(lines) + end, encoding="utf-8")
    return path


def official(line, **changes):
    record = json.loads(line)
    return json.dumps({key: record[key] for key in OFFICIAL_KEYS} | changes)


def test_results_show_themselves(tmp_path):
    results = read_results(write_synthetic(tmp_path / "a.jsonl", RUNS))
    correct = int(RUNS.correct[0].sum())
    assert repr(results) == (
        f"Results('a.jsonl': 72 images of 24 prompts, {correct} correct, 0 failed; judged by synthetic)"
    )
    html = results._repr_html_()
    scores = clustered_bootstrap(RUNS.correct[0], RUNS.prompt, RUNS.tag, draws=2000)
    for one in (scores.overall, *scores.tags.values()):
        assert f"<td>{one.value:.3f} [{one.interval.low:.3f}, {one.interval.high:.3f}]</td>" in html
    assert html.count("<tr") == 8


def test_results_as_a_data_frame(tmp_path):
    results = read_results(write_synthetic(tmp_path / "a.jsonl", RUNS))
    frame = results.to_pandas()
    assert len(frame) == 72
    assert frame["filename"].tolist() == results.filenames
    assert frame["prompt"].tolist() == [row.prompt for row in ROWS]
    assert frame["seed"].tolist() == results.seeds
    assert frame["backend"].unique().tolist() == ["synthetic"]
    assert frame["dense"].tolist() == pytest.approx([row.credits["dense"] for row in ROWS])
    by_task = frame.groupby("task")["correct"].mean()
    assert by_task.mean() == pytest.approx(clustered_bootstrap(RUNS.correct[0], RUNS.prompt, RUNS.tag).overall.value)


def test_columns_are_those_of_the_rows(tmp_path):
    results = read_results(write_synthetic(tmp_path / "a.jsonl", RUNS))
    assert len(results) == 72
    assert np.array_equal(results.correct, RUNS.correct[0])
    assert np.array_equal(results.index, RUNS.index)
    assert results.tags.tolist() == RUNS.tag.tolist()
    assert results.prompt_ids.tolist() == RUNS.prompt.tolist()
    assert results.reasons == [row.reason for row in ROWS]
    assert results.seeds == [row.seed for row in ROWS]
    for name in ("official", "strict", "partial", "dense", "flow_grpo"):
        assert results.credit(name).tolist() == [row.credits[name] for row in ROWS]
    assert results.identity == ROWS[0].identity
    assert [spec.to_json() for spec in results.specs()] == results.records
    assert results.duplicates() == []
    assert not results.official


def test_rows_are_read_in_full_on_demand(tmp_path):
    results = read_results(written(tmp_path / "a.jsonl", LINES))
    assert [row.to_json() for row in results.rows()] == LINES
    assert [row.verdict().correct for row in results.rows()] == results.correct.tolist()


def test_notes_of_generators_are_collected(tmp_path):
    notes = GeneratorNotes(template='Draw ,"clauses": {prompt}')
    lines = [*LINES[:3], *(replace(row, generator=notes).to_json() for row in ROWS[3:6])]
    assert read_results(written(tmp_path / "a.jsonl", lines)).generators == [notes]
    assert read_results(written(tmp_path / "b.jsonl", LINES)).generators == []


def test_an_official_file_gives_the_same_scores(tmp_path):
    ours = read_results(written(tmp_path / "a.jsonl", LINES))
    theirs = read_results(written(tmp_path / "b.jsonl", [official(line) for line in LINES]))
    assert theirs.official
    assert np.array_equal(theirs.correct, ours.correct)
    assert np.array_equal(theirs.prompt_ids, ours.prompt_ids)
    assert np.array_equal(theirs.index, ours.index)
    assert theirs.records == ours.records
    assert theirs.credit("official").tolist() == ours.correct.tolist()
    with pytest.raises(ResultsError, match="'dense' in every line, got official"):
        theirs.credit("dense")


def test_records_spelt_otherwise_are_one_prompt(tmp_path):
    record = json.loads(json.loads(LINES[0])["metadata"])
    spelt = json.dumps(dict(reversed(record.items())), separators=(",", ":"))
    lines = [official(LINES[0]), official(LINES[1], metadata=spelt)]
    results = read_results(written(tmp_path / "a.jsonl", lines))
    assert results.prompt_ids.tolist() == [0, 0]


def test_keys_that_are_not_read_are_named(tmp_path):
    with pytest.warns(UserWarning, match="keys that are not read: step"):
        assert len(read_results(written(tmp_path / "a.jsonl", [official(LINES[0], step=5)]))) == 1


def test_failed_images_have_no_row_and_a_later_score_wins(tmp_path):
    failures = [FailedImage("x.png", "truncated").to_json(), FailedImage(ROWS[3].filename, "no memory").to_json()]
    results = read_results(written(tmp_path / "a.jsonl", failures + LINES))
    assert len(results) == 72
    assert results.failed == {"x.png": "truncated"}


@pytest.mark.parametrize("keep", [1, 40, 700, -1])
def test_a_cut_last_line_is_left_out_and_named(tmp_path, keep):
    path = written(tmp_path / "a.jsonl", [*LINES[:5], LINES[5][:keep]], end="")
    with pytest.warns(UserWarning, match="a.jsonl line 6: the last line is cut off"):
        results = read_results(path)
    assert len(results) == 5
    assert results.cut.number == 6
    assert path.read_bytes()[results.cut.offset :] == LINES[5][:keep].encode()


def test_a_whole_last_line_without_newline_counts(tmp_path):
    assert len(read_results(written(tmp_path / "a.jsonl", LINES[:5], end=""))) == 5


@pytest.mark.parametrize("keep", [1, 40, 300, 600, 700, -40, -3, -1])
def test_a_cut_line_in_the_middle_is_an_error(tmp_path, keep):
    for glue in ("\n", ""):
        path = tmp_path / "a.jsonl"
        path.write_text("\n".join([*LINES[:2], LINES[2][:keep] + glue + LINES[3], *LINES[4:6], ""]))
        with pytest.raises(ResultsError, match=r"a\.jsonl line 3: "):
            read_results(path)


def test_every_cut_of_a_line_in_the_middle_is_found(tmp_path):
    # No prefix of a line may pass for the line.
    path = tmp_path / "a.jsonl"
    colour = next(line for line in LINES if '"color":[' in line)
    for keep in range(1, len(colour), 7):
        path.write_text("\n".join([LINES[0], colour[:keep], LINES[1], ""]))
        with pytest.raises(ResultsError):
            read_results(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got an empty file"),
        (b"\x89PNG\r\n\x1a\n\x00\xff\n", "is this a results file"),
        (b'[{"filename": "a"}]\n', "got a JSON list"),
        (b"filename,tag\n", "expected a JSON object"),
        (b'{"filename": 3, "error": "x"}\n', "expected strings filename and error"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(ResultsError, match=message):
        read_results(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ResultsError, match=r"nothing\.jsonl: expected a results file, got none"):
        read_results(tmp_path / "nothing.jsonl")


def test_a_bad_record_names_its_line(tmp_path):
    with pytest.raises(ResultsError, match="line 2: metadata: include"):
        read_results(written(tmp_path / "a.jsonl", [LINES[0], official(LINES[1], metadata='{"tag": "colors"}')]))


def test_a_mixed_file_has_no_single_judge(tmp_path):
    other = json.loads(LINES[1])
    other["rules"]["confidence"] = 0.5
    results = read_results(written(tmp_path / "a.jsonl", [LINES[0], json.dumps(other), LINES[2]]))
    assert results.identity_ids.tolist() == [0, 1, 0]
    with pytest.raises(ResultsError, match=r"line 1 and line 2 that differ: rules confidence 0\.3 / 0\.5"):
        _ = results.identity


def test_duplicates_are_named(tmp_path):
    moved = json.loads(LINES[3])
    moved["filename"] = "elsewhere/0000.png"
    lines = [*LINES[:4], LINES[1], json.dumps(moved), *LINES[5:]]
    results = read_results(written(tmp_path / "a.jsonl", lines))
    assert results.duplicates() == [
        f"{ROWS[1].filename}: 2 lines",
        f"image 0 of {ROWS[3].prompt!r}: {ROWS[3].filename}, elsewhere/0000.png",
    ]


def test_rewritten_prompts_and_chosen_images_are_seen(tmp_path):
    row = ROWS[0]
    values = {**row.__dict__, "rewritten": "longer", "best_of": 4}
    values.pop("spec", None)
    results = read_results(written(tmp_path / "a.jsonl", [ResultRow(**values).to_json(), LINES[1]]))
    assert results.rewritten.tolist() == [True, False]
    assert results.best_of.tolist() == [4, 0]


def test_the_order_of_the_keys_does_not_matter(tmp_path):
    records = [json.loads(line) for line in LINES[:6]]
    turned = [json.dumps(dict(reversed(record.items())), separators=(",", ":")) for record in records]
    a, b = (
        read_results(written(tmp_path / name, lines)) for name, lines in (("a.jsonl", LINES[:6]), ("b.jsonl", turned))
    )
    assert a.filenames == b.filenames
    assert a.records == b.records
    assert a.identities == b.identities
    assert a.seeds == b.seeds
    assert {name: column.tolist() for name, column in a.credits.items()} == {
        name: column.tolist() for name, column in b.credits.items()
    }


@pytest.mark.parametrize("key", ["metadata", "details", "rules", "clauses"])
def test_a_key_inside_a_string_is_no_key(tmp_path, key):
    record = json.loads(LINES[0]) | {"reason": f'x","{key}":"y', "prompt": f'"{key}":'}
    results = read_results(written(tmp_path / "a.jsonl", [json.dumps(record, separators=(",", ":"))]))
    assert results.reasons == [f'x","{key}":"y']


@pytest.mark.parametrize("key", ["metadata", "details", "rules"])
def test_a_key_of_a_nested_object_is_no_key(tmp_path, key):
    record = json.loads(LINES[0])
    record["credits"] = {"official": 1.0, key: 0.5}
    line = json.dumps(record, separators=(",", ":"))
    results = read_results(written(tmp_path / "a.jsonl", [line]))
    assert results.credits[key].tolist() == [0.5]
    assert results.identities[0].rules == read_results(written(tmp_path / "b.jsonl", LINES[:1])).identities[0].rules


OLD_CREDITS = {"official": 5, "strict": 5, "partial": 9.166667, "dense": 9.460801, "flow_grpo": 9.25}


def test_a_file_of_an_older_version_reads_as_before():
    """Written by the code of commit 195d0f6; the figures are what that code read from it."""
    results = read_results(Path(__file__).parent / "written_by_195d0f6.jsonl")
    assert len(results) == 12
    assert {name: values.sum() for name, values in results.credits.items()} == pytest.approx(OLD_CREDITS, abs=1e-6)
    assert results.failed == {"99999/samples/0000.png": "unreadable [/x]"}
    assert results.seeds[:3] == [1000, 2**63 + 5, 1002]
    assert results.best_of.tolist()[:3] == [0, 4, 0]
    assert results.rewritten.tolist() == [True] + [False] * 11
    for row, correct in zip(results.rows(), results.correct.tolist(), strict=True):
        assert row.verdict().correct == row.correct == correct
        assert row.verdict().credits() == pytest.approx(row.credits)
        assert ResultRow.from_json(row.to_json()).to_json() == row.to_json()
    lines = results.path.read_text("utf-8").split("\n")[:-1]
    assert [row.to_json() for row in results.rows()] == lines


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize(
    ("key", "value"),
    [("seed", 2**64), ("index", 2**70), ("credits", {"official": 2**64}), ("rules", {"confidence": -(2**64)})],
)
def test_numbers_beyond_64_bits_are_refused_with_and_without_orjson(tmp_path, monkeypatch, quick, key, value):
    if not quick:
        monkeypatch.setattr(reader, "orjson", None)
    path = written(tmp_path / "a.jsonl", LINES[:12])
    lines = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps(json.loads(lines[0]) | {key: value}), *lines[1:], ""]))
    with pytest.raises(ResultsError, match=r"line 1: .*an integer that does not fit 64 bits"):
        read_results(path)


def test_orjson_only_makes_reading_quicker(tmp_path, monkeypatch):
    path = written(tmp_path / "a.jsonl", LINES[:12])
    quick = read_results(path)
    monkeypatch.setattr(reader, "orjson", None)
    slow = read_results(path)
    for name, value in vars(quick).items():
        if isinstance(value, dict) and name == "credits":
            assert {k: v.tolist() for k, v in value.items()} == {k: v.tolist() for k, v in slow.credits.items()}
        else:
            assert np.array_equal(value, getattr(slow, name)), name
