import json

import pytest

from geneval_reward.errors import UsageError
from geneval_reward.generate import stratified_subset
from geneval_reward.pocket import load_pipeline, pocket_suite
from geneval_reward.results.tables import render
from geneval_reward.surgery import TextEncoderPlan, fingerprint, save_plan
from geneval_reward.surgery.table import Row, Settings, TableRun, parse_rows, table_document


def plan(*skip):
    return TextEncoderPlan(part="text_encoder", model=fingerprint(load_pipeline().text_encoder), skip=skip)


def make(tmp_path, rows, images=1):
    from geneval_reward import GenEvalScorer

    chosen = stratified_subset(pocket_suite(), "2/task")
    settings = Settings(
        "pocket",
        tuple(chosen.specs),
        tuple(chosen.numbers),
        images_per_prompt=images,
        arguments={"num_inference_steps": 2},
        device="cpu",
    )
    return TableRun(tmp_path, rows, settings, lambda: GenEvalScorer.from_pretrained("lite", device="cpu"))


def test_rows_share_the_noise_and_the_table_says_what_changed(tmp_path):
    rows = [Row("nothing", (plan(),)), Row("half", (plan(1, 3, 5, 7, 9, 11),))]
    run = make(tmp_path, rows)
    run.check()
    seen = []
    for row in run.rows:
        assert run.run(row, lambda *what: seen.append(what)) == {}
    dense, same, half = ((run.path(row) / "00000" / "samples" / "0000.png").read_bytes() for row in run.rows)
    assert dense == same != half
    document = table_document(run, draws=100)
    costs, pairs = document.record["costs"], {pair["b"]: pair for pair in document.record["pairs"]}
    assert pairs["nothing"]["comparison"]["overall"]["value"] == document.record["relative"]["nothing"] == 0
    assert costs["half"]["bytes"] == costs["dense"]["bytes"] - 6 * 4 * 24640
    assert costs["half"]["flop"] < costs["dense"]["flop"]
    assert costs["half"]["seconds"] > 0
    header = document.values.header
    assert header[:3] == ["run", "against", "task"]
    assert list(header[-4:]) == ["parameters", "bytes", "flop", "seconds"]
    assert all(len(row) == len(header) for row in document.values.rows)
    text = render(document, "markdown")
    assert "relative: the difference in percent of the dense score" in text
    assert "change of bytes" in text
    assert r"\begin{tabular}" in render(document, "latex")
    assert {len(table.header) for table in document.tables} == {11, 7}
    assert all(len(row) == len(table.header) for table in document.tables for row in table.rows)

    again = make(tmp_path, rows)
    again._make_scorer = None  # nothing is left to judge
    for row in again.rows:
        again.run(row)
    assert again._generator is None, "nothing is left to make"
    (again.path(rows[1]) / "00000" / "samples" / "0000.png").unlink()
    make(tmp_path, rows).run(rows[1])
    assert (again.path(rows[1]) / "00000" / "samples" / "0000.png").read_bytes() == half


def test_a_plan_for_another_model_stops_before_any_image(tmp_path):
    other = TextEncoderPlan(part="text_encoder", model="T5EncoderModel:0", skip=(1,))
    with pytest.raises(UsageError, match="wrong: plan: expected text_encoder to be the model"):
        make(tmp_path, [Row("wrong", (plan(1), other))]).check()
    assert not (tmp_path / "rows").exists()


def test_a_folder_of_another_plan_is_refused(tmp_path):
    run = make(tmp_path, [])
    (run.path(Row("dense"))).mkdir(parents=True)
    (run.path(Row("dense")) / "row.json").write_text(json.dumps(run._record(Row("dense", (plan(1),)))))
    with pytest.raises(UsageError, match="with another plans; choose another folder"):
        run.check()


def test_rows_by_name(tmp_path):
    for name in ("a", "b"):
        save_plan(plan(1), tmp_path / f"{name}.json")
    one, two = parse_rows([f"{tmp_path}/a.json", f"both ways={tmp_path}/a.json+{tmp_path}/b.json"])
    assert (one.name, two.name, two.folder, len(two.plans)) == ("a", "both ways", "both_ways", 2)
    with pytest.raises(UsageError, match="expected NAME=FILE"):
        parse_rows([f"={tmp_path}/a.json"])
    with pytest.raises(UsageError, match="none called dense"):
        parse_rows([f"dense={tmp_path}/a.json"])
    with pytest.raises(UsageError, match="got 'a' twice"):
        parse_rows([f"{tmp_path}/a.json", f"a={tmp_path}/b.json"])
    with pytest.raises(OSError, match=r"none\.json"):
        parse_rows([f"{tmp_path}/none.json"])
