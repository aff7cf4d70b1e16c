"""Data sets as shards, and what a worker does with one. No Ray."""

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import webdataset
from PIL import Image

from geneval_reward import GenEvalScorer
from geneval_reward.errors import GenEvalError, ResultsError
from geneval_reward.prompts import official_suite
from geneval_reward.ray.work import done_path, score_shard
from geneval_reward.results import FailedImage, read_results
from geneval_reward.results.layout import read_folder, write_prompt_folder
from geneval_reward.results.merge import merge_shards
from geneval_reward.results.record import failures_path
from geneval_reward.results.shards import Sample, Shard, open_source
from geneval_reward.testing import FakeDetector, scorer_for

SUITE = official_suite()


def picture(width: int = 16, height: int = 16) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, format="PNG")
    return buffer.getvalue()


def benches(batch_size: int = 4, **options: Any) -> GenEvalScorer:
    return scorer_for(FakeDetector({"bench": [[1, 1, 9, 9, 0.8]]}), batch_size=batch_size, **options)


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    for number, spec in enumerate(SUITE[:5]):
        for index in range(2):
            (write_prompt_folder(root, number, spec) / f"{index:04d}.png").write_bytes(picture(16 + number))
    return root


def names(shards: Sequence[Shard]) -> list[list[str]]:
    return [[sample.filename for sample in shard.samples()] for shard in shards]


def test_a_folder_in_pieces(folder: Path) -> None:
    source = open_source(folder, shard_size=4)
    assert [len(piece) for piece in names(source.shards)] == [4, 4, 2]
    assert list(chain.from_iterable(names(source.shards))) == [item.filename for item in read_folder(folder).items]
    assert [shard.name for shard in source.shards] == [shard.name for shard in open_source(folder, shard_size=4).shards]
    # A shard of other images has another name, so that its old results are not taken for its own.
    (folder / "00000/samples/0001.png").unlink()
    assert not {shard.name for shard in source.shards} & {
        shard.name for shard in open_source(folder, shard_size=4).shards
    }
    assert len(names(open_source(folder, limit=3).shards)[0]) == 3


def test_a_tar_as_webdataset_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "part-0.tar"
    with webdataset.TarWriter(str(path)) as sink:
        sink.write(
            {"__key__": "a/0", "png": Image.new("RGB", (9, 9)), "json": {**SUITE[0].to_record(), "seed": 7, "index": 3}}
        )
        sink.write({"__key__": "a/1", "jpg": Image.new("RGB", (9, 9)), "json": {"metadata": SUITE[1].to_json()}})
        sink.write({"__key__": "b", "image.png": Image.new("RGB", (9, 9)), "json": {"metadata": SUITE[2].to_record()}})
        sink.write({"__key__": "c", "png": Image.new("RGB", (9, 9)), "txt": SUITE[3].prompt})
        sink.write(
            {"__key__": "d", "png": Image.new("RGB", (9, 9)), "json": {"prompt": SUITE[4].prompt, "rewritten": "x"}}
        )
    (shard,) = open_source(path).shards
    samples = [sample for sample in shard.samples() if isinstance(sample, Sample)]
    assert [sample.filename for sample in samples] == [
        "part-0/a/0.png", "part-0/a/1.jpg", "part-0/b.image.png", "part-0/c.png", "part-0/d.png",
    ]  # fmt: skip
    assert [sample.spec for sample in samples] == list(SUITE[:5])
    assert [(sample.seed, sample.index, sample.rewritten) for sample in samples] == [
        (7, 3, None),
        *[(None,) * 3] * 3,
        (None, None, "x"),
    ]


def test_what_a_tar_lacks_is_named(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "x.tar",
        [
            ("0.json", b"{}"), ("0.png", picture()),
            ("1.json", b"{nonsense"), ("1.png", picture()),
            ("2.json", SUITE[0].to_json().encode()),
            ("3.png", picture()),
            ("4.json", b"[1]"), ("4.png", picture()),
            ("5.txt", b"a photo of nothing known"), ("5.png", picture()),
            ("6.txt", b"\xff"), ("6.png", picture()),
            ("7.txt", SUITE[0].prompt.encode()), ("7.png", picture()),
        ],
    )  # fmt: skip
    found = list(open_source(path).shards[0].samples())
    assert [type(sample) for sample in found] == [FailedImage] * 7 + [Sample]
    for sample, words in zip(
        found,
        [
            "got nothing",
            "Expecting property name",
            "expected an image",
            "got nothing",
            "expected a JSON object",
            "official suite",
            "utf-8",
        ],
        strict=False,
    ):
        assert isinstance(sample, FailedImage)
        assert words in sample.error
        assert "x.tar" in sample.error
    path.write_bytes(path.read_bytes()[:3000])
    broken = list(open_source(path).shards[0].samples())[-1]
    assert isinstance(broken, FailedImage)
    assert "expected a whole tar file" in broken.error


