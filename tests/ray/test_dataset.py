"""Data sets on a real Ray cluster of two workers."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from geneval_reward import GenEvalScorer
from geneval_reward.cli import app
from geneval_reward.errors import GenEvalError, ResultsError
from geneval_reward.prompts import PromptSpec
from geneval_reward.ray import score_dataset
from geneval_reward.ray.work import score_shard
from geneval_reward.results import read_results
from geneval_reward.results.layout import write_prompt_folder
from geneval_reward.results.shards import open_source
from geneval_reward.vision.photos import PHOTOS, photo

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("two_workers")]


def counting(log: Path, kill_at: int | None = None) -> Callable[[], GenEvalScorer]:
    """A function that makes a scorer which notes the width of every image, and dies once at one of them."""

    def make() -> GenEvalScorer:
        import os
        import signal

        from geneval_reward.testing import FakeDetector, scorer_for

        def found(image: Any) -> dict[str, Any]:
            width = image.shape[2]
            with open(log, "a") as file:
                file.write(f"{os.getpid()} {width}\n")
            if width == kill_at and not log.with_suffix(".killed").exists():
                log.with_suffix(".killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return {"bench": [[1, 1, 9, 9, 0.8]]}

        return scorer_for(FakeDetector(found), batch_size=2)

    return make


def widths(log: Path) -> Counter[int]:
    return Counter(int(line.split()[1]) for line in log.read_text().splitlines())


def test_the_same_as_one_process_though_a_worker_is_killed_and_resumable_by_shard(
    sixteen: Path, tmp_path: Path
) -> None:
    log, out = tmp_path / "log", tmp_path / "out.jsonl"
    source = open_source(sixteen, shard_size=4)
    whole = tmp_path / "whole.jsonl"
    score_shard(counting(tmp_path / "alone")(), open_source(sixteen).shards[0], whole)

    reports = []
    make = counting(log, kill_at=16 + 4 + 3)
    found = score_dataset(source, out, make, progress=reports.append)
    assert (found.images, found.failed, found.shards, found.taken) == (16, 0, 4, 0)
    assert log.with_suffix(".killed").exists()
    assert out.read_bytes() == whole.read_bytes()
    # Only the batch at which the worker died was seen twice, since it had not been written.
    assert widths(log) == Counter(range(16, 32)) + Counter({22: 1, 23: 1})
    assert len({line.split()[0] for line in log.read_text().splitlines()}) == 3
    assert sorted((report.images, report.scored) for report in reports) == [(4, 2), (4, 4), (4, 4), (4, 4)]

    # Resumed: what is finished is not looked at, what is not is gone on with.
    log.unlink()
    shards = sorted((tmp_path / "out.jsonl.shards").glob("*.jsonl"))
    shards[1].with_suffix(".done").unlink()
    shards[1].write_bytes(b"".join(shards[1].read_bytes().splitlines(keepends=True)[:3]))
    shards[3].unlink()
    shards[3].with_suffix(".done").unlink()
    again = score_dataset(source, out, counting(log), resume=True)
    assert (again.images, again.shards, again.taken) == (16, 4, 2)
    assert widths(log) == Counter([23, 28, 29, 30, 31])
    assert out.read_bytes() == whole.read_bytes()

    log.unlink()
    assert score_dataset(source, out, counting(log), resume=True).taken == 4
    assert not log.exists()
    with pytest.raises(FileExistsError, match="expected new results"):
        score_dataset(source, out, counting(log))


def test_a_worker_that_cannot_start_says_why(sixteen: Path, tmp_path: Path) -> None:
    with pytest.raises(GenEvalError, match=r"ray: 00000-.*expected a weight file.*none\.pth"):
        score_dataset(sixteen, tmp_path / "out.jsonl", "paper", checkpoint=str(tmp_path / "none.pth"), device="cpu")
    with pytest.raises(ValueError, match=r"expected a cluster with 64 CPUs and 0 GPUs for each, got 2"):
        score_dataset(sixteen, tmp_path / "out2.jsonl", cpus_per_worker=64)


def test_the_command_gives_what_the_local_engine_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, (name, shot) in enumerate(PHOTOS.items()):
        picture = photo(name)
        picture.thumbnail((160, 160))
        picture.save(write_prompt_folder("images", number, PromptSpec.parse(shot.record)) / "0000.png")
    common = ["score", "images", "--device", "cpu"]
    one = CliRunner().invoke(app, [*common, "--out", "one.jsonl"])
    two = CliRunner().invoke(app, [*common, "--out", "two.jsonl", "--engine", "ray", "--workers", "1"])
    assert one.exit_code == two.exit_code, two.stderr
    assert one.stdout == two.stdout
    first, second = read_results("one.jsonl"), read_results("two.jsonl")
    assert first.filenames == second.filenames
    assert first.identity == second.identity
    assert first.correct.tolist() == second.correct.tolist()
    assert first.credit("dense") == pytest.approx(second.credit("dense"), abs=1e-4)
    assert "results: two.jsonl" in two.stderr
    third = CliRunner().invoke(app, [*common, "--out", "two.jsonl", "--engine", "ray", "--resume"])
    assert "1 of 1 shards were finished already" in third.stderr
    fourth = CliRunner().invoke(app, [*common, "--out", "one.jsonl", "--engine", "ray", "--resume"])
    assert isinstance(fourth.exception, ResultsError)
    assert "it was not made with Ray" in str(fourth.exception)
