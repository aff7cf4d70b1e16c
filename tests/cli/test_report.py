"""`report`: files, exit codes, messages."""

import json

import pytest
from made_up_results import write_synthetic
from simulated_runs import SUITE_PROMPTS, simulate_runs


@pytest.fixture
def scored(run, images, tmp_path):
    run("score", images, "--out", tmp_path / "r.jsonl", "--backend", "lite")
    return tmp_path / "r.jsonl"


def test_a_page_from_scored_images(run, scored, images, tmp_path):
    result, code, message = run(
        "report", scored, "--images", images, "--out", "page/report.html", "--figures", "figures"
    )
    assert "report: page/report.html" in result.stdout
    assert code == 1  # eight images are not the suite
    page = (tmp_path / "page" / "report.html").read_text()
    assert "a photo of two cups" in page
    assert page.count("data:image/webp;base64,") >= 1
    assert "../images/" in page
    assert (tmp_path / "figures" / "scores.svg").stat().st_size > 1000
    assert "note: " in message


def test_tables_go_to_standard_output_or_a_file(run, scored, images, tmp_path):
    result, _, _ = run("report", scored, "--images", images, "--format", "json")
    assert json.loads(result.stdout)["runs"][0]["images_not_found"] == []
    assert run("report", scored, "-i", images, "-f", "latex", "-o", "t.tex")[0].stdout == ""
    assert r"\toprule" in (tmp_path / "t.tex").read_text()


def test_a_folder_that_is_not_there(run, scored):
    _, code, message = run("report", scored, "--images", "nowhere")
    assert code == 2
    assert "expected the folder with the images" in message


def test_summary_and_compare_as_text(run, tmp_path):
    runs = simulate_runs([dict.fromkeys(SUITE_PROMPTS, 0.5)] * 2, prompts=dict.fromkeys(SUITE_PROMPTS, 3), seed=1)
    a, b = (write_synthetic(tmp_path / f"{number}.jsonl", runs, number) for number in (0, 1))
    for format, words in (("latex", r"\toprule"), ("markdown", "| overall |"), ("csv", "task,value,low,high")):
        assert words in run("summary", a, "--format", format)[0].stdout
    for format, words in (("latex", r"\toprule"), ("csv", "run,against,task")):
        result, code, message = run("compare", a, b, "--format", format, "--draws", 200)
        assert words in result.stdout
        assert code == 1
        assert "535 of 553 prompts are missing" in message