def test_parquet_in_its_forms(tmp_path: Path) -> None:
    records = [spec.to_record() for spec in SUITE[:3]]
    flat = [
        {"image": picture(), "metadata": json.dumps(record), "filename": f"n{i}.png"}
        for i, record in enumerate(records)
    ]
    nested = [
        {"image": {"bytes": picture(), "path": None}, **spec.to_record()} for spec in (SUITE[250], SUITE[0], SUITE[300])
    ]
    texts = [{"png": picture(), "prompt": spec.prompt, "seed": 4} for spec in SUITE[:2]] + [
        {"png": None, "prompt": "x", "seed": 1}
    ]
    for name, rows in {"flat": flat, "nested": nested, "texts": texts}.items():
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{name}.parquet")
    shards = {shard.path.stem: list(shard.samples()) for shard in open_source(tmp_path).shards}
    assert [sample.filename for sample in shards["flat"]] == ["flat/n0.png", "flat/n1.png", "flat/n2.png"]
    specs = {name: [sample.spec for sample in found if isinstance(sample, Sample)] for name, found in shards.items()}
    assert specs == {"flat": list(SUITE[:3]), "nested": [SUITE[250], SUITE[0], SUITE[300]], "texts": list(SUITE[:2])}
    last = shards["texts"][-1]
    assert isinstance(last, FailedImage)
    assert "texts.parquet row 2: png: expected bytes of an image, got NoneType" in last.error
    assert [sample.seed for sample in shards["texts"][:2] if isinstance(sample, Sample)] == [4, 4]
    pq.write_table(pa.table({"x": [1]}), tmp_path / "none.parquet")
    (broken,) = next(shard for shard in open_source(tmp_path).shards if shard.path.stem == "none").samples()
    assert isinstance(broken, FailedImage)
    assert "expected a column named image" in broken.error


def test_sources_that_are_none(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ResultsError, match="expected a folder of images"):
        open_source(tmp_path / "nothing")
    with pytest.raises(ResultsError, match=r"expected a \.tar, \.parquet or \.arrow file, got nothing"):
        open_source([tmp_path / "nothing.tar"])
    with pytest.raises(ResultsError, match="expected at least one file"):
        open_source([])
    with pytest.raises(ValueError, match="shard_size: expected an integer >= 1, got 0"):
        open_source(folder, shard_size=0)
    (tmp_path / "other").mkdir()
    one = write_tar(tmp_path / "a.tar", [("0.png", picture())])
    two = write_tar(tmp_path / "other" / "a.tar", [("0.png", picture())])
    with pytest.raises(ResultsError, match="a: expected files of different names"):
        open_source([one, two])
    with pytest.raises(ValueError, match="metadata, limit: expected neither"):
        open_source(one, limit=3)


def test_a_shard_is_gone_on_with_where_its_worker_stopped(folder: Path, tmp_path: Path) -> None:
    (shard,) = open_source(folder).shards
    path = tmp_path / "shard.jsonl"
    seen: list[int] = []

    def dies(image: torch.Tensor) -> dict[str, Any]:
        seen.append(image.shape[2])
        if len(seen) == 6:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        score_shard(scorer_for(FakeDetector(dies), batch_size=4), shard, path)
    assert len(read_results(path)) == 4
    assert not done_path(path).exists()
    with path.open("a") as file:
        file.write('{"filename": "half')
    report = score_shard(scorer_for(FakeDetector({}), batch_size=4), shard, path)
    assert (report.images, report.scored, report.failed) == (10, 6, 0)
    assert read_results(path).filenames == names([shard])[0]
    assert json.loads(done_path(path).read_text()) == {"images": 10, "failed": 0}
    again = score_shard(scorer_for(FakeDetector({}), batch_size=4), shard, path)
    assert (again.images, again.scored) == (10, 0)
    with pytest.raises(ResultsError, match="expected one judge in a file"):
        score_shard(scorer_for(FakeDetector({}), rules="geneval,confidence=0.5"), shard, path)


