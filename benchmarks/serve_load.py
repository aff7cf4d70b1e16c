"""A reward server under load: many clients for some minutes, beside the scorer in one process, in one run.

    python benchmarks/serve_load.py --seconds 120 --clients 64
    python benchmarks/serve_load.py --seconds 10 --clients 8 --workers 2 --threads 1

Every client knows the verdict of each of its images from the scorer in this process, so that a lost, wrong or swapped answer
is counted. The scorer alone is measured before and after, with the server's batch size and all threads of the machine. On a
machine that others use as well, compare the CPU seconds per image: they depend less on who else is running. Exit status 1
if there was an error, a wrong answer, or a throughput below --target of the scorer's.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from geneval_reward import GenEvalScorer
from geneval_reward.service import RemoteScorer
from geneval_reward.vision.photos import PHOTOS, photo

TICK = os.sysconf("SC_CLK_TCK")


def make_images(count: int, side: int) -> tuple[list[np.ndarray], list[dict[str, Any]]]:
    """Photographs, shifted so that no two are alike, with records that are true and false of them."""
    shots = [(np.asarray(photo(name).resize((side, side))), shot) for name, shot in PHOTOS.items()]
    images, records = [], []
    for index in range(count):
        pixels, shot = shots[index % len(shots)]
        images.append(np.roll(pixels, 7 * index, axis=1))
        record = dict(shot.record if index % 3 else shot.false_record)
        if index % 4 == 1:
            record |= {"tag": "colors", "include": [{**shot.record["include"][0], "color": "red"}]}
        records.append(record)
    return images, records


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of processes so far."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / TICK


def memory(pids: list[int]) -> float:
    """MiB of processes."""
    found = 0.0
    for pid in pids:
        with suppress(OSError):
            held = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
            found += int(held[1]) / 1024 if held else 0.0  # a process that has ended but was not waited for has none
    return found


def measure_scorer(args: argparse.Namespace, seconds: float) -> dict[str, float]:
    """Images per second and CPU seconds an image of the scorer alone, in a process of its own."""
    make = f"GenEvalScorer.from_pretrained({args.backend!r}, device={args.device!r}, batch_size={args.batch_size})"
    code = f"""
import json, sys, time, torch
sys.path.insert(0, {str(Path(__file__).parent)!r})
import serve_load
torch.set_num_threads({args.workers * args.threads})
scorer = serve_load.{make}
images, records = serve_load.make_images({args.images}, {args.side})
scorer.score(images, records)
begun, cpu, n = time.perf_counter(), time.process_time(), 0
while time.perf_counter() - begun < {seconds}:
    scorer.score(images, records)
    n += len(images)
print(json.dumps([n / (time.perf_counter() - begun), (time.process_time() - cpu) / n]))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    rate, cpu = json.loads(out)
    return {"images_per_second": rate, "cpu_seconds_per_image": cpu}


