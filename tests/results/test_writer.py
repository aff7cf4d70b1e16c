"""Writing as it goes: kills, resuming, and never an image twice."""

import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest
from made_up_results import synthetic_rows
from simulated_runs import SUITE_PROMPTS, simulate_runs

from geneval_reward.errors import ResultsError
from geneval_reward.judge import Rules
from geneval_reward.results import FailedImage, ResultWriter, RunIdentity, read_results
from geneval_reward.results.merge import merge_shards
from geneval_reward.results.record import failures_path

RUNS = simulate_runs(prompts=dict.fromkeys(SUITE_PROMPTS, 2), images_per_prompt=2, seed=1)
ROWS = list(synthetic_rows(RUNS))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "results.jsonl"


def write(path, rows, **options):
    with ResultWriter(path, **options) as writer:
        writer.write(rows)


def test_what_was_written_is_on_disk_at_once(path):
    with ResultWriter(path) as writer:
        writer.write(ROWS[:3])
        assert len(read_results(path)) == 3
        writer.write(ROWS[3:4])
        assert len(read_results(path)) == 4
    assert [child.name for child in path.parent.iterdir()] == ["results.jsonl"]


def test_resume_goes_on_where_it_stopped(path):
    write(path, ROWS[:5])
    with ResultWriter(path, resume=True) as writer:
        assert writer.done == {row.filename for row in ROWS[:5]}
        writer.write(row for row in ROWS if row.filename not in writer.done)
    results = read_results(path)
    assert results.filenames == [row.filename for row in ROWS]
    assert results.duplicates() == []


def test_resume_of_nothing_begins(path):
    write(path, ROWS[:2], resume=True)
    assert len(read_results(path)) == 2


@pytest.mark.parametrize("keep", [1, 100, -2])
def test_resume_mends_a_cut_last_line(path, keep):
    write(path, ROWS[:3])
    with path.open("a") as file:
        file.write(ROWS[3].to_json()[:keep])
    write(path, ROWS[3:], resume=True)
    assert path.read_text() == "".join(row.to_json() + "\n" for row in ROWS)


def test_resume_mends_a_file_that_is_nothing_but_a_cut_line(path):
    path.parent.mkdir()
    path.write_text(ROWS[0].to_json()[:50])
    write(path, ROWS[:2], resume=True)
    assert len(read_results(path)) == 2


def test_resume_adds_a_missing_newline(path):
    write(path, ROWS[:2])
    path.write_text(path.read_text().rstrip("\n"))
    write(path, ROWS[2:3], resume=True)
    assert len(read_results(path)) == 3


def test_failed_images_are_tried_again(path):
    with ResultWriter(path) as writer:
        writer.write([ROWS[0], FailedImage(ROWS[1].filename, "truncated"), ROWS[2]])
        assert writer.failed == {ROWS[1].filename: "truncated"}
    assert read_results(path).failed == {ROWS[1].filename: "truncated"}
    # The file itself stays one that the official summary script reads: seven keys in every line.
    assert all("correct" in json.loads(line) for line in path.read_text().splitlines())
    with ResultWriter(path, resume=True) as writer:
        assert writer.done == {ROWS[0].filename, ROWS[2].filename}
        writer.write([ROWS[1]])
    assert read_results(path).failed == {}
    assert not path.with_name("results.failed.jsonl").exists()


def test_two_folders_with_one_prompt_are_resumed(path):
    rows = [ROWS[0], replace(ROWS[0], filename="00999/samples/0000.png")]
    write(path, rows)
    with ResultWriter(path, resume=True) as writer:
        assert writer.done == {row.filename for row in rows}


def test_an_existing_file_is_not_touched_unasked(path):
    write(path, ROWS[:2])
    before = path.read_bytes()
    with pytest.raises(ResultsError, match="resume it, overwrite it or name another"):
        ResultWriter(path)
    assert path.read_bytes() == before
    write(path, ROWS[2:3], overwrite=True)
    assert read_results(path).filenames == [ROWS[2].filename]
    with pytest.raises(ValueError, match="at most one of the two"):
        ResultWriter(path, resume=True, overwrite=True)


def test_an_image_is_never_written_twice(path):
    with ResultWriter(path) as writer:
        writer.write(ROWS[:2])
        for batch in ([ROWS[2], ROWS[1]], [ROWS[2], ROWS[2]]):
            with pytest.raises(ResultsError, match="expected an image once"):
                writer.write(batch)
    assert len(read_results(path)) == 2  # nothing of a refused batch


def test_another_judge_is_refused_before_and_while_writing(path):
    write(path, ROWS[:2])
    with pytest.raises(ResultsError, match=r"rules confidence 0\.5 / 0\.3; backend lite / synthetic"):
        ResultWriter(path, resume=True, identity=RunIdentity.of(Rules(confidence=0.5), "lite", "synthetic"))
    other = list(synthetic_rows(RUNS, fingerprint="newer"))[5]
    with ResultWriter(path, resume=True) as writer, pytest.raises(ResultsError, match="fingerprint synthetic / newer"):
        writer.write([other])
    with ResultWriter(path, resume=True, identity=ROWS[0].identity) as writer:
        assert len(writer.done) == 2


