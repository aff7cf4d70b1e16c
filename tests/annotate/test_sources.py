"""Which samples a data set has, whatever it is stored as."""

import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from annotation_data import BENCH, COW, benches, brightness, length, picture, write_tar

from geneval_reward.annotate import annotate, read_annotations
from geneval_reward.annotate.sources import open_parts
from geneval_reward.errors import ResultsError
from geneval_reward.prompts import PromptSpec
from geneval_reward.results.layout import write_prompt_folder

REWARDS = {"b": brightness, "n": length, "g": "geneval_official"}


def annotated(source, tmp_path, **options):
    run = annotate(source, tmp_path / "t.parquet", REWARDS, scorer=benches(), **options)
    return run, read_annotations(tmp_path / "t.parquet")


def values(column):
    return [None if np.isnan(value) else value for value in column]


def test_parquet_with_columns_of_the_wrong_type(tmp_path):
    images = [{"bytes": picture(number), "path": None} for number in range(4)]
    captions, records = [["two", "captions"], ["one"], None, None], [json.dumps(BENCH), None, json.dumps(COW), "{"]
    pq.write_table(pa.table({"image": images, "caption": captions, "metadata": records}), tmp_path / "a.parquet")
    run, found = annotated(tmp_path / "a.parquet", tmp_path)
    assert found.keys == [f"a/{number:06d}" for number in range(4)]
    assert values(found.rewards["b"]) == [0, 1, 2, 3]
    assert found.reasons[0]["n"] == "caption: caption: expected text, got list"
    # A record is judged even if the caption is useless; without a caption its prompt is the caption.
    assert values(found.rewards["g"]) == [1, None, 0, None]
    assert values(found.rewards["n"]) == [None, None, 16, None]
    assert not run.problems


def test_parquet_without_images(tmp_path):
    pq.write_table(pa.table({"picture": [b"x"], "caption": ["a"]}), tmp_path / "a.parquet")
    run, found = annotated(tmp_path / "a.parquet", tmp_path)
    assert len(found) == 0
    assert len(run.problems) == 1
    assert "expected a column named image, png" in run.problems[0]


def test_a_hugging_face_data_set_on_disk(tmp_path):
    """What `datasets` 5.2 writes: Arrow streams, listed in order in state.json; several splits are a folder of such."""
    folder = tmp_path / "saved" / "train"
    folder.mkdir(parents=True)
    kind = pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("text", pa.string())])
    names = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    for number, name in enumerate(names):
        rows = [
            {"image": {"bytes": picture(2 * number + one), "path": "x.png"}, "text": "a photo of a bench"}
            for one in range(2)
        ]
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, kind) as stream:
            stream.write_table(pa.Table.from_pylist(rows, schema=kind))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder.parent / "dataset_dict.json").write_text('{"splits": ["train"]}')
    found = annotated(folder, tmp_path)[1]
    assert found.keys[:2] == ["data-00000-of-00002/000000-x.png", "data-00000-of-00002/000001-x.png"]
    assert values(found.rewards["b"]) == [0, 1, 2, 3]
    assert values(found.rewards["g"]) == [1, 1, 1, 1]
    assert found.origins == ["suite"] * 4
    with pytest.raises(
        ResultsError, match=r"expected one split of a data set on disk, got all; name one, such as .*train"
    ):
        open_parts(folder.parent)
    (folder / names[1]).unlink()
    with pytest.raises(ResultsError, match=r"expected the files that state.json names, got no data-00001"):
        open_parts(folder)


def test_an_image_folder_with_metadata(tmp_path):
    root = tmp_path / "images"
    (root / "train").mkdir(parents=True)
    for number in range(3):
        (root / "train" / f"{number}.png").write_bytes(picture(number))
    lines = [
        {"file_name": "0.png", "text": "a photo of a bench"},
        {"file_name": "1.png", "text": 7},
        {"file_name": "0.png", "text": "again"},
        {"file_name": "gone.png", "text": "a"},
        {"text": "a"},
        {"file_name": "../../out.png"},
    ]
    (root / "train" / "metadata.jsonl").write_text("\n".join([*map(json.dumps, lines), "{"]))
    run, found = annotated(root, tmp_path)
    assert found.keys == ["train/0.png", "train/1.png", "train/gone.png"]
    assert values(found.rewards["n"]) == [18, None, None]
    assert found.reasons[2]["b"].startswith("image: train/metadata.jsonl line 4: expected an image file, got none")
    said = "\n".join(run.problems)
    for words in (
        "line 3: expected each image once",
        "line 5: expected the image's name",
        "line 6: expected an image below",
    ):
        assert words in said
    assert "line 7: expected JSON" in said
    assert "1 image is not in metadata.jsonl, such as train/2.png" in said


def test_the_layout_of_the_benchmark(tmp_path):
    for number, record in enumerate((BENCH, COW)):
        (write_prompt_folder(tmp_path / "images", number, PromptSpec.parse(record)) / "0000.png").write_bytes(
            picture(number)
        )
    found = annotated(tmp_path / "images", tmp_path)[1]
    assert found.keys == ["00000/samples/0000.png", "00001/samples/0000.png"]
    assert found.captions == ["a photo of a bench", "a photo of a cow"]
    assert values(found.rewards["g"]) == [1, 0]


