"""`annotate` as a whole, with rewards that cost nothing."""

import json
import math
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from annotation_data import BENCH, COW, benches, brightness, length, picture, write_tar

from geneval_reward.annotate import annotate, read_annotations
from geneval_reward.errors import GenEvalError, ResultsError, UsageError


@pytest.fixture
def tars(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for shard in range(2):
        write_tar(
            folder / f"part-{shard}.tar",
            [
                ("0", {"png": picture(10 * shard), "json": BENCH, "txt": "a bench, they say"}),
                ("1", {"png": picture(10 * shard + 1), "json": {"metadata": COW}}),
                ("2", {"png": picture(10 * shard + 2), "txt": "something else entirely"}),
            ],
        )
    return folder


def test_a_row_per_sample_and_a_column_per_reward(tars, tmp_path):
    run = annotate(
        tars,
        tmp_path / "t.parquet",
        {"geneval_strict": "geneval_strict", "b": brightness, "n": length},
        scorer=benches(),
    )
    assert run.samples == 6
    assert not run.problems
    found = read_annotations(tmp_path / "t.parquet")
    assert found.keys == [f"part-{shard}/{number}" for shard in range(2) for number in range(3)]
    assert found.shards == ["part-0"] * 3 + ["part-1"] * 3
    # A caption beside the image is what is trained on; without one it is the record's prompt.
    assert found.captions[:3] == ["a bench, they say", "a photo of a cow", "something else entirely"]
    assert found.rewards["geneval_strict"][:2].tolist() == [1, 0]
    assert math.isnan(found.rewards["geneval_strict"][2])
    assert found.reasons[2]["geneval_strict"].startswith("record: expected one beside the caption")
    assert found.rewards["b"].tolist() == [0, 1, 2, 10, 11, 12]
    assert found.rewards["n"].tolist() == [17, 16, 23] * 2
    row = pq.read_table(tmp_path / "t.parquet").to_pylist()[0]
    assert row["judge"].startswith("fake ")
    assert json.loads(row["rules"])["confidence"] == 0.3
    assert json.loads(row["record"]) == BENCH
    assert set(json.loads(row["versions"])) == {"geneval_reward", "b", "n"}
    assert not (tmp_path / "t.parquet.parts").exists()


def test_all_credits_come_from_one_pass(tars, tmp_path):
    scorer = benches()
    seen = []
    detect = scorer.detector.detect
    scorer.detector.detect = lambda images, wanted: seen.extend(images) or detect(images, wanted)
    annotate(tars, tmp_path / "t.parquet", "geneval", scorer=scorer)
    assert len(seen) == 4
    found = read_annotations(tmp_path / "t.parquet")
    assert list(found.rewards) == [
        f"geneval_{name}" for name in ("official", "strict", "partial", "dense", "flow_grpo")
    ]
    assert all(np.isfinite(column[[0, 1, 3, 4]]).all() for column in found.rewards.values())


def test_another_pass_adds_columns(tars, tmp_path):
    out = tmp_path / "t.parquet"
    annotate(tars, out, {"b": brightness})
    before = read_annotations(out).rewards["b"]
    run = annotate(tars, out, {"n": length})
    assert run.samples == 6
    found = read_annotations(out)
    assert list(found.rewards) == ["b", "n"]
    assert (found.rewards["b"] == before).all()
    assert set(json.loads(pq.read_table(out).column("versions")[0].as_py())) == {"geneval_reward", "b", "n"}
    # What is complete is not read again.
    assert annotate(tars, out, {"b": brightness, "n": length}).samples == 0


def test_a_shard_that_changed_is_scored_again(tars, tmp_path):
    out = tmp_path / "t.parquet"
    annotate(tars, out, {"b": brightness, "n": length})
    path = tars / "part-1.tar"
    write_tar(
        path, [("0", {"png": picture(99), "txt": "x"}), ("2", {"png": picture(12), "txt": "something else entirely"})]
    )
    os.utime(path, (1, 1))
    run = annotate(tars, out, {"b": brightness})
    assert (run.samples, run.changed) == (2, 1)
    found = read_annotations(out)
    assert found.keys == ["part-0/0", "part-0/1", "part-0/2", "part-1/0", "part-1/2"]
    assert found.rewards["b"].tolist() == [0, 1, 2, 99, 12]
    # The other reward has not seen the new image; the sample that only moved keeps its value.
    assert math.isnan(found.rewards["n"][3])
    assert found.rewards["n"][4] == 23
    assert found.reasons[3]["n"].startswith("changed: ")
    annotate(tars, out, {"n": length})
    assert read_annotations(out).rewards["n"].tolist() == [17, 16, 23, 1, 23]


def test_what_is_empty_is_tried_again(tars, tmp_path):
    out = tmp_path / "t.parquet"
    annotate(tars, out, "geneval_strict", scorer=benches())
    annotate(tars, out, "geneval_strict", scorer=benches(), records={"part-0/2": BENCH, "part-1/2": COW})
    assert read_annotations(out).rewards["geneval_strict"].tolist() == [1, 0, 1, 1, 0, 0]


def test_another_judge_is_refused_by_name(tars, tmp_path):
    out = tmp_path / "t.parquet"
    annotate(tars, out, {"geneval_strict": "geneval_strict", "b": brightness}, scorer=benches())
    other = benches()
    other.name = "another"
    with pytest.raises(ResultsError, match=r"the judge of geneval_.*fake .* and is another"):
        annotate(tars, out, "geneval_strict", scorer=other)
    annotate(tars, out, "geneval_strict", scorer=other, overwrite=True)
    found = read_annotations(out)
    assert found.info.judge.startswith("another ")
    assert found.rewards["b"].tolist() == [0, 1, 2, 10, 11, 12]


def test_captions_from_another_place(tars, tmp_path):
    out = tmp_path / "t.parquet"
    annotate(tars, out, {"n": length})
    with pytest.raises(
        ResultsError, match="expected captions from 'json', got a table with those from the usual places"
    ):
        annotate(tars, out, {"n": length}, caption="json")


def test_a_reward_that_fails_costs_only_what_it_fails_on(tars, tmp_path):
    def fussy(images):
        if any(image.float().mean() == 1 for image in images):
            raise ArithmeticError("no")
        return [math.nan if image.float().mean() == 2 else 1 for image in images]

    def few(images):
        return [1.0] * (len(images) - 1)

    annotate(tars, tmp_path / "t.parquet", {"fussy": fussy, "few": few, "b": brightness})
    found = read_annotations(tmp_path / "t.parquet")
    assert np.nan_to_num(found.rewards["fussy"], nan=-1).tolist() == [1, -1, -1, 1, 1, 1]
    assert found.reasons[1]["fussy"] == "fussy: ArithmeticError: no"
    assert found.reasons[2]["fussy"] == "fussy: expected a finite number, got None, NaN or an infinity"
    assert np.isnan(found.rewards["few"]).all()
    assert found.reasons[0]["few"] == "few: expected 3 values, one per image, got 2"
    assert np.isfinite(found.rewards["b"]).all()


def test_a_reward_that_gives_nothing_is_given_up(tmp_path):
    write_tar(tmp_path / "a.tar", [(f"{number:02d}", {"png": picture(number)}) for number in range(60)])
    with pytest.raises(
        GenEvalError, match="expected never to score at least one image, got none in its first 3 batches"
    ):
        annotate(
            tmp_path / "a.tar", tmp_path / "t.parquet", {"b": brightness, "never": lambda images: [None] * len(images)}
        )
    # What the other reward gave is kept.
    run = annotate(tmp_path / "a.tar", tmp_path / "t.parquet", {"b": brightness})
    assert run.samples == 60
    assert read_annotations(tmp_path / "t.parquet").rewards["b"].tolist() == list(range(60))


def test_a_judge_that_fails_on_every_image_is_given_up(tmp_path):
    write_tar(tmp_path / "a.tar", [(f"{number:02d}", {"png": picture(number), "json": BENCH}) for number in range(20)])
    scorer = benches()
    scorer.detector.detect = lambda images, wanted: 1 / 0
    with pytest.raises(GenEvalError, match=r"expected geneval_strict to score at least one .*ZeroDivisionError"):
        annotate(tmp_path / "a.tar", tmp_path / "t.parquet", "geneval_strict", scorer=scorer)


def test_rewards_that_are_made_by_a_function_or_take_everything(tars, tmp_path):
    def optional(images=None, prompts=None):
        return brightness(images)

    def make():
        return length

    def everything(images, **columns):
        return [float(record is not None) for record in columns["metadata"]]

    rewards = {"o": optional, "m": make, "e": everything}
    annotate(tars, tmp_path / "t.parquet", rewards)
    found = read_annotations(tmp_path / "t.parquet")
    assert found.rewards["o"].tolist() == [0, 1, 2, 10, 11, 12]
    assert found.rewards["m"].tolist() == [17, 16, 23] * 2
    assert found.rewards["e"].tolist() == [1, 1, 0] * 2


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ("", "expected geneval_official, "),
        ([], "expected at least one"),
        ("geneval_nothing", "expected geneval_official, .* got 'geneval_nothing'"),
        ("pick_score,pick_score", "expected each column once"),
        ({"key": brightness}, "expected names that are no columns of the table, got key"),
        ({"b": 3}, "b: expected a function, got int"),
        ({"b": lambda images, size: []}, "expected a callable of images"),
        ("math:no_such", "define no_such"),
    ],
)
def test_rewards_that_are_none(tars, tmp_path, rewards, message):
    with pytest.raises(UsageError, match=message):
        annotate(tars, tmp_path / "t.parquet", rewards)


def test_image_folder_with_texts(tmp_path):
    root = tmp_path / "images" / "below"
    root.mkdir(parents=True)
    for number, text in enumerate(["a photo of a bench", "no bench"]):
        (root / f"{number}.png").write_bytes(picture(number))
        (root / f"{number}.txt").write_text(text)
    (root / "2.png").write_bytes(b"no image")
    annotate(tmp_path / "images", tmp_path / "t.parquet", {"n": length, "g": "geneval_official"}, scorer=benches())
    found = read_annotations(tmp_path / "t.parquet")
    assert found.keys == ["below/0.png", "below/1.png", "below/2.png"]
    assert found.captions == ["a photo of a bench", "no bench", ""]
    assert found.rewards["n"][:2].tolist() == [18, 8]
    assert found.rewards["g"][0] == 1
    assert np.isnan(found.rewards["g"][1:]).all()


def test_files_that_are_no_tables(tars, tmp_path):
    out = tmp_path / "t.parquet"
    out.write_bytes(b"nothing")
    with pytest.raises(ResultsError, match="no parquet"):
        annotate(tars, out, {"b": brightness})
    pq.write_table(pa.table({"a": [1]}), out)
    with pytest.raises(ResultsError, match="another parquet file"):
        read_annotations(out)
