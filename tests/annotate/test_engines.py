"""Runs that are killed and resumed, in processes of this machine and on a real Ray cluster."""

import os
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter

import pytest
from annotation_data import picture, write_tar

from geneval_reward.annotate import annotate, read_annotations
from geneval_reward.errors import GenEvalError, ResultsError

pytestmark = pytest.mark.slow

REWARD = """
import os, time
from pathlib import Path

HERE = Path(__file__).parent

def slow(images):
    found = [float(image.float().mean()) for image in images]
    with open(HERE / "log", "a") as file:
        file.write("".join(f"{value:g}\\n" for value in found))
    time.sleep(0.02 * len(found))
    return found

def deadly(images):
    if not (HERE / "died").exists() and any(image.float().mean() == 77 for image in images):
        (HERE / "died").touch()
        os._exit(9)
    return slow(images)
"""
COUNT = 40


@pytest.fixture
def data(tmp_path):
    """Four files of forty images, each of another brightness."""
    (tmp_path / "mine.py").write_text(REWARD)
    folder = tmp_path / "data"
    folder.mkdir()
    for shard in range(4):
        first = COUNT * shard
        samples = [(f"{number:03d}", {"png": picture(number), "txt": "a"}) for number in range(first, first + COUNT)]
        write_tar(folder / f"{shard}.tar", samples)
    return folder


def calls(tmp_path):
    return Counter(int(float(line)) for line in (tmp_path / "log").read_text().splitlines())


def check_whole(tmp_path):
    found = read_annotations(tmp_path / "t.parquet")
    assert found.keys == [f"{number // COUNT}/{number:03d}" for number in range(4 * COUNT)]
    (column,) = found.rewards.values()
    assert column.tolist() == list(range(4 * COUNT))
    assert not (tmp_path / "t.parquet.parts").exists()


def test_a_run_that_is_killed_goes_on(data, tmp_path):
    workers = 2
    command = [sys.executable, "-m", "geneval_reward", "annotate", str(data), "-r", f"{tmp_path}/mine.py:slow"]
    command += ["-o", str(tmp_path / "t.parquet"), "--workers", str(workers)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    parts = tmp_path / "t.parquet.parts"
    while not list(parts.glob("*.parquet")):
        assert process.poll() is None
        time.sleep(0.02)
    # While it runs, nobody else may write the table.
    with pytest.raises(ResultsError, match="expected to be its only writer"):
        annotate(data, tmp_path / "t.parquet", f"{tmp_path}/mine.py:slow")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(1)  # workers end themselves when their parent is gone
    before = calls(tmp_path)
    time.sleep(0.5)
    assert calls(tmp_path) == before
    kept = len(list(parts.glob("*.parquet")))
    assert not (tmp_path / "t.parquet").exists()
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    check_whole(tmp_path)
    assert str(4 * COUNT) in said.stdout
    again = calls(tmp_path)
    assert sorted(again) == list(range(4 * COUNT))
    assert sum(count == 1 for count in again.values()) >= COUNT * kept
    assert sum(again.values()) <= 4 * COUNT + workers * COUNT


def test_a_worker_that_dies_is_named_and_loses_nothing(data, tmp_path):
    with pytest.raises(GenEvalError, match="workers: expected processes that live, got one that ended"):
        annotate(data, tmp_path / "t.parquet", f"{tmp_path}/mine.py:deadly", workers=2)
    annotate(data, tmp_path / "t.parquet", f"{tmp_path}/mine.py:deadly", workers=2)
    check_whole(tmp_path)


def test_a_reward_that_cannot_be_given_in_a_worker(data, tmp_path):
    (tmp_path / "mine.py").write_text("def slow(images): raise OSError('nothing there')")
    with pytest.raises(GenEvalError, match=r"in its first 3 batches; the last reason: .*OSError: nothing there"):
        annotate(data, tmp_path / "t.parquet", f"{tmp_path}/mine.py:slow", workers=2)


def test_a_ray_cluster(data, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray = pytest.importorskip("ray")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        ray.init(num_cpus=2, object_store_memory=200 * 2**20, include_dashboard=False, log_to_driver=False)
        try:
            seen = []
            name = f"{tmp_path}/mine.py:deadly"
            run = annotate(data, tmp_path / "t.parquet", name, engine="ray", workers=2, progress=seen.append)
            assert (run.samples, run.scored, run.problems) == (4 * COUNT, 4 * COUNT, [])
            # An actor died on the way, and Ray repeated its part.
            assert (tmp_path / "died").exists()
            check_whole(tmp_path)
            assert seen[-1].done == 4
            (tmp_path / "other.py").write_text("def bad(images): return [None] * len(images)")
            with pytest.raises(GenEvalError, match=r"ray: \d: .*expected .*bad to score at least one image"):
                annotate(data, tmp_path / "u.parquet", f"{tmp_path}/other.py:bad", engine="ray", workers=2)
        finally:
            ray.shutdown()
