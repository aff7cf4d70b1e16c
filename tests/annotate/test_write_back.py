"""Data sets written again with their scores."""

import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from annotation_data import BENCH, brightness, picture, write_tar

from geneval_reward.annotate import annotate
from geneval_reward.annotate.write_back import write_back
from geneval_reward.errors import ResultsError, UsageError
from geneval_reward.results.raw_samples import read_tar


def some(images):
    return [None if image.float().mean() == 1 else 0.5 for image in images]


REWARDS = {"b": brightness, "s": some}


def test_tar(tmp_path):
    (tmp_path / "data").mkdir()
    path = write_tar(
        tmp_path / "data" / "a.tar",
        [
            ("0", {"png": picture(0), "json": BENCH, "seg.png": picture(9)}),
            ("1", {"png": picture(1), "txt": "no json"}),
            ("2", {"png": picture(2), "json": "[1]"}),
            ("0", {"png": picture(3)}),
        ],
    )
    before = path.read_bytes()
    annotate(path, tmp_path / "t.parquet", REWARDS)
    files, problems = write_back(path, tmp_path / "t.parquet", tmp_path / "scored")
    assert files == [tmp_path / "scored" / "a.tar"]
    assert path.read_bytes() == before
    assert len(problems) == 1
    assert "2.json: expected a JSON object for the scores, got a JSON list; it is copied as it is" in problems[0]
    found = [raw.files.get("json") for raw in read_tar(files[0])][:3]
    assert json.loads(found[0]) == BENCH | {"rewards": {"b": 0, "s": 0.5}}
    assert json.loads(found[1]) == {"rewards": {"b": 1, "s": None}}
    assert found[2] == b"[1]"
    with tarfile.open(files[0]) as tar:
        assert tar.extractfile("0.seg.png").read() == picture(9)
    # The new files are annotated like the old ones.
    annotate(files[0], tmp_path / "u.parquet", REWARDS)


def test_parquet(tmp_path):
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "a.parquet"
    pq.write_table(pa.table({"image": [picture(0), picture(1)], "text": ["a", "b"], "b": ["old", "values"]}), path)
    annotate(path, tmp_path / "t.parquet", REWARDS)
    (file,) = write_back(path, tmp_path / "t.parquet", tmp_path / "scored")[0]
    rows = pq.read_table(file).to_pylist()
    assert rows == [
        {"image": picture(0), "text": "a", "b": 0.0, "s": 0.5},
        {"image": picture(1), "text": "b", "b": 1.0, "s": None},
    ]


def test_image_folder(tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    for number in range(2):
        (root / f"{number}.png").write_bytes(picture(number))
        (root / f"{number}.txt").write_text(f"caption {number}")
    annotate(root, tmp_path / "t.parquet", REWARDS)
    (file,) = write_back(root, tmp_path / "t.parquet", tmp_path / "scored")[0]
    assert [json.loads(line) for line in file.read_text().splitlines()] == [
        {"file_name": "0.png", "text": "caption 0", "rewards": {"b": 0, "s": 0.5}},
        {"file_name": "1.png", "text": "caption 1", "rewards": {"b": 1, "s": None}},
    ]
    # Beside the images it makes them a Hugging Face image folder.
    (root / "metadata.jsonl").write_bytes(file.read_bytes())
    annotate(root, tmp_path / "u.parquet", REWARDS)
    with pytest.raises(UsageError, match="expected another folder than that of the data set"):
        write_back(root, tmp_path / "u.parquet", root)


def test_a_table_of_other_data_is_refused(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("0", {"png": picture(0), "txt": "a"})])
    annotate(path, tmp_path / "t.parquet", REWARDS)
    write_tar(path, [("0", {"png": picture(0), "txt": "another"})])
    with pytest.raises(ResultsError, match="expected a table of all that is in the data set, got one of another a"):
        write_back(path, tmp_path / "t.parquet", tmp_path / "scored")