def test_images_that_come_and_go_leave_the_others_scored(tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    for number in range(300):
        (root / f"{number:03d}.png").write_bytes(picture(number % 200))
        (root / f"{number:03d}.txt").write_text("x")
    rewards = {"b": brightness}
    assert annotate(root, tmp_path / "t.parquet", rewards).scored == 300
    (root / "000.png").unlink()
    (root / "new.png").write_bytes(picture(250))
    run = annotate(root, tmp_path / "t.parquet", rewards)
    assert (run.samples, run.scored) == (300, 1)
    found = read_annotations(tmp_path / "t.parquet")
    assert len(found) == 300
    assert found.keys[-1] == "new.png"
    assert found.rewards["b"].tolist() == [*(number % 200 for number in range(1, 300)), 250]


def test_duplicate_and_damaged_samples(tmp_path):
    picks = [("0", {"png": picture(5), "txt": "a"}), ("1", {"png": picture(6)[:-30], "txt": "b"})]
    write_tar(tmp_path / "a.tar", [*picks, ("0", {"png": picture(7), "txt": "c"}), ("2", {"txt": "d"})])
    run, found = annotated(tmp_path / "a.tar", tmp_path)
    assert found.keys == ["a/0", "a/1", "a/0#2", "a/2"]
    assert values(found.rewards["b"]) == [5, None, None, None]
    assert "expected a whole image, got a damaged one" in found.reasons[1]["b"]
    assert "expected the files of a sample one after another" in found.reasons[2]["b"]
    assert "expected an image (png, jpg, webp), got txt" in found.reasons[3]["b"]
    assert not run.problems


@pytest.mark.parametrize("cut", [2048, 2700])
def test_a_cut_tar_keeps_what_could_be_read_and_is_read_again(tmp_path, cut):
    """Each sample has two members of 1,024 bytes; Python does not notice a cut between two members."""
    path = write_tar(tmp_path / "a.tar", [(str(number), {"png": picture(number), "txt": "a"}) for number in range(4)])
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    run, found = annotated(path, tmp_path)
    assert 0 < len(found) < 4
    assert "expected a whole tar file, got a damaged one" in run.problems[0]
    assert annotate(path, tmp_path / "t.parquet", {"b": brightness}).samples == len(found)
    path.write_bytes(whole)
    run, found = annotated(path, tmp_path)
    assert not run.problems
    assert values(found.rewards["b"]) == [0, 1, 2, 3]


def test_a_shard_that_changes_while_it_is_read(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("0", {"png": picture(1), "txt": "a"})])

    def meddling(images):
        write_tar(path, [("0", {"png": picture(9), "txt": "longer"})])
        return [1.0] * len(images)

    run = annotate(path, tmp_path / "t.parquet", {"m": meddling})
    assert run.problems == ["a: expected a part that stays as it is, got one that changed while it was read"]
    run = annotate(path, tmp_path / "t.parquet", {"b": brightness})
    assert run.changed == 1
    found = read_annotations(tmp_path / "t.parquet")
    assert values(found.rewards["b"]) == [9]
    assert values(found.rewards["m"]) == [None]


def test_parts_that_are_not_in_the_data_set_stay(tmp_path):
    for name in ("00000", "00001"):
        write_tar(tmp_path / f"{name}.tar", [("0", {"png": picture(int(name)), "txt": "a"})])
    both = [tmp_path / "00000.tar", tmp_path / "00001.tar"]
    annotate(both, tmp_path / "t.parquet", {"b": brightness})
    run = annotate(both[1], tmp_path / "t.parquet", {"n": length})
    assert run.notes == ["1 rows of parts that are not in this data set, such as 00000, stay in the table"]
    found = read_annotations(tmp_path / "t.parquet")
    assert found.keys == ["00001/0", "00000/0"]
    assert values(found.rewards["n"]) == [1, None]
    shutil.rmtree(tmp_path / "t.parquet.parts", ignore_errors=True)


@pytest.mark.parametrize("name", ["nothing", "file.txt", "empty"])
def test_sources_that_are_none(tmp_path, name):
    (tmp_path / "file.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ResultsError, match=r"expected (a folder of images|images)"):
        annotate(tmp_path / name, tmp_path / "t.parquet", {"b": brightness})
    assert not (tmp_path / "t.parquet.parts").exists()


def test_another_data_set_of_the_same_names_is_refused(tmp_path):
    for name, level in (("one", 0), ("two", 100)):
        (tmp_path / name).mkdir()
        samples = [(str(number), {"png": picture(level + number), "txt": "a"}) for number in range(20)]
        write_tar(tmp_path / name / "00000.tar", samples)
    annotate(tmp_path / "one", tmp_path / "t.parquet", {"b": brightness})
    before = (tmp_path / "t.parquet").read_bytes()
    with pytest.raises(
        ResultsError, match="00000: expected a part of the table's data set, got another of the same name"
    ):
        annotate(tmp_path / "two", tmp_path / "t.parquet", {"b": brightness})
    assert (tmp_path / "t.parquet").read_bytes() == before
    assert annotate(tmp_path / "one", tmp_path / "t.parquet", {"b": brightness}).samples == 0
    assert values(read_annotations(tmp_path / "t.parquet").rewards["b"]) == list(range(20))
    annotate(tmp_path / "two", tmp_path / "t.parquet", {"b": brightness}, overwrite=True)
    assert values(read_annotations(tmp_path / "t.parquet").rewards["b"]) == list(range(100, 120))


def test_texts_that_are_no_utf8(tmp_path):
    write_tar(tmp_path / "a.tar", [("0", {"png": picture(1), "json": {"caption": "half \ud83d of a pair"}})])
    annotated(tmp_path / "a.tar", tmp_path)
    run, found = annotated(tmp_path / "a.tar", tmp_path)
    assert found.captions == ["half \\ud83d of a pair"]
    assert run.changed == 0
    root = tmp_path / "images"
    root.mkdir()
    with open(os.fsencode(root) + b"/\xff.png", "wb") as file:
        file.write(picture(2))
    found = annotated(root, tmp_path / "images")[1]
    assert found.keys == ["\\udcff.png"]
