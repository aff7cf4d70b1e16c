"""prompts, summary, doctor, demo: what they print and how they end."""

import hashlib
import json
import subprocess
import sys

import pytest

from geneval_reward.prompts import SUITE_SHA256, meaning, official_suite
from geneval_reward.results import ResultRow


def test_prompts_prints_the_suite_byte_for_byte(run):
    result, code, _ = run("prompts")
    assert code == 0
    assert hashlib.sha256(result.stdout.encode()).hexdigest() == SUITE_SHA256
    texts = run("prompts", "--suite", "--format", "txt")[0].stdout.splitlines()
    assert texts == [spec.prompt for spec in official_suite()]
    assert len(run("prompts", "--task", "colors")[0].stdout.splitlines()) == 94


def test_prompts_draws_training_prompts(run):
    first = run("prompts", "--train", 50, "--seed", 3)[0].stdout
    assert first == run("prompts", "--train", 50, "--seed", 3)[0].stdout
    assert first != run("prompts", "--train", 50, "--seed", 4)[0].stdout
    known = {meaning(spec) for spec in official_suite()}
    from geneval_reward.prompts import PromptSpec

    assert not known & {meaning(PromptSpec.parse(line)) for line in first.splitlines()}
    only = run("prompts", "--train", 20, "--mix", "counting=1", "--format", "txt")[0].stdout.splitlines()
    assert all(word.split()[3] in ("two", "three", "four") for word in only)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("prompts", "--suite", "--train", "3"), "expected --suite or --train"),
        (("prompts", "--task", "sorting"), "expected one of single_object"),
        (("prompts", "--train", "3", "--mix", "counting"), "expected task=weight pairs"),
        (("prompts", "--train", "3", "--mix", "singing=2"), "mix: expected tasks of"),
        (("prompts", "--train", "200", "--mix", "counting=1", "--unique"), "at most 160 prompts"),
        (("summary", "nowhere.jsonl"), "expected a results file, got none"),
        (("score", ".", "--backend", "best"), "backend: expected one of lite"),
        (("nonsense",), "No such command"),
    ],
)
def test_wrong_usage_ends_with_2(run, args, words):
    result, code, message = run(*args)
    assert code == 2
    assert words in (message + result.output).replace("\n", " ")


@pytest.fixture
def results(images, tmp_path, run):
    run("score", images, "--out", "r.jsonl")
    return tmp_path / "r.jsonl"


def test_summary_judges_stored_detections_again(run, results):
    def overall(*more):
        return json.loads(run("summary", results, "--format", "json", *more)[0].stdout)["images_correct"]["value"]

    assert overall() == pytest.approx(0.5)
    assert overall("--rules", "confidence=1.0,counting_confidence=1.0") == 0.0
    assert overall("--rules", "lite") == overall()
    assert overall("--credit", "partial") > overall()
    shown = json.loads(run("summary", results, "--format", "json", "--rules", "geneval")[0].stdout)
    assert shown["rejudged"] is True
    assert shown["rules"]["counting_confidence"] == 0.9


def test_summary_refuses_rules_that_need_what_was_not_kept(run, results):
    _, code, message = run("summary", results, "--rules", "confidence=0.01")
    assert code == 2
    assert "0.05" in message


def test_summary_as_csv_and_table(run, results):
    rows = run("summary", results, "--format", "csv")[0].stdout.splitlines()
    assert rows[0] == "task,value,low,high,images,prompts"
    assert any(row.startswith("images_correct,0.5,") for row in rows)
    table = run("summary", results)[0].stdout
    assert "single_object" in table
    assert "95 % intervals" in table


def test_summary_of_the_official_scripts_own_file(run, results, tmp_path):
    """Seven keys only: scored as they are, and not to be judged again."""
    rows = [ResultRow.from_json(line) for line in results.read_text().splitlines()]
    keys = ("filename", "tag", "prompt", "correct", "reason", "metadata", "details")
    official = tmp_path / "official.jsonl"
    official.write_text("".join(json.dumps({key: getattr(row, key) for key in keys}) + "\n" for row in rows))
    ours, theirs = (json.loads(run("summary", path, "--format", "json")[0].stdout) for path in (results, official))
    assert ours["overall"] == theirs["overall"]
    assert theirs["backend"] is None
    _, code, message = run("summary", official, "--rules", "geneval")
    assert code == 2
    assert "expected stored detections" in message


def test_summary_of_a_file_cut_in_a_line(run, results):
    results.write_bytes(results.read_bytes()[:-40])
    result, code, _ = run("summary", results)
    assert code == 1
    assert "is cut off and left out" in result.stderr.replace("\n", " ")


def test_doctor_passes_with_lite(run):
    result, code, _ = run("doctor", "--format", "json", "--device", "cpu")
    assert code == 0
    report = json.loads(result.stdout)
    assert report["self_test"]["passed"] is True
    assert len(report["self_test"]["images"]) >= 8
    assert report["self_test"]["details"]["detector"]["weights_sha256"]
    assert "passed" in run("doctor", "--device", "cpu")[0].stdout


def test_doctor_says_what_is_missing(run, monkeypatch, tmp_path):
    monkeypatch.setenv("GENEVAL_REWARD_CACHE", str(tmp_path / "none"))
    monkeypatch.setenv("GENEVAL_REWARD_OFFLINE", "1")
    result, code, _ = run("doctor", "--backend", "paper", "--device", "cpu")
    assert code == 1
    assert "743b7d99" in result.stdout.replace("\n", "")


@pytest.mark.slow
def test_demo_writes_a_page_that_needs_nothing_else(run, tmp_path):
    result, code, messages = run("demo", "--no-train", "--out", "demo", "--device", "cpu")
    assert code == 0, messages
    page = (tmp_path / "demo" / "index.html").read_text()
    assert page.count("<figure") >= 24
    assert "http" not in page.replace("http-equiv", "")
    assert "StrictUndefined" not in page
    assert str(tmp_path / "demo" / "index.html") in result.stdout.replace("\n", "")
    # The truth of every scene is known: the packaged detector must get nearly all of them.
    right, total = map(int, result.stdout.split("composed scenes judged as they are: ")[1].split("\n")[0].split(" of "))
    assert total >= 16
    assert right >= total - 2


def test_the_program_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "geneval_reward", "--version"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert done.stdout.strip().count(".") == 2
