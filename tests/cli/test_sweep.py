"""`geneval-reward sweep` with the pocket model."""

import json

import pytest
import typer
from typer.testing import CliRunner

from geneval_reward.cli import app
from geneval_reward.cli.shared.tables import Format, print_document
from geneval_reward.cli.sweep import _check_setup
from geneval_reward.stats import Estimate, Interval
from geneval_reward.study.sweep.grid import make_cells
from geneval_reward.study.sweep.table import SweepRow, SweepTable
from geneval_reward.study.sweep.timing import Timing


def call(run, out, *args):
    return run("sweep", "pocket", "--suite", "pocket", "--subset", "2/task", "-n", 1, "--out", out, *args)


@pytest.mark.slow
def test_the_token_model_is_swept_over_its_ways_to_paint(run, tmp_path) -> None:
    options = (
        "--suite",
        "pocket",
        "--subset",
        "1/task",
        "-n",
        1,
        "--grid",
        "steps=1,6",
        "--grid",
        "decoding=masked,levels",
    )
    result, code, _ = run("sweep", "pocket-tokens", "--out", "s", *options)
    assert code == 0
    assert "levels" in result.stdout
    one, six = (
        [path.read_bytes() for path in sorted((tmp_path / "s").rglob(f"*steps={n}*levels*/**/0000.png"))]
        for n in (1, 6)
    )
    assert one == six != []


@pytest.mark.slow
def test_a_small_sweep(run, tmp_path) -> None:
    result, code, messages = call(run, "s", "--grid", "steps=1,6", "--grid", "best_of=1,2")
    assert code == 0
    assert (
        "4 settings, a stratified subset of 12 of 200 prompts, 48 images in all; expect a standard error of" in messages
    )
    assert "a subset: 12 of 200 prompts" in messages
    assert "is the best of 2 settings on these prompts" in messages
    assert "selected" in result.stdout
    assert "best of 2" in result.stdout
    assert (tmp_path / "s" / "sweep.png").stat().st_size > 10_000
    assert "judged by lite" in result.stdout
    assert "counting_confidence=" in result.stdout
    assert not [path.name for path in (tmp_path / "s").iterdir() if "tmp" in path.name]
    record = json.loads((tmp_path / "s" / "table.json").read_text())
    assert [row["setting"] for row in record["rows"]] == [
        {"steps": steps, "best_of": best} for steps in (1, 6) for best in (1, 2)
    ]
    values = [row["overall"]["value"] for row in record["rows"]]
    assert values[1] >= values[0]
    assert values[3] >= values[2]
    before = (tmp_path / "s" / "cells" / "steps=6" / "times.jsonl").read_text()
    # The grid may grow; what is there is not made again. YAML does as well.
    (tmp_path / "s.yaml").write_text("suite: pocket\nsubset: 2/task\nimages_per_prompt: 1\ngrid: {steps: [1, 2, 6]}\n")
    result, code, _ = run("sweep", "pocket", "--out", "s", "--config", "s.yaml", "--format", "json", "--plot", "p.svg")
    assert code == 0
    rows = json.loads(result.stdout)["rows"]
    assert [row["overall"]["value"] for row in (rows[0], rows[2])] == [values[0], values[2]]
    assert (tmp_path / "s" / "cells" / "steps=6" / "times.jsonl").read_text() == before
    assert (tmp_path / "p.svg").exists()
    _, code, messages = call(run, "s", "--grid", "steps=1", "--seed", 5)
    assert code == 2
    assert "expected seed 0, got 5; choose another folder" in " ".join(messages.replace("│", " ").split())


def test_the_rest_of_a_kill_is_no_other_content(tmp_path) -> None:
    (tmp_path / "sweep.999.tmp").write_text("{")
    _check_setup(tmp_path, {"seed": 0})
    assert json.loads((tmp_path / "sweep.json").read_text()) == {"seed": 0}
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").touch()
    with pytest.raises(typer.BadParameter, match="expected a new or empty folder"):
        _check_setup(other, {"seed": 0})


@pytest.mark.parametrize("columns", [None, "80"])
def test_notes_are_never_cut(monkeypatch, capsys, columns) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    same = Estimate(0.5, Interval(0.4, 0.6, 0.95, "bootstrap"), 0.05, 10, 10)
    time = Timing(1.234, 1.1, 1.4, 10)
    axes = {"resolution": [512], "guidance_scale": [3.5], "num_inference_steps": [28], "best_of": [2]}
    (cell,) = make_cells(axes)
    row = SweepRow(cell, same, {}, time, None, True, True, "results.jsonl")
    print_document(SweepTable((row,), None, 10, 10, 1, 0.95, (), "lite").document(), Format.table)
    text = capsys.readouterr().out
    assert "…" not in text
    assert "selected" in text
    assert "front" in text
    if columns is None:
        assert "selected, best of 2, front" in text


def test_shards_leave_the_table_to_the_last_call(run, tmp_path) -> None:
    _, code, messages = call(run, "s", "--grid", "steps=1,2", "--shard", "1/2")
    assert code == 0
    assert "shard 1/2 is done" in messages
    assert [path.name for path in (tmp_path / "s" / "cells").iterdir()] == ["steps=2"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("pocket", "--grid", "steps"), "grid: expected name=value,value"),
        (("pocket",), "grid: expected at least one axis"),
        (("--grid", "steps=1"), "expected a model here or in the YAML file"),
        (("pocket", "--grid", "steps=1", "--grid", "steps=2"), "expected every axis once"),
        (
            ("pocket", "--grid", "stepz=1", "--suite", "pocket", "--subset", "6"),
            "stepz: expected an argument that Pocket",
        ),
        (("pocket", "--grid", "steps=1", "--set", "steps=2"), "steps: expected one axis or fixed value"),
        (("pocket", "--grid", "steps=1", "--config", "no.yaml"), "no.yaml: expected a YAML file"),
    ],
)
def test_bad_input(run, args, message) -> None:
    _, code, messages = run("sweep", *args, "--out", "s")
    assert code == 2
    assert message in " ".join(messages.replace("│", " ").split())


def test_prompts_that_the_model_cannot_read_are_said(tmp_path, monkeypatch) -> None:
    """A sweep over the official suite is no measure of the pocket models."""
    monkeypatch.chdir(tmp_path)
    arguments = [
        "sweep",
        "pocket-tokens",
        "--subset",
        "6",
        "-n",
        "1",
        "--grid",
        "steps=1",
        "--out",
        "s",
        "--device",
        "cpu",
    ]
    with pytest.warns(UserWarning, match="expected words of the pocket model's vocabulary") as warned:
        CliRunner().invoke(app, arguments)
    assert not [one for one in warned if "of a call are wrong" in str(one.message)]