def test_a_shard_that_kills_its_workers_is_given_up(folder: Path, tmp_path: Path) -> None:
    (shard,) = open_source(folder).shards
    path = tmp_path / "shard.jsonl"

    def dies(image: torch.Tensor) -> dict[str, Any]:
        if image.shape[2] == 18:
            raise KeyboardInterrupt
        return {}

    for _ in range(4):  # The first one gets four images further than the others.
        with pytest.raises(KeyboardInterrupt):
            score_shard(scorer_for(FakeDetector(dies), batch_size=4), shard, path)
    with pytest.raises(GenEvalError, match="3 workers died after 4 images of 00000-"):
        score_shard(benches(), shard, path)


def test_images_that_cannot_be_scored_are_named_and_tried_again(tmp_path: Path) -> None:
    text = SUITE[0].prompt.encode()
    members = [
        ("0.png", picture()),
        ("0.txt", text),
        ("1.png", b"junk"),
        ("1.txt", text),
        ("2.png", picture()[:45]),
        ("2.txt", text),
    ]
    (shard,) = open_source(write_tar(tmp_path / "x.tar", members)).shards
    path = tmp_path / "shard.jsonl"
    for _ in range(2):
        report = score_shard(benches(), shard, path)
        assert (report.images, report.failed) == (1, 2)
    results = read_results(path)
    assert results.failed.keys() == {"x/1.png", "x/2.png"}
    assert results.failed["x/1.png"].startswith("x/1.png: expected an image")


def test_shards_merge_to_what_one_process_writes(folder: Path, tmp_path: Path) -> None:
    whole, pieces = tmp_path / "whole.jsonl", tmp_path / "pieces"
    score_shard(benches(), open_source(folder).shards[0], whole)
    shards = open_source(folder, shard_size=3).shards
    paths = [pieces / f"{shard.name}.jsonl" for shard in shards]
    for shard, path in reversed(list(zip(shards, paths, strict=True))):
        score_shard(benches(), shard, path)
    out = tmp_path / "out.jsonl"
    assert merge_shards(paths, out) == 10
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "images",
        "out.jsonl",
        "pieces",
        "whole.done",
        "whole.jsonl",
    ]


def test_numbers_within_a_prompt_are_given_where_there_are_none(tmp_path: Path) -> None:
    def members(count: int, **more: Any) -> Iterator[tuple[str, bytes]]:
        for number in range(count):
            yield f"{number}.png", picture()
            yield f"{number}.json", json.dumps(SUITE[number % 2].to_record() | more).encode()

    shards = open_source([write_tar(tmp_path / f"{name}.tar", list(members(3))) for name in "ab"]).shards
    paths = [tmp_path / f"{shard.name}.jsonl" for shard in shards]
    for shard, path in zip(shards, paths, strict=True):
        score_shard(benches(), shard, path)
    merge_shards(paths, tmp_path / "out.jsonl")
    results = read_results(tmp_path / "out.jsonl")
    assert results.index.tolist() == [0, 0, 1, 2, 1, 3]
    assert results.duplicates() == []
    assert next(results.rows()).detections is not None


def test_what_cannot_be_merged(folder: Path, tmp_path: Path) -> None:
    one, two = open_source(folder, shard_size=5).shards
    paths = [tmp_path / "1.jsonl", tmp_path / "2.jsonl"]
    out = tmp_path / "out.jsonl"
    with pytest.raises(ResultsError, match="expected at least one image that was scored"):
        merge_shards(paths, out)
    score_shard(benches(), one, paths[0])
    score_shard(benches(min_confidence=0.2), two, paths[1])
    with pytest.raises(ResultsError, match=r"2.jsonl: expected the judge of 1.jsonl, got another: fingerprint"):
        merge_shards(paths, out)
    with pytest.raises(ResultsError, match=r"expected an image once, got 00000/samples/0000.png in 1.jsonl too"):
        merge_shards([paths[0], paths[0]], out)
    assert not out.exists()
    assert merge_shards(paths[:1], out) == 5
    assert not failures_path(out).exists()


