"""Measures on a GPU what this project claims and cannot measure without one; docs/gpu.md says what to bring along.

    python benchmarks/gpu.py                       # all parts, each in a process of its own, at most 25 minutes
    python benchmarks/gpu.py --part right          # one part, at most 9 minutes
    python benchmarks/gpu.py --dry                 # tiny sizes on the CPU: checks the script, measures nothing

Every part prints tables in Markdown and writes each row as a JSON line to `--out` as soon as it is known, beside the baseline
of the same run. Weights that are on a model hub are replaced by random ones of the published sizes, and the tables say so.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import torch

from geneval_reward import __version__
from geneval_reward.results.tables import markdown_table

PARTS: Final = {"right": 300, "fast": 480, "training": 540, "served": 170}
"""Names of the parts, each a file `gpu_NAME.py`, and the seconds after which each is ended: 25 minutes for all."""
_RESERVE: Final = 30  # of them, to end by itself


class Report:
    """Rows of tables, kept in a file as they come.

    Args:
        part: Name of the part.
        folder: Where `PART.jsonl` and `PART.md` are written.
        seconds: Time for the part.
        tiny: Whether this is a dry run.
    """

    def __init__(self, part: str, folder: Path, seconds: float, tiny: bool) -> None:
        self.part, self.folder, self.tiny = part, folder, tiny
        self.end = time.monotonic() + seconds - _RESERVE
        self.device = "cpu" if tiny else "cuda"
        self.failed: list[str] = []
        self._tables: dict[str, list[dict[str, Any]]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for name in (f"{part}.jsonl", f"{part}.md"):
            (folder / name).unlink(missing_ok=True)
        self.add("machine", **machine(tiny))

    def add(self, table: str, **row: Any) -> None:
        """Add a row to a table."""
        self._tables.setdefault(table, []).append(row)
        line = json.dumps({"part": self.part, "table": table, **row})
        print(line, flush=True)
        with (self.folder / f"{self.part}.jsonl").open("a") as file:
            file.write(line + "\n")

    def step(self, name: str, seconds: float, run: Callable[[], None]) -> None:
        """Run a step that is expected to take so many seconds, or say why it has no result; the others go on."""
        left = self.end - time.monotonic()
        if left < seconds and not self.tiny:
            self.add("not measured", step=name, reason=f"{left:.0f} s left of {seconds:.0f} needed")
            return
        begun = time.monotonic()
        try:
            run()
        except Exception as error:  # noqa: BLE001  one step less is better than none
            traceback.print_exc()
            self.failed.append(name)
            self.add("not measured", step=name, reason=f"{type(error).__name__}: {str(error)[:200]}")
        self.add("time", step=name, seconds=time.monotonic() - begun)
        release()

    def finish(self) -> None:
        """Print and keep the tables."""
        text = f"# {self.part}\n"
        for title, rows in self._tables.items():
            columns = list(dict.fromkeys(name for row in rows for name in row))
            cells = [[_cell(row.get(column)) for column in columns] for row in rows]
            text += f"\n## {title}\n\n{markdown_table(columns, cells)}\n"
        (self.folder / f"{self.part}.md").write_text(text)
        print("\n" + text, flush=True)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return "" if value is None else str(value)


def machine(tiny: bool) -> dict[str, Any]:
    """What ran this."""
    import transformers

    cuda = not tiny
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": torch.cuda.get_device_name()
        if cuda
        else "CPU (dry run, tiny sizes: no figure here means anything)",
        "GiB": torch.cuda.get_device_properties(0).total_memory / 2**30 if cuda else None,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "geneval_reward": __version__,
    }


def release() -> None:
    """Give back what the last step left in the allocator."""
    import gc

    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def wait() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def seconds_of(run: Callable[[], Any], rounds: int) -> float:
    """Median seconds of a call, after one that is not counted."""
    run()
    found = []
    for _ in range(rounds):
        wait()
        begun = time.perf_counter()
        run()
        wait()
        found.append(time.perf_counter() - begun)
    return sorted(found)[len(found) // 2]


def run_part(part: str, folder: Path, tiny: bool) -> list[str]:
    """Run a part; returns the steps that failed."""
    warnings.simplefilter("ignore")  # random weights make every picture wrong, and say so
    report = Report(part, folder, PARTS[part], tiny)
    try:
        importlib.import_module(f"gpu_{part}").run(report)
    finally:
        report.finish()
    return report.failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--out", type=Path, default=Path("gpu_results"))
    parser.add_argument("--dry", action="store_true", help="tiny sizes on the CPU")
    args = parser.parse_args()
    if not args.dry and not torch.cuda.is_available():
        raise SystemExit("expected a CUDA device, got none; --dry checks the script without one")
    failed: list[str] = []
    if args.dry or len(args.part) == 1:
        for part in args.part:
            failed += run_part(part, args.out, args.dry)
    else:
        for part in args.part:
            # A process each, so that a crash or a leak of one does not touch the next.
            command = [sys.executable, __file__, "--part", part, "--out", str(args.out)]
            try:
                done = subprocess.run(command, timeout=PARTS[part])
                failed += [part] if done.returncode else []
            except subprocess.TimeoutExpired:
                failed.append(f"{part}: out of time")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