def test_damaged_and_foreign_files_are_not_resumed(path):
    path.parent.mkdir()
    line = ROWS[0].to_json()
    path.write_text(line[:100] + "\n" + line + "\n")
    with pytest.raises(ResultsError, match="line 1"):
        ResultWriter(path, resume=True)
    path.write_text(line + "\n" + line + "\n")
    with pytest.raises(ResultsError, match=r"0000\.png: 2 lines"):
        ResultWriter(path, resume=True)
    record = json.loads(line)
    path.write_text(json.dumps({key: record[key] for key in list(record)[:7]}) + "\n")
    with pytest.raises(ResultsError, match="official script"):
        ResultWriter(path, resume=True)
    # A refused file can be opened by the next in line.
    write(path, ROWS[:1], overwrite=True)


def test_two_writers_do_not_share_a_file(path):
    with ResultWriter(path), pytest.raises(ResultsError, match="give each process its own file"):
        ResultWriter(path, resume=True)
    write(path, ROWS[:1], overwrite=True)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.slow
def test_a_killed_writer_loses_at_most_its_batch(path):
    script = textwrap.dedent(
        """
        import sys
        sys.path[:0] = sys.argv[2:]
        from geneval_reward.results import ResultWriter
        from made_up_results import synthetic_rows
        from simulated_runs import SUITE_PROMPTS, simulate_runs
        runs = simulate_runs(prompts=dict.fromkeys(SUITE_PROMPTS, 2), images_per_prompt=2, seed=1)
        with ResultWriter(sys.argv[1]) as writer:
            for row in list(synthetic_rows(runs))[:9]:
                writer.write([row])
            print("ready", flush=True)
            sys.stdin.read()
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path), *sys.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with ResultWriter(path, resume=True) as writer:
        assert len(writer.done) == 9
        writer.write(row for row in ROWS if row.filename not in writer.done)
    assert read_results(path).filenames == [row.filename for row in ROWS]


def test_no_writer_gets_in_between_release_and_removal_of_the_lock(path):
    """Removing the lock file after its release let a third writer in beside the second."""
    first = ResultWriter(path)
    kind, second = type(first._lock), []
    release = kind.release

    def between(self):
        release(self)
        if not second:
            second.append(None)
            second[0] = ResultWriter(path, overwrite=True)

    kind.release = between
    try:
        first.close()
    finally:
        kind.release = release
    with pytest.raises(ResultsError, match="give each process its own file"):
        ResultWriter(path, overwrite=True)
    second[0].close()
    assert list(path.parent.iterdir()) == [path]


def test_a_lock_on_a_file_that_was_removed_does_not_count(path, monkeypatch):
    """A writer that opened the lock file just before it was removed takes the next one."""
    first = ResultWriter(path)
    opened, real = [], os.open

    def slow(name, *args, **more):
        file = real(name, *args, **more)
        if str(name).endswith(".lock") and not opened:
            opened.append(file)
            first.close()
        return file

    monkeypatch.setattr(os, "open", slow)
    second = ResultWriter(path, overwrite=True)
    with pytest.raises(ResultsError, match="its only writer"):
        ResultWriter(path, overwrite=True)
    second.close()


def test_resume_keeps_the_mode_and_leaves_nothing_behind(path):
    with ResultWriter(path) as writer:
        writer.write([*ROWS[:3], FailedImage(ROWS[3].filename, "unreadable")])
    path.chmod(0o664)
    (path.parent / f".{path.name}.abc.tmp").write_text("left by a killed writer")
    with ResultWriter(path, resume=True) as writer:
        assert len(writer.done) == 3
    assert stat.S_IMODE(path.stat().st_mode) == 0o664
    assert list(path.parent.iterdir()) == [path]


def test_rows_that_are_to_be_scored_again_are_dropped(path):
    write(path, ROWS[:4])
    again = {ROWS[1].filename, "not there"}
    with ResultWriter(path, resume=True, again=again) as writer:
        assert writer.done == {ROWS[i].filename for i in (0, 2, 3)}
        writer.write([ROWS[1]])
    assert read_results(path).filenames == [ROWS[i].filename for i in (0, 2, 3, 1)]


def test_a_cut_failure_is_not_glued_to_the_next_shards(tmp_path):
    paths = [tmp_path / "1.jsonl", tmp_path / "2.jsonl"]
    for path, row, name in zip(paths, ROWS, "ab", strict=False):
        with ResultWriter(path) as writer:
            writer.write([row, FailedImage(f"{name}.png", "unreadable")])
    cut = failures_path(paths[0])
    cut.write_bytes(cut.read_bytes() + b'{"filename":"c')
    merge_shards(paths, tmp_path / "out.jsonl")
    assert read_results(tmp_path / "out.jsonl").failed == {"a.png": "unreadable", "b.png": "unreadable"}