def test_parquet_as_hugging_face_datasets_embeds_it(tmp_path: Path) -> None:
    """It keeps base names only, which repeat."""
    rows = [{"image": {"bytes": picture(), "path": "0000.png"}, **spec.to_record()} for spec in SUITE[:3]]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    (shard,) = open_source(tmp_path / "t.parquet").shards
    assert score_shard(benches(), shard, tmp_path / "out.jsonl").images == 3
    assert [sample.filename for sample in shard.samples()] == [f"t/{i:06d}-0000.png" for i in range(3)]
    named = [{"png": picture(), "filename": "a.png", **spec.to_record()} for spec in SUITE[:2]]
    pq.write_table(pa.Table.from_pylist(named), tmp_path / "n.parquet")
    (shard,) = open_source(tmp_path / "n.parquet").shards
    assert [sample.filename for sample in shard.samples()] == ["n/a.png", "n/000001-a.png"]


def test_a_tar_made_on_a_mac(tmp_path: Path) -> None:
    record = SUITE[0].to_json().encode()
    members = [
        ("._0.json", b"x"),
        ("0.json", record),
        ("._0.png", b"x"),
        ("0.png", picture()),
        ("__MACOSX/0.png", b"x"),
    ]
    (shard,) = open_source(write_tar(tmp_path / "x.tar", members)).shards
    (sample,) = shard.samples()
    assert isinstance(sample, Sample)
    assert sample.filename == "x/0.png"


def test_samples_in_pieces_are_named_as_that(tmp_path: Path) -> None:
    record = SUITE[0].to_json().encode()
    members = [("0.json", record), ("1.json", record), ("0.png", picture()), ("1.png", picture())]
    found = list(open_source(write_tar(tmp_path / "x.tar", members)).shards[0].samples())
    assert len({sample.filename for sample in found}) == 4
    assert all(isinstance(sample, FailedImage) for sample in found)
    assert "must follow one another" in found[0].error
    assert "tar --sort=name" in found[3].error
    twice = [("0.json", record), ("0.png", picture()), ("0.png", picture())]
    (sample,) = open_source(write_tar(tmp_path / "y.tar", twice)).shards[0].samples()
    assert isinstance(sample, FailedImage)
    assert "got another of that name" in sample.error


def test_a_tar_member_that_claims_too_much_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    info = tarfile.TarInfo("0.png")
    info.size = 2**30
    path.write_bytes(info.tobuf())
    with path.open("r+b") as file:  # a hole that takes no room on the disk
        file.truncate(512 + 2**30 + 1024)
    (sample,) = open_source(path).shards[0].samples()
    assert isinstance(sample, FailedImage)
    assert "expected at most 536,870,912 bytes in 0.png, got 1,073,741,824" in sample.error


def test_an_image_that_the_scorer_cannot_judge_is_named(folder: Path, tmp_path: Path) -> None:
    def found(image: torch.Tensor) -> dict[str, Any]:
        if image.shape[2] == 17:
            raise RuntimeError("a broken kernel")
        return {}

    (shard,) = open_source(folder).shards
    report = score_shard(scorer_for(FakeDetector(found), batch_size=4), shard, tmp_path / "out.jsonl")
    assert (report.images, report.failed) == (8, 2)
    assert "RuntimeError: a broken kernel" in failures_path(tmp_path / "out.jsonl").read_text()


def test_the_image_of_a_sample_is_certain(tmp_path: Path) -> None:
    """Depth maps and masks stand beside images; which of two images is meant cannot be told."""
    record = SUITE[0].to_json().encode()
    members = [
        ("0.depth.png", picture(8)),
        ("0.json", record),
        ("0.png", picture(16)),
        ("1.jpg", picture(8)),
        ("1.json", record),
        ("1.png", picture(16)),
    ]
    (shard,) = open_source(write_tar(tmp_path / "x.tar", members)).shards
    first, second = shard.samples()
    assert isinstance(first, Sample)
    assert (first.filename, first.image) == ("x/0.png", picture(16))
    assert isinstance(second, FailedImage)
    assert "1: expected one image, got jpg, png" in second.error


def test_a_tar_that_was_cut_between_two_samples(tmp_path: Path) -> None:
    """Python's reader ends there as if nothing were missing."""
    path = write_tar(
        tmp_path / "a.tar", [(f"{n}.{end}", data) for n in "01" for end, data in (("png", picture()), ("txt", b"x"))]
    )
    path.write_bytes(path.read_bytes()[:2048])
    last = list(open_source(path).shards[0].samples())[-1]
    assert isinstance(last, FailedImage)
    assert "no end mark" in last.error
