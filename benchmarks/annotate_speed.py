"""Annotate 20,000 pocket images by `lite`: CPU time by stage, one process against two, and a run that is killed and resumed.

    python benchmarks/annotate_speed.py make DATA [COUNT]      # tar files of 1,000 scenes, about 9 minutes of one CPU
    python benchmarks/annotate_speed.py stages DATA            # CPU ms per image by stage, 500 images, one thread
    python benchmarks/annotate_speed.py processes DATA         # one process of two threads against two of one, in turn
    python benchmarks/annotate_speed.py run DATA OUT           # all of it, killed on the way and resumed

`run` prints what `docs/annotate.md` quotes. Wall time counts only on a machine that does nothing else; CPU time holds anyway.
"""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

REWARDS = "geneval_official,geneval_strict,geneval_partial"
STAGED = 500


def make(folder: Path, count: int = 20_000, per_file: int = 1000) -> None:
    """Write scenes with captions that may be wrong, a record and a text each; files that are there are kept."""
    from geneval_reward.pocket.render import render
    from geneval_reward.pocket.world import Noise, sample_training_scenes
    from geneval_reward.prompts.vocabulary import TAGS

    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, count, per_file):
        path = folder / f"pocket-{start // per_file:05d}.tar"
        if path.exists():
            continue
        rng = np.random.default_rng(start)
        specs, scenes = sample_training_scenes(rng, min(per_file, count - start), dict.fromkeys(TAGS, 1), Noise())
        part = path.with_suffix(".part")
        with tarfile.open(part, "w") as tar:
            for number, (spec, scene) in enumerate(zip(specs, scenes, strict=True), start):
                buffer = io.BytesIO()
                Image.fromarray(render(scene)).save(buffer, "PNG", compress_level=1)
                texts = {"png": buffer.getvalue(), "json": spec.to_json().encode(), "txt": spec.prompt.encode()}
                for ending, data in texts.items():
                    info = tarfile.TarInfo(f"{number:06d}.{ending}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        part.rename(path)
        print(path, f"{path.stat().st_size / 2**20:.0f} MiB", flush=True)


def stages(folder: Path) -> None:
    """Print CPU milliseconds per image of each stage, one thread."""
    from geneval_reward.annotate import part as parts
    from geneval_reward.annotate import rewards
    from geneval_reward.annotate.part import Annotator, Job, Setup
    from geneval_reward.annotate.rewards import parse_rewards
    from geneval_reward.annotate.sources import open_parts
    from geneval_reward.scorer import geneval

    torch.set_num_threads(1)
    spent: dict[str, float] = {}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            begun = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent[name] = spent.get(name, 0.0) + time.thread_time() - begun

        return call

    annotator = Annotator(Setup(parse_rewards(REWARDS)))
    scorer: Any = annotator.rewards.scorer
    scorer.detector.detect = timed("detector", scorer.detector.detect)
    scorer.verifier.colors = timed("colours", scorer.verifier.colors)
    geneval.judge = timed("judge", geneval.judge)
    parts.load_image = timed("decode", parts.load_image)
    parts.find_record = timed("record", parts.find_record)
    parts.find_caption = timed("caption", parts.find_caption)
    parts._digest = timed("digest", parts._digest)
    parts.write_table = timed("table", parts.write_table)
    rewards.RewardSet._settle = timed("credits", rewards.RewardSet._settle)  # type: ignore[method-assign]
    part = open_parts(sorted(folder.glob("*.tar"))[:1])[0][0]
    whole = part.raw_samples

    class Some:
        label, digest, path = part.label, part.digest, part.path
        count = 32  # the first call imports and caches

        def raw_samples(self) -> Any:
            return (one for one, _ in zip(whole(), range(self.count), strict=False))

    parts.digest_now = lambda _: part.digest
    parts._known_tables = lambda job: ()
    path = Path(sys.argv[2]) / "stages.parquet"
    some = Some()
    annotator.annotate(Job(some, path))  # type: ignore[arg-type]
    spent.clear()
    some.count = STAGED
    begun = time.process_time()
    report = annotator.annotate(Job(some, path))  # type: ignore[arg-type]
    total = time.process_time() - begun
    path.unlink()
    print(f"{report.scored} images, {1000 * total / report.scored:.1f} CPU ms per image, one thread")
    for name, seconds in sorted(spent.items(), key=lambda one: -one[1]):
        print(f"  {name:10s} {1000 * seconds / report.scored:7.2f} ms")
    print(f"  {'rest':10s} {1000 * (total - sum(spent.values())) / report.scored:7.2f} ms")


def processes(folder: Path) -> None:
    """Time one process of two threads and two processes of one, in turn, on two files of 250 images."""
    small = folder.parent / "annotate_speed_small"
    make(small, 1000, 500)
    for turn in range(2):
        for workers in (1, 2):
            table = small / "t.parquet"
            table.unlink(missing_ok=True)
            wall, cpu, _ = _run(small, table, workers)
            print(f"turn {turn}: {workers} process(es): {wall:.0f} s, {cpu:.0f} CPU s, loading included", flush=True)


def run(folder: Path, out: Path, workers: int = 2) -> None:
    """Annotate everything; kill the run with SIGKILL after a third, resume it, and hold the table against the data set."""
    out.mkdir(parents=True, exist_ok=True)
    table = out / "table.parquet"
    table.unlink(missing_ok=True)
    shutil.rmtree(out / "table.parquet.parts", ignore_errors=True)
    files = len(list(folder.glob("*.tar")))
    stop_at = max(1, files // 3)
    begun = time.time()
    killed_cpu, stored = _killed(folder, table, workers, stop_at)
    print(
        f"killed after {time.time() - begun:.0f} s with {stored:,} samples stored, {killed_cpu:.0f} CPU s", flush=True
    )
    wall, cpu, said = _run(folder, table, workers)
    print(f"resumed: {wall:.0f} s, {cpu:.0f} CPU s", flush=True)
    print(said, flush=True)
    from geneval_reward.annotate import read_annotations

    found = read_annotations(table)
    whole = time.time() - begun
    print(
        json.dumps(
            {
                "samples": len(found),
                "distinct keys": len(set(found.keys)),
                "without a value": {name: int(np.isnan(values).sum()) for name, values in found.rewards.items()},
                "wall seconds": round(whole),
                "CPU seconds": round(killed_cpu + cpu),
                "CPU ms per image": round(1000 * (killed_cpu + cpu) / len(found), 1),
                "workers": workers,
                "load average": os.getloadavg()[0],
            }
        )
    )


def _command(folder: Path, table: Path, workers: int) -> list[str]:
    command = [
        sys.executable,
        "-m",
        "geneval_reward",
        "annotate",
        str(folder),
        "--rewards",
        REWARDS,
        "--out",
        str(table),
    ]
    return [*command, "--device", "cpu", "--workers", str(workers)]


def _run(folder: Path, table: Path, workers: int) -> tuple[float, float, str]:
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, 2 // workers))}
    ended = subprocess.run(
        _command(folder, table, workers), stdout=subprocess.PIPE, text=True, env=environment, check=False
    )
    if ended.returncode not in (0, 1):
        raise SystemExit(f"annotate ended with {ended.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.time() - begun, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, ended.stdout


def _killed(folder: Path, table: Path, workers: int, files: int) -> tuple[float, int]:
    """Start a run, kill it once so many files are finished, and return its CPU seconds and the samples that it stored."""
    import pyarrow.parquet as pq

    process = subprocess.Popen(_command(folder, table, workers), stdout=subprocess.DEVNULL)
    parts = table.with_name(table.name + ".parts")
    while len(list(parts.glob("*.parquet"))) < files:
        time.sleep(1)
        if process.poll() is not None:
            raise SystemExit("expected to kill the run, but it ended")
    cpu = _cpu_of(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(3)  # the workers notice that their parent is gone
    stored = [pq.read_metadata(file).num_rows for file in [*parts.glob("*.parquet"), *parts.glob("*.piece")]]
    return cpu, sum(stored)


def _cpu_of(pid: int) -> float:
    """CPU seconds of a process and its children, from /proc."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(stat.parent.name) == pid or int(fields[1]) == pid:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    what = {"make": make, "stages": stages, "processes": processes, "run": run}[sys.argv[1]]
    paths: list[Any] = [
        Path(one) if number < 2 and not one.isdigit() else int(one) for number, one in enumerate(sys.argv[2:])
    ]
    what(*paths)
