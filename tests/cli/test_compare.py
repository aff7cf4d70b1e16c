"""`geneval-reward compare` as a user runs it."""

import json

import pytest
import typer
from made_up_results import write_synthetic
from simulated_runs import SUITE_PROMPTS, simulate_runs
from typer.testing import CliRunner

from geneval_reward.cli.compare import compare
from geneval_reward.errors import ResultsError
from geneval_reward.generate.subset import TYPICAL_ACCURACY

app = typer.Typer()
app.command()(compare)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    runs = simulate_runs([TYPICAL_ACCURACY] * 2, prompts=dict.fromkeys(SUITE_PROMPTS, 40), images_per_prompt=1, seed=1)
    write_synthetic(folder / "base.jsonl", runs, 0)
    write_synthetic(folder / "lora.jsonl", runs, 1)
    some = simulate_runs([TYPICAL_ACCURACY], prompts=dict.fromkeys(SUITE_PROMPTS, 5), images_per_prompt=1)
    write_synthetic(folder / "some.jsonl", some)
    return folder


def run(folder, *arguments):
    files = [str(folder / name) if name.endswith(".jsonl") else name for name in arguments]
    return CliRunner().invoke(app, [*files, "--draws", "400"], env={"COLUMNS": "160"})


def test_table_on_stdout(folder):
    result = run(folder, "base.jsonl", "lora.jsonl")
    assert result.exit_code == 1  # a part of the suite only, and it says so
    assert "of 553 prompts are missing" in result.stdout
    assert "lora - base, in points, image by image (240 images, 240 prompts)" in result.stdout
    assert "No difference shown" in result.stdout


def test_json_on_stdout_and_plot_in_a_file(folder, tmp_path):
    picture = tmp_path / "plot.png"
    result = run(
        folder, "base.jsonl", "lora.jsonl", "--format", "json", "--plot", str(picture), "--name", "A", "--name", "B"
    )
    assert result.exit_code == 1
    assert [one["name"] for one in json.loads(result.stdout)["runs"]] == ["A", "B"]
    assert picture.stat().st_size > 10_000
    assert f"plot: {picture}" in result.stderr


def test_markdown(folder):
    assert "| overall |" in run(folder, "base.jsonl", "lora.jsonl", "-f", "markdown").stdout


def test_refusal_and_what_weakens_it(folder):
    refused = run(folder, "base.jsonl", "some.jsonl")
    assert isinstance(refused.exception, ResultsError)
    assert "--allow prompts" in str(refused.exception)
    weak = run(folder, "base.jsonl", "some.jsonl", "--allow", "prompts", "-f", "json")
    assert weak.exit_code == 1
    assert "prompts of base are not in some" in weak.stderr
    json.loads(weak.stdout)
