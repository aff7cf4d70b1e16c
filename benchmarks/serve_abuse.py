"""A reward server under abuse: random bodies, hostile pickles, bombs, slow and huge requests. It must answer all, and not grow.

    python benchmarks/serve_abuse.py --bodies 10000
    python benchmarks/serve_abuse.py --quick

Random bodies come from schemathesis by the server's own OpenAPI page, and from damage to a good request: bytes flipped, cut out,
doubled, and JSON values replaced by others. Pickles go to the path of Flow-GRPO's client: calls of every protocol that create a
file, damaged ones, and ones that take long to read. Exit status 1 if a pickle was executed, a good request afterwards is not
answered, an answer took more than --patience seconds or was a 5xx other than 503 and 504, /health was silent for more than
--silence seconds while slow pickles and images were read, or a process grew by more than --growth MiB.
"""

from __future__ import annotations

import argparse
import base64
import copy
import io
import json
import os
import pickle
import random
import socket
import struct
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

import serve_load

from geneval_reward.vision.photos import photo

ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    1e308,
    10**40,
    "",
    "x" * 5000,
    "\0",
    "\ud800",
    [],
    [[]],
    {},
    {"a": {}},
    ["a"] * 500,
    0.1,
]


def good_request() -> dict[str, Any]:
    buffer = io.BytesIO()
    photo("chelsea").resize((64, 64)).save(buffer, "PNG")
    image = {"format": "png", "data": base64.b64encode(buffer.getvalue()).decode()}
    raw = {"format": "raw", "shape": [2, 2, 3], "data": base64.b64encode(bytes(12)).decode()}
    record = {
        "tag": "colors",
        "include": [{"class": "cat", "count": 1, "color": "red"}],
        "prompt": "a photo of a red cat",
    }
    return {"images": [image, raw], "prompts": ["a photo of a cat", record], "credit": "dense"}


def damaged(rng: random.Random, good: dict[str, Any]) -> bytes:
    """A good request with something wrong."""
    if rng.random() < 0.5:
        body = json.loads(json.dumps(good))
        for _ in range(rng.randint(1, 3)):
            parent, key = rng.choice(list(places(body)))
            parent[key] = copy.deepcopy(rng.choice(ODD))  # a shared list could come to hold itself
        return json.dumps(body).encode("utf-8", "surrogatepass")
    data = bytearray(json.dumps(good).encode())
    for _ in range(rng.randint(1, 8)):
        start = rng.randrange(len(data) or 1)
        action = rng.randrange(4)
        if action == 0:
            data[start : start + 1] = bytes([rng.randrange(256)])
        elif action == 1:
            del data[start : start + rng.randint(1, 200)]
        elif action == 2:
            data[start:start] = data[start : start + rng.randint(1, 200)]
        else:
            data[start:start] = rng.choice([b"[" * 300, b'{"a":' * 300, b"NaN", b"\xff\xfe", b'"', b"\\u0000"])
    return bytes(data)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a JSON value, as its parent and key."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in list(items):
        yield value, key
        yield from places(child)


