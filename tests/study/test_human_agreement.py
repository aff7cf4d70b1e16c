"""Human annotations: a small synthetic file with the columns of the benchmark's own."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from made_up_results import synthetic_rows
from simulated_runs import simulate_runs

from geneval_reward.errors import ResultsError
from geneval_reward.prompts import official_suite
from geneval_reward.results import ResultRow, ResultWriter, read_results
from geneval_reward.study.human_agreement import agreement
from geneval_reward.study.human_annotations import read_human_annotations

HEADER = (
    "HITId,Input.index,Input.prompt_id,Input.image_id,Input.image_url,Input.caption,Input.object_0_name,Input.object_1_name,"
    "Input.object_0_name_plural,Input.object_1_name_plural,Input.exclude,Answer.ee,Answer.task-color-0,Answer.task-color-1,"
    "Answer.task-count-0,Answer.task-count-1,Answer.task-objects,Answer.task-position-x,Answer.task-position-y,"
    "Answer.task-quality,Answer.task-real-0,Answer.task-real-1"
).split(",")
SUITE = official_suite()
BY_PROMPT = {spec.prompt: (number, spec) for number, spec in enumerate(SUITE)}


def line(prompt, number=0, *, url="x/images/sdv2", **answers):
    """A line as a person who sees what the record asks would make it, but for `answers`."""
    place, spec = BY_PROMPT[prompt]
    row = dict.fromkeys(HEADER, "")
    row |= {
        "Input.prompt_id": str(place),
        "Input.image_id": str(number),
        "Input.image_url": f"https://{url}/{place:05d}/samples/{number:05d}.png",
        "Input.caption": prompt,
        "Answer.task-quality": "4",
    }
    for i, item in enumerate(spec.include):
        row[f"Input.object_{i}_name"] = item.class_name
        row[f"Answer.task-count-{i}"] = str(item.count) if i == 0 else f"{item.count}.0"
        row[f"Answer.task-color-{i}"] = f"{item.color}|gray" if item.color else "black"
        for position in item.positions:
            row["Answer.task-position-x"] = {"left of": "left", "right of": "right"}.get(position.relation, "neither_x")
            row["Answer.task-position-y"] = (
                position.relation if position.relation in ("above", "below") else "neither_y"
            )
    return row | {f"Answer.task-{name.replace('_', '-')}": value for name, value in answers.items()}


def write(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, HEADER)
        writer.writeheader()
        writer.writerows(rows)
    return path


def prompt_of(tag):
    return next(spec.prompt for spec in SUITE if spec.tag == tag)


@pytest.mark.parametrize("spec", SUITE[::9], ids=lambda spec: spec.prompt)
def test_who_sees_what_is_asked_finds_it_correct(tmp_path, spec) -> None:
    (image,) = read_human_annotations(write(tmp_path / "a.csv", [line(spec.prompt)]))
    assert image.answers[0].correct(spec) is True
    assert image.objects == tuple(item.class_name for item in spec.include)


@pytest.mark.parametrize(
    ("tag", "answers", "expected"),
    [
        ("single_object", {"count_0": "0"}, False),
        ("single_object", {"count_0": "3"}, True),
        ("single_object", {"count_0": ""}, None),
        ("two_object", {"count_1": "0.0"}, False),
        ("counting", {"count_0": "5"}, False),
        ("counting", {"count_0": "1"}, False),
        ("colors", {"color_0": "gray"}, False),
        ("colors", {"color_0": ""}, False),
        ("color_attr", {"color_1": "gray"}, False),
        ("position", {"position_x": "neither_x", "position_y": "neither_y"}, False),
        ("position", {"position_x": "", "position_y": ""}, False),
    ],
)
def test_answers_against_the_record(tmp_path, tag, answers, expected) -> None:
    prompt = prompt_of(tag)
    (image,) = read_human_annotations(write(tmp_path / "a.csv", [line(prompt, **answers)]))
    assert image.answers[0].correct(BY_PROMPT[prompt][1]) is expected


def test_the_caption_as_criterion(tmp_path) -> None:
    rows = [line(prompt_of("colors"), quality=value) for value in ("4", "3", "")]
    (image,) = read_human_annotations(write(tmp_path / "a.csv", rows))
    spec = BY_PROMPT[image.prompt][1]
    assert [answer.correct(spec, "caption") for answer in image.answers] == [True, False, None]


@pytest.fixture
def scored(tmp_path):
    """Results of 24 prompts, two images each, and what the backend said of each."""
    sizes = dict.fromkeys(("single_object", "two_object", "counting", "colors", "position", "color_attr"), 4)
    rows = list(synthetic_rows(simulate_runs([dict.fromkeys(sizes, 0.5)], prompts=sizes, images_per_prompt=2)))
    rows = [
        dataclasses.replace(row, filename=f"{BY_PROMPT[row.prompt][0]:05d}/samples/{row.index:05d}.png") for row in rows
    ]
    with ResultWriter(tmp_path / "r.jsonl") as writer:
        writer.write(rows)
    return read_results(tmp_path / "r.jsonl"), rows


def said(row: ResultRow, correct: bool):
    """A line by a person who finds it correct, or not."""
    return line(row.prompt, row.index, **({} if correct else {"count_0": "0", "quality": "2"}))


def test_people_who_agree_and_people_who_do_not(tmp_path, scored) -> None:
    results, rows = scored
    lines = [said(row, row.correct) for row in rows for _ in range(4)] + [said(row, not row.correct) for row in rows]
    found = agreement(read_human_annotations(write(tmp_path / "a.csv", lines)), results, draws=300)
    assert found.notes == ()
    assert found.overall.images == 48
    assert found.overall.annotators.value == pytest.approx(0.8)
    # Of ten pairs of five people, four have the dissenter in them.
    assert found.overall.between.value == pytest.approx(0.6)
    assert found.overall.majority.value == 1
    assert found.overall.kappa == pytest.approx(1)
    assert np.isnan(found.overall.kappa_low)  # nothing varies, so nothing can be said
    assert found.overall.unanimous is None
    assert set(found.tags) == {spec.tag for spec in SUITE}
    assert all(one.images == 8 for one in found.tags.values())
    assert found.overall.people == found.overall.backend == pytest.approx(np.mean([row.correct for row in rows]))
    by_caption = agreement(read_human_annotations(tmp_path / "a.csv"), results, criterion="caption", draws=300)
    assert by_caption.overall.annotators.value == pytest.approx(0.8)


def test_kappa_is_that_of_the_textbook(tmp_path, scored) -> None:
    results, rows = scored
    rng = np.random.default_rng(0)
    opinions = [bool(rng.random() < (0.8 if row.correct else 0.3)) for row in rows]
    images = read_human_annotations(
        write(tmp_path / "a.csv", [said(r, o) for r, o in zip(rows, opinions, strict=True)])
    )
    found = agreement(images, results, draws=500).overall
    a, b = np.array([row.correct for row in rows]), np.array(opinions)
    chance = a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean())
    assert found.kappa == pytest.approx(((a == b).mean() - chance) / (1 - chance))
    assert found.kappa_low < found.kappa < found.kappa_high
    assert found.annotators.value == found.majority.value == found.unanimous.value == pytest.approx((a == b).mean())
    assert found.annotators.value in found.annotators.interval
    assert found.between is None, "one person an image"


def test_what_is_left_out_is_told(tmp_path, scored) -> None:
    results, rows = scored
    lines = [said(row, True) for row in rows[:10]]
    lines += [line(rows[0].prompt, 77), line(rows[1].prompt, rows[1].index, count_0="")]
    found = agreement(read_human_annotations(write(tmp_path / "a.csv", lines)), results, draws=200)
    assert found.overall.images == 10
    assert found.notes[0].startswith("1 of 11 annotated images are not in r.jsonl")
    assert found.notes[1].startswith("38 scored images are not annotated, such as ")
    assert found.notes[2].startswith("1 answers lack what the criterion takes")
    with pytest.raises(ResultsError, match="expected images that are annotated, got none of 1; score the images of"):
        agreement(read_human_annotations(write(tmp_path / "b.csv", [line(rows[0].prompt, 77)])), results)
    wrong = line(rows[0].prompt, rows[0].index) | {"Input.object_0_name": "unicorn"}
    with pytest.raises(ResultsError, match="got questions about unicorn"):
        agreement(read_human_annotations(write(tmp_path / "c.csv", [wrong])), results)
    with pytest.raises(ValueError, match="criterion: expected 'questions' or 'caption'"):
        agreement([], results, criterion="vibes")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Answer.task-count-0": "many"}, "line 2: Answer.task-count-0: expected a whole number, got 'many'"),
        ({"Answer.task-count-0": "1.5"}, "expected a whole number, got '1.5'"),
        ({"Answer.task-color-0": "red|teal"}, "line 2: Answer.task-color-0: expected colours of .*got 'teal'"),
        ({"Answer.task-position-x": "up"}, "Answer.task-position-x: expected one of left, right, neither_x, got 'up'"),
        ({"Answer.task-quality": "5"}, "Answer.task-quality: expected 1 to 4, got 5"),
        ({"Input.caption": ""}, "Input.caption: expected text, got an empty cell"),
        ({"Input.image_id": ""}, "Input.image_id: expected a number, got an empty cell"),
    ],
)
def test_bad_cells(tmp_path, change, message) -> None:
    write(tmp_path / "a.csv", [line(prompt_of("colors")) | change])
    with pytest.raises(ResultsError, match=message):
        read_human_annotations(tmp_path / "a.csv")


def test_bad_files(tmp_path) -> None:
    with pytest.raises(ResultsError, match="expected an annotation file, got none"):
        read_human_annotations(tmp_path / "no.csv")
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ResultsError, match=r"got none called 'Input\.prompt_id'"):
        read_human_annotations(tmp_path / "a.csv")
    with pytest.raises(ResultsError, match="got a header only"):
        read_human_annotations(write(tmp_path / "b.csv", []))
    (tmp_path / "c.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ResultsError, match="expected text in UTF-8"):
        read_human_annotations(tmp_path / "c.csv")


def test_command(tmp_path, scored, capsys, monkeypatch) -> None:
    import typer.testing

    from geneval_reward.cli import app

    monkeypatch.setenv("COLUMNS", "160")
    results, rows = scored
    write(tmp_path / "a.csv", [said(row, row.correct) for row in rows for _ in range(3)])
    run = typer.testing.CliRunner().invoke
    out = run(app, ["human-agreement", str(tmp_path / "a.csv"), str(results.path)])
    assert out.exit_code == 0
    assert "1.000 [" in out.stdout
    assert "the paper" in out.stdout
    assert "83" in out.stdout
    record = json.loads(run(app, ["human-agreement", str(tmp_path / "a.csv"), str(results.path), "-f", "json"]).stdout)
    assert record["overall"]["annotators"]["value"] == 1
    listed = run(app, ["human-agreement", str(tmp_path / "a.csv"), "--urls"]).stdout.splitlines()
    assert len(listed) == 48
    assert listed[0].split("\t")[0] == rows[0].filename
    write(tmp_path / "a.csv", [said(rows[0], True), line(rows[0].prompt, 50)])
    assert run(app, ["human-agreement", str(tmp_path / "a.csv"), str(results.path)]).exit_code == 1
