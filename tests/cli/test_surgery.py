"""`geneval-reward surgery` with the pocket model."""

import importlib.util
import json

import pytest

from geneval_reward.pocket import load_pipeline
from geneval_reward.surgery import QuantizePlan, TextEncoderPlan, fingerprint, load_plan, save_plan


@pytest.fixture(scope="module")
def model():
    return fingerprint(load_pipeline().text_encoder)


@pytest.fixture
def plan(tmp_path, model):
    save_plan(TextEncoderPlan(part="text_encoder", model=model, skip=(9, 11)), tmp_path / "cut.json")
    return "cut.json"


def test_sizes_with_a_plan(run, plan):
    result, code, _ = run("surgery", "sizes", "pocket", "--plan", plan, "--no-run", "--steps", 1, "-f", "json")
    assert code == 0
    parts = {part["name"]: part for part in json.loads(result.stdout)["parts"]}
    assert parts["text_encoder"]["dense_bytes"] - parts["text_encoder"]["bytes"] == 2 * 4 * 24640
    assert parts["all"]["bytes"] == sum(part["bytes"] for name, part in parts.items() if name != "all")
    text = run("surgery", "sizes", "pocket", "--plan", plan, "--no-run", "--steps", 1)[0].stdout
    assert "-19.8 %" in text


@pytest.mark.slow
def test_a_table_that_is_interrupted_goes_on(run, plan, tmp_path):
    options = ("surgery", "table", "pocket", "--suite", "pocket", "--subset", "2/task", "-n", 1, "--steps", 2)
    result, code, messages = run(*options, "--row", plan, "--out", "t")
    assert code == 0, messages
    assert "cut" in result.stdout
    assert {"table.md", "table.tex", "table.csv", "table.json"} <= {path.name for path in (tmp_path / "t").iterdir()}
    image = next((tmp_path / "t" / "rows" / "cut").rglob("0000.png"))
    before = image.read_bytes()
    image.unlink()
    again, code, _ = run(*options, "--row", plan, "--out", "t", "-f", "latex")
    assert code == 0
    assert image.read_bytes() == before
    assert r"\begin{tabular}" in again.stdout
    _, code, message = run(*options, "--row", plan, "--out", "t", "--backend", "nanodet")
    assert code == 2
    assert "expected a table with backend 'nanodet', got 'lite'" in message


def test_bad_input_is_one_sentence_and_leaves_nothing(run, plan, tmp_path, model):
    other = TextEncoderPlan(part="text_encoder", model="T5EncoderModel:0", skip=(1,))
    save_plan(other, tmp_path / "other.json")
    save_plan(TextEncoderPlan(part="text_encoder", model=model, skip=(12,)), tmp_path / "twelve.json")
    save_plan(QuantizePlan(part="text_encoder", model=model, how="int4"), tmp_path / "int4.json")
    (tmp_path / "text.json").write_text("hello")
    for files, message in {
        "other.json": "expected text_encoder to be the model that the plan was made for",
        "twelve.json": "skip: expected numbers of sub-blocks, 0 to 11, got 12",
        "int4.json": "expected a CUDA device for int4",
        "text.json": "text.json: expected JSON",
        "=cut.json": "--row: expected NAME=FILE",
        "dense=cut.json": "none called dense",
    }.items():
        _, code, found = run("surgery", "table", "pocket", "--suite", "pocket", "--row", files, "--out", "new")
        assert code == 2
        assert message in found, files
        assert not list((tmp_path / "new").rglob("*.png"))
        if "=" not in files:
            _, code, found = run("surgery", "sizes", "pocket", "--plan", files, "--no-run")
            assert code == 2
            assert message in found, files
    with pytest.raises(FileNotFoundError, match=r"nothing\.json"):  # one line in `main`, as every OSError
        run("surgery", "sizes", "pocket", "--plan", "nothing.json", "--no-run")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    _, code, found = run("surgery", "table", "pocket", "--suite", "pocket", "--row", plan, "--out", "full")
    assert code == 2
    _, code, found = run("surgery", "quantize", "pocket", "--part", "unet", "--out", "q.json")
    assert code == 2
    assert "part: expected one of transformer, text_encoder, vae, got 'unet'" in found
    _, code, found = run("surgery", "quantize", "pocket", "--how", "int5", "--out", "q.json")
    assert code == 2
    assert "how: expected one of nf4" in found
    assert not (tmp_path / "q.json").exists()


@pytest.mark.skipif(importlib.util.find_spec("optimum") is None, reason="optimum-quanto is not installed")
def test_a_plan_that_quantises(run, tmp_path):
    result, code, _ = run(
        "surgery", "quantize", "pocket", "--part", "text_encoder", "--how", "qint8", "--out", "q.json"
    )
    assert code == 0
    assert "text_encoder as qint8, 723,120 bytes less" in result.stdout
    assert load_plan(tmp_path / "q.json").how == "qint8"