@contextmanager
def running_server(args: argparse.Namespace) -> Any:
    """A server process; yields its address and process ids."""
    options = {"--backend": args.backend, "--device": args.device, "--workers": args.workers, "--threads": args.threads}
    options |= {"--batch-size": args.batch_size, "--port": 0} | getattr(args, "more_options", {})
    command = [
        sys.executable,
        "-m",
        "geneval_reward",
        "serve",
        *(str(part) for name, value in options.items() if value is not None for part in (name, value)),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    lines: list[str] = []
    try:
        assert process.stderr is not None
        while sum("ready: " in line and "worker " in line for line in lines) < args.workers:
            line = process.stderr.readline()
            if not line:
                raise SystemExit("the server ended:\n" + "".join(lines))
            lines.append(line)
        log = threading.Thread(target=lambda: lines.extend(process.stderr), daemon=True)  # type: ignore[arg-type]
        log.start()
        url = re.search(r"listening on (\S+);", "".join(lines))[1]
        yield url, process.pid, [int(pid) for pid in re.findall(r", process (\d+)", "".join(lines))]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


class Client(threading.Thread):
    """Asks without a pause and checks every answer."""

    def __init__(self, number: int, url: str, args: argparse.Namespace, data: Any, end: threading.Event) -> None:
        super().__init__(daemon=True)
        self.scorer = RemoteScorer(url, timeout=args.timeout, encoding=args.encoding)
        self.rng = np.random.default_rng(number)
        self.args, self.data, self.end = args, data, end
        self.latencies: list[float] = []
        self.errors: list[str] = []
        self.wrong = self.scored = 0

    def run(self) -> None:
        images, records, expected = self.data
        while not self.end.is_set():
            picked = self.rng.choice(len(images), self.args.per_request, replace=False).tolist()
            begun = time.perf_counter()
            try:
                verdicts = self.scorer.score([images[i] for i in picked], [records[i] for i in picked])
            except Exception as error:  # noqa: BLE001  counted
                self.errors.append(str(error))
                continue
            self.latencies.append(time.perf_counter() - begun)
            self.scored += len(picked)
            for index, verdict in zip(picked, verdicts, strict=True):
                self.wrong += identity(verdict) != expected[index]
        self.scorer.close()


def identity(verdict: Any) -> tuple[Any, ...]:
    return verdict.correct, verdict.reason, verdict.dense, verdict.detections.xyxy.tobytes()


def parse() -> argparse.Namespace:
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--per-request", type=int, default=4, help="images of one request")
    parser.add_argument("--images", type=int, default=48, help="distinct images")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--backend", default="lite")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=cores, help="CPU threads of each worker")
    parser.add_argument("--encoding", default="raw", choices=("raw", "png", "webp"))
    parser.add_argument("--timeout", type=float, default=120.0)
    parser.add_argument("--target", type=float, default=0.95)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> int:
    args = parse()
    images, records = make_images(args.images, args.side)
    scorer = GenEvalScorer.from_pretrained(args.backend, device=args.device, batch_size=args.batch_size)
    expected = [identity(verdict) for verdict in scorer.score(images, records)]
    alone = [measure_scorer(args, args.seconds / 6)]
    with running_server(args) as (url, server, workers):
        end = threading.Event()
        clients = [Client(number, url, args, (images, records, expected), end) for number in range(args.clients)]
        cpu = cpu_seconds(workers), cpu_seconds([server]), time.process_time()
        begun = time.perf_counter()
        for client in clients:
            client.start()
        peak = [0.0, 0.0]
        while time.perf_counter() - begun < args.seconds:
            time.sleep(0.5)
            peak = [max(peak[0], memory([server])), max(peak[1], memory(workers))]
        scored = sum(client.scored for client in clients)
        seconds = time.perf_counter() - begun
        spent = cpu_seconds(workers) - cpu[0], cpu_seconds([server]) - cpu[1], time.process_time() - cpu[2]
        end.set()
        for client in clients:
            client.join(args.timeout)
    alone.append(measure_scorer(args, args.seconds / 6))
    latencies = sorted(latency for client in clients for latency in client.latencies)
    errors = [error for client in clients for error in client.errors]
    base = statistics.mean(one["images_per_second"] for one in alone)
    base_cpu = statistics.mean(one["cpu_seconds_per_image"] for one in alone)
    row = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "clients": args.clients,
        "seconds": round(seconds, 1),
        "images": scored,
        "errors": len(errors),
        "wrong_or_reordered": sum(client.wrong for client in clients),
        "images_per_second": scored / seconds,
        "scorer_images_per_second": [one["images_per_second"] for one in alone],
        "ratio": scored / seconds / base,
        "cpu_ratio_without_clients": base_cpu * max(1, scored) / (spent[0] + spent[1]),
        "cpu_ms_per_image": {
            "scorer_alone": 1000 * base_cpu,
            **{
                name: 1000 * one / max(1, scored)
                for name, one in zip(("workers", "server", "clients"), spent, strict=True)
            },
        },
        "request_seconds": {
            name: latencies[min(len(latencies) - 1, int(share * len(latencies)))]
            for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0))
        }
        if latencies
        else {},
        "peak_mib": {"server": peak[0], "workers": peak[1]},
        "setting": {
            name: getattr(args, name)
            for name in ("backend", "device", "batch_size", "workers", "threads", "per_request", "side", "encoding")
        },
    }
    print(json.dumps(row, indent=1))
    for error in errors[:5]:
        print("error:", error)
    if args.out:
        args.out.write_text(json.dumps(row) + "\n")
    return int(bool(errors) or row["wrong_or_reordered"] > 0 or row["ratio"] < args.target)


if __name__ == "__main__":
    sys.exit(main())