def bomb(width: int, height: int, packed: int = 2**26) -> bytes:
    """A PNG of a claimed size whose data unpack to so many zeros."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(packed), 9)
    text = b"Comment\0\0" + data
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"zTXt", text) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


class Watch:
    """Peak memory of the server and of its largest worker, and what came back."""

    def __init__(self, server: int, workers: list[int], patience: float, silence: float) -> None:
        self.silence = silence
        self.pids = [server, *workers]
        self.before = [serve_load.memory([pid]) for pid in self.pids]
        self.peak = list(self.before)
        self.patience = patience
        self.problems: list[str] = []
        self.counts: dict[str, Counter[Any]] = {}
        self._end = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while not self._end.wait(0.1):
            self.peak = [max(peak, serve_load.memory([pid])) for peak, pid in zip(self.peak, self.pids, strict=True)]

    def stop(self) -> None:
        self._end.set()

    def call(self, kind: str, send: Callable[[], httpx.Response]) -> httpx.Response | None:
        begun = time.perf_counter()
        try:
            response = send()
            what: Any = response.status_code
        except httpx.TransportError as error:
            response, what = None, type(error).__name__
        seconds = time.perf_counter() - begun
        self.counts.setdefault(kind, Counter())[what] += 1
        if seconds > self.patience:
            self.problems.append(f"{kind}: an answer took {seconds:.1f} s")
        if response is not None and response.status_code >= 500 and response.status_code not in (503, 504):
            self.problems.append(f"{kind}: {response.status_code} {response.text[:100]}")
        return response


def by_schema(url: str, count: int, watch: Watch) -> None:
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    for operation in schema.get_all_operations():
        made = operation.ok()

        @settings(
            max_examples=count if made.path == "/score" else 20,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(made.as_strategy())
        def one(case: Any) -> None:
            try:
                response = case.call()
            except OSError as error:
                watch.counts.setdefault("by schema", Counter())[type(error).__name__] += 1
                return
            watch.counts.setdefault("by schema", Counter())[response.status_code] += 1
            # A timeout of a nanosecond is a valid wish.
            if response.status_code >= 500 and response.status_code not in (503, 504):
                watch.problems.append(f"by schema: {case.method} {case.path}: {response.status_code}")

        one()


class Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.parts = function, arguments

    def __reduce__(self) -> Any:
        return self.parts


def hostile_pickles(canaries: Path) -> Iterator[bytes]:
    """Pickles that create a file where they are executed."""
    for number, (function, line) in enumerate([(os.system, "touch {}"), (eval, "open('{}', 'w')"), (open, "{}")]):
        path = canaries / str(number)
        call = Call(function, line.format(path), *(["w"] if function is open else []))
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            for value in (call, {"images": [call], "meta_datas": [{}], "only_strict": call}):
                yield pickle.dumps(value, protocol)
    yield b"cposix\nsystem\n(S'touch " + str(canaries / "text").encode() + b"'\ntR."


def slow_pickles() -> Iterator[tuple[str, bytes]]:
    """Small programs for the unpickler that would take it minutes."""
    for size in (2**23, 2**20):
        key = b"X" + struct.pack("<I", size) + b"a" * size
        yield "long equal keys", b"\x80\x03}(" + key + b"q\x00N" + key + b"q\x01N" + b"h\x00Nh\x01N" * 6000 + b"u."
    tower = b"".join(b"h" + bytes([index]) + b"\x86\x94" for index in range(40))
    yield "tuples of tuples", b"\x80\x04}K\x01\x85\x94" + b"h\x00" + tower + b"Ns."
    yield "a long integer", b"\x80\x04\x8b" + struct.pack("<i", 2**22) + b"\x7f" * 2**22 + b"."
    yield "many operations", b"\x80\x04](" + b"K\x01" * 199_000 + b"e."
    yield "a long word", pickle.dumps(flow_grpo_request([], tag="a" * 2**25))
    yield "many relations", pickle.dumps(flow_grpo_request([], relations=1500))


def flow_grpo_request(images: list[bytes], tag: str = "position", relations: int = 1) -> dict[str, Any]:
    person = {"class": "person", "count": 16}
    record = {"tag": tag, "include": [person, person | {"position": [["left of", 0]] * relations}]}
    images = images or [jpeg(64)]
    return {"images": images, "meta_datas": [record] * len(images), "only_strict": False}


def jpeg(side: int, scans: int = 0) -> bytes:
    """A JPEG, with so many empty scans more: each costs a pass over the image."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (90, 90, 90)).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * scans + b"\xff\xd9"


def watch_health(url: str, end: threading.Event, silence: list[float]) -> None:
    """The longest time that /health took."""
    with httpx.Client(base_url=url, timeout=300) as client:
        while not end.wait(0.1):
            begun = time.perf_counter()
            client.get("/health")
            silence[0] = max(silence[0], time.perf_counter() - begun)


def abuse_flow_grpo(url: str, client: httpx.Client, watch: Watch, rng: random.Random, count: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        canaries = Path(name)
        bodies = list(hostile_pickles(canaries))
        seeds = [*bodies, pickle.dumps(flow_grpo_request([]))]
        for _ in range(count):
            data = bytearray(rng.choice(seeds))
            for _ in range(rng.randint(1, 4)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            bodies.append(bytes(data))
        for body in bodies:
            watch.call("hostile pickles", lambda body=body: client.post("/", content=body))
        executed = len(list(canaries.iterdir()))
        print(f"pickles executed: {executed} of {len(bodies)}")
        if executed:
            watch.problems.append(f"hostile pickles: {executed} were executed")
    end, silence = threading.Event(), [0.0]
    health = threading.Thread(target=watch_health, args=(url, end, silence))
    health.start()
    for kind, body in slow_pickles():
        watch.call(kind, lambda body=body: client.post("/", content=body))
    for scans in (90, 4000):
        body = pickle.dumps(flow_grpo_request([jpeg(4000, scans)] * 2))
        watch.call(f"JPEGs of {scans} scans", lambda body=body: client.post("/", content=body))
    end.set()
    health.join()
    print(f"longest silence of /health: {silence[0]:.1f} s")
    if silence[0] > watch.silence:
        watch.problems.append(f"/health: silent for {silence[0]:.1f} s")


def slow_clients(port: int, count: int, seconds: float, watch: Watch) -> None:
    """Connections that send a byte a second of a body."""
    head = b"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99999\r\n\r\n"
    sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
    for sock in sockets:
        sock.sendall(head)
    begun, alive = time.perf_counter(), set(sockets)
    while alive and time.perf_counter() - begun < seconds + 60:
        time.sleep(1)
        for sock in list(alive):
            try:
                sock.sendall(b"x")
                sock.settimeout(0.001)
                if sock.recv(4096) == b"" or time.perf_counter() - begun > seconds + 60:
                    alive.discard(sock)
            except TimeoutError:
                pass
            except OSError:
                alive.discard(sock)
    watch.counts["slow clients"] = Counter({"cut": count - len(alive), "alive": len(alive)})
    if alive:
        watch.problems.append(f"slow clients: {len(alive)} of {count} were not cut")
    for sock in sockets:
        sock.close()


def huge(url: str, chunked: bool) -> httpx.Response:
    def body() -> Iterator[bytes]:
        for _ in range(1024):
            yield bytes(2**20)

    headers = {"Content-Type": "application/json"} | ({} if chunked else {"Content-Length": str(2**30)})
    return httpx.post(f"{url}/score", content=body(), headers=headers, timeout=60)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bodies", type=int, default=10_000, help="random bodies: a third by schema, the rest damaged")
    parser.add_argument("--slow", type=int, default=100, help="slow connections at once")
    parser.add_argument("--gigabytes", type=int, default=4, help="bodies of 1 GiB")
    parser.add_argument("--pickles", type=int, default=5000, help="damaged pickles")
    parser.add_argument("--quick", action="store_true", help="a few of each, for CI")
    parser.add_argument("--patience", type=float, default=30.0)
    parser.add_argument("--silence", type=float, default=5.0, help="seconds that /health may take")
    # Runs of one tree on a calm machine grow by 280 to 444 MiB, by chance; a 1 GiB body that is read is more than the bound.
    parser.add_argument("--growth", type=float, default=600.0, help="MiB that a process may grow")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.quick:
        args.bodies, args.slow, args.gigabytes, args.pickles = 240, 4, 2, 300
        args.patience, args.silence = 120.0, 30.0
    fixed = {"backend": "lite", "device": "cpu", "workers": 1, "threads": 1, "batch_size": 16}
    fixed["more_options"] = {"--compat": "flow-grpo", "--limits": "upload_timeout=15"}
    for name, value in fixed.items():
        setattr(args, name, value)
    return args


def main() -> int:
    args = parse()
    rng = random.Random(args.seed)
    good = good_request()
    with serve_load.running_server(args) as (url, server, workers):
        client = httpx.Client(base_url=url, timeout=60)
        reference = client.post("/score", json=good).json()["items"]
        watch = Watch(server, workers, args.patience, args.silence)
        headers = {"content-type": "application/json"}
        slow = threading.Thread(target=slow_clients, args=(int(url.rpartition(":")[2]), args.slow, 15, watch))
        slow.start()
        bodies = [damaged(rng, good) for _ in range(args.bodies - args.bodies // 3)]
        with ThreadPoolExecutor(8) as pool:
            list(
                pool.map(
                    lambda body: watch.call("damaged", lambda: client.post("/score", content=body, headers=headers)),
                    bodies,
                )
            )
        by_schema(url, args.bodies // 3, watch)
        for width, height in ((65000, 65000), (4096, 4096), (8, 8), (4096, 4095)):
            image = {"format": "png", "data": base64.b64encode(bomb(width, height)).decode()}
            body = {"images": [image] * 4, "prompts": ["a photo of a cat"] * 4}
            watch.call("bombs", lambda body=body: client.post("/score", json=body))
        abuse_flow_grpo(url, client, watch, rng, args.pickles)
        for index in range(args.gigabytes):
            watch.call("1 GiB bodies", lambda index=index: huge(url, chunked=bool(index % 2)))
        slow.join()
        after = client.post("/score", json=good)
        watch.stop()
        if after.status_code != 200 or after.json()["items"] != reference:
            watch.problems.append(f"afterwards: expected the first answer again, got {after.status_code}")
        deaths = next(
            line for line in client.get("/metrics").text.splitlines() if line.startswith("geneval_worker_deaths_total")
        )
        if float(deaths.split()[1]):
            watch.problems.append(f"afterwards: {deaths}")
        client.close()
    growth = [peak - before for peak, before in zip(watch.peak, watch.before, strict=True)]
    if max(growth) > args.growth:
        watch.problems.append(f"memory: grew by {max(growth):.0f} MiB")
    for kind, counts in watch.counts.items():
        print(f"{kind}: " + ", ".join(f"{what} x {count}" for what, count in counts.most_common()))
    names = ["server", *(f"worker {index}" for index in range(len(workers)))]
    for name, before, peak in zip(names, watch.before, watch.peak, strict=True):
        print(f"{name}: {before:.0f} MiB before, {peak:.0f} MiB at most")
    for problem in watch.problems[:20]:
        print("problem:", problem)
    print("passed" if not watch.problems else f"{len(watch.problems)} problems")
    return int(bool(watch.problems))


if __name__ == "__main__":
    sys.exit(main())
