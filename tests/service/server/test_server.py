"""Real server processes with real workers: what happens to them happens in production."""

import io
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from geneval_reward import GenEvalScorer
from geneval_reward.errors import ScoringError, ServiceError
from geneval_reward.service import RemoteScorer

pytestmark = pytest.mark.slow

BENCH = "a photo of a bench"
LIMITS = (
    "max_body=4000000,header_timeout=1.5,idle_timeout=1.5,upload_timeout=3,deadline=200,max_queue=200,drain_timeout=20"
)


@pytest.fixture(scope="module")
def server(server_with, tmp_path_factory):
    mark = tmp_path_factory.mktemp("mark") / "died"
    started = server_with(
        *("--scorer", "service_fakes:make", "--device", "cpu", "--workers", "2", "--threads", "1", "--limits", LIMITS),
        env={"GENEVAL_TEST_MARK": str(mark)},
    )
    started.ready().wait_for(r"worker 0 ready[\s\S]*worker 1 ready|worker 1 ready[\s\S]*worker 0 ready")
    return started


@pytest.fixture
def client(server):
    scorer = RemoteScorer(server.url, timeout=200)
    yield scorer
    scorer.close()


def dense(verdicts):
    return [verdict.dense for verdict in verdicts]


def exchange(port, *pieces, wait=10.0, pause=0.0):
    """Send bytes on a bare connection; what comes back until the other side closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=wait) as sock:
        for piece in pieces:
            sock.sendall(piece)
            time.sleep(pause)
        return read(sock)


def read(sock):
    found = b""
    while chunk := sock.recv(65536):
        found += chunk
    return found


def test_concurrent_clients_get_their_own_answers_in_order(server, client, fakes):
    local = fakes.make()
    values = [[(7 * number + 13 * index) % 200 + 40 for index in range(1 + number % 9)] for number in range(48)]

    def one(numbers):
        return dense(client.score([fakes.picture(value) for value in numbers], [BENCH] * len(numbers)))

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(one, values))
    for numbers, answer in zip(values, answers, strict=True):
        assert answer == dense(local.score([fakes.picture(value) for value in numbers], [BENCH] * len(numbers)))
    metrics = httpx.get(server.url + "/metrics").text
    sizes = {
        line.split()[0]: float(line.split()[1])
        for line in metrics.splitlines()
        if line.startswith("geneval_batch_images_")
    }
    # Batches were made across requests: fewer than requests.
    assert sizes["geneval_batch_images_count"] < sum(map(len, values))


def test_a_killed_worker_costs_no_answer(server, client, fakes):
    before = server.workers
    slow = [fakes.picture(200, fakes.SLEEP, 10) for _ in range(4)]
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(client.score, slow, [BENCH] * 4) for _ in range(2)]
        time.sleep(0.7)
        for pid in before[-2:]:
            os.kill(pid, signal.SIGKILL)
        answers = [future.result(220) for future in waiting]
    assert [len(answer) for answer in answers] == [4, 4]
    server.wait_for(rf"(?:worker \d ready[\s\S]*){{{len(before) + 2}}}")
    assert len(set(server.workers)) == len(before) + 2
    assert "its end by signal 9" in server.log


def test_an_image_that_kills_is_found_and_others_are_not_harmed(server, client, fakes):
    images = [fakes.picture(200) for _ in range(6)]
    images[3] = fakes.picture(what=fakes.DIE)
    with pytest.raises(ScoringError, match=r"images\[3\]: .*3 workers that died with it") as caught:
        client.score(images, [BENCH] * 6)
    assert [index for index, error in enumerate(caught.value.errors) if error] == [3]
    assert len(client.score([fakes.picture(what=fakes.DIE_ONCE)], [BENCH])) == 1


def test_an_image_that_raises_is_its_own_error(client, fakes):
    with pytest.raises(ScoringError, match="does not like this image") as caught:
        client.score([fakes.picture(200), fakes.picture(what=fakes.RAISE)], [BENCH] * 2)
    assert caught.value.verdicts[0] is not None


def test_slow_heads_and_bodies_are_cut(server, fakes):
    begun = time.monotonic()
    head = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
    with ThreadPoolExecutor(4) as pool:
        silent = pool.submit(exchange, server.port)
        unfinished = pool.submit(exchange, server.port, b"GET /health HTTP/1.1\r\nX-A: ")
        # A byte now and then does not help.
        dripping = pool.submit(drip, server.port, b"GET /health HTTP/1.1\r\n")
        body = pool.submit(exchange, server.port, head, b"{")
        dripped = pool.submit(drip, server.port, head)
        assert silent.result() == b""
        assert unfinished.result() == b""
        assert dripping.result() == b""
        assert body.result().startswith(b"HTTP/1.1 408 ")
        assert dripped.result().startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - begun < 20
    assert httpx.get(server.url + "/health").status_code == 200


def drip(port, start):
    found = b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(start)
        try:
            for _ in range(60):
                time.sleep(0.2)
                sock.sendall(b"x")
            found = read(sock)
        except ConnectionError:
            pass
        else:
            return found
        try:
            return read(sock)
        except ConnectionError:
            # The reset that our late bytes earned; the answer was before it where there is one.
            return found


def test_second_request_head_on_a_kept_connection_is_timed_too(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while b'"message"' not in answer:
            answer += sock.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200")
        sock.sendall(b"GET /hea")
        begun = time.monotonic()
        assert read(sock) == b""
        assert time.monotonic() - begun < 8


def test_a_gigabyte_is_refused_without_memory(server):
    before = server.memory()
    peak = 0

    def watch():
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, server.memory())

    done = threading.Event()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        declared = httpx.post(
            server.url + "/score", content=gigabyte(), headers={"Content-Length": str(2**30)}, timeout=30
        )
        assert declared.status_code == 413
        chunked = httpx.post(server.url + "/score", content=gigabyte(), timeout=30)
        assert chunked.status_code == 413
    finally:
        done.set()
        watcher.join()
    assert peak - before < 40 * 2**20


def gigabyte():
    for _ in range(1024):
        yield bytes(2**20)


def test_deadline_and_full_queue(server, fakes):
    slow = {"images": [raw(fakes.picture(200, fakes.SLEEP, 5))] * 100, "prompts": [BENCH] * 100}
    with ThreadPoolExecutor(4) as pool:
        late = [
            pool.submit(httpx.post, server.url + "/score", json=slow | {"timeout": 2.0}, timeout=30) for _ in range(4)
        ]
        answers = [future.result() for future in late]
    statuses = sorted(answer.status_code for answer in answers)
    assert set(statuses) == {429, 504}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert int(refused.headers["retry-after"]) >= 1
    # What nobody waits for any more is not scored: the next one has its turn soon.
    quick = {"images": [raw(fakes.picture(200))], "prompts": [BENCH]}
    begun = time.monotonic()
    assert httpx.post(server.url + "/score", json=quick, timeout=30).status_code == 200
    assert time.monotonic() - begun < 15


def raw(image):
    import base64

    return {
        "format": "raw",
        "shape": list(image.shape),
        "layout": "chw",
        "data": base64.b64encode(image.numpy().tobytes()).decode(),
    }


def test_the_server_process_holds_no_detector(server):
    assert "libtorch" not in Path(f"/proc/{server.process.pid}/maps").read_text()
    assert server.memory() < 400 * 2**20


def test_sigterm_finishes_what_is_in_flight(server_with, fakes):
    server = server_with("--scorer", "service_fakes:make", "--device", "cpu", "--threads", "1").ready()
    client = RemoteScorer(server.url, timeout=100)
    with closing(client), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.score, [fakes.picture(200, fakes.SLEEP, 10)] * 3, [BENCH] * 3)
        server.wait_for("ready")
        time.sleep(1.0)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        with pytest.raises(httpx.ConnectError):
            httpx.get(server.url + "/health")
        assert all(verdict.correct for verdict in waiting.result(100))
    assert server.process.wait(20) == 0
    with (
        closing(RemoteScorer(server.url, timeout=1)) as late,
        pytest.raises(ServiceError, match=rf"{server.url}: expected an answer within 1 s.*no connection"),
    ):
        late.score([fakes.picture()], [BENCH])
    for pid in server.workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_killed_server_leaves_no_workers(server_with, fakes):
    server = server_with("--scorer", "service_fakes:make", "--device", "cpu", "--threads", "1").ready()
    (worker,) = server.workers
    server.process.kill()
    server.process.wait()
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{worker}/stat").read_text().split(") ")[1][0] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("the worker outlived its server")


def test_same_verdicts_as_in_process(server_with):
    from geneval_reward.vision.photos import PHOTOS, photo

    server = server_with(
        "--backend", "lite", "--device", "cpu", "--threads", "1", env={"GENEVAL_REWARD_API_KEY": "s" * 32}
    ).ready()
    images = [photo(name) for name in PHOTOS] * 2
    records = [shot.record for shot in PHOTOS.values()] + [shot.false_record for shot in PHOTOS.values()]
    ours = GenEvalScorer.from_pretrained("lite", device="cpu").score(images, records)
    with closing(RemoteScorer(server.url, api_key="s" * 32, timeout=120)) as client:
        theirs = client.score(images, records)
    assert [verdict.credits() for verdict in theirs] == [verdict.credits() for verdict in ours]
    for one, other in zip(ours, theirs, strict=True):
        assert one.reason == other.reason
        assert one.detections.xyxy.tobytes() == other.detections.xyxy.tobytes()
        assert one.detections.confidence.tobytes() == other.detections.confidence.tobytes()
    with closing(RemoteScorer(server.url, timeout=5)) as stranger, pytest.raises(ServiceError, match="401"):
        stranger.score(images, records)
    assert "s" * 32 not in server.read()


def test_a_server_that_cannot_start_says_why():
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "geneval_reward",
            "serve",
            "--port",
            "0",
            "--device",
            "cpu",
            "--scorer",
            "service_fakes:broken",
        ],
        env=os.environ | {"PYTHONPATH": os.path.dirname(os.path.dirname(__file__))},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 2
    assert "workers: expected at least one that starts, got: RuntimeError: no weights in this fake" in result.stderr
    assert result.stdout == ""


def test_flow_grpo_is_answered_by_the_same_workers(server_with, fakes):
    from PIL import Image

    server = server_with(
        "--compat", "flow-grpo", "--scorer", "service_fakes:make", "--device", "cpu", "--threads", "1"
    ).ready()
    files = []
    for confidence in (20, 200):
        buffer = io.BytesIO()
        Image.new("RGB", (16, 16), (0, 0, confidence)).save(buffer, "JPEG", quality=95)
        files.append(buffer.getvalue())
    record = {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": BENCH}
    body = pickle.dumps({"images": files, "meta_datas": [record] * 2, "only_strict": False})
    reply = httpx.post(server.url + "/", content=body, timeout=60)
    assert reply.status_code == 200
    assert pickle.loads(reply.content)["strict_rewards"] == [0.0, 1.0]
    # Our own protocol is served beside it.
    with closing(RemoteScorer(server.url, timeout=120)) as client:
        assert client.score([fakes.picture(200)], [BENCH])[0].correct


def test_openapi_is_served(server):
    assert "/score" in json.loads(httpx.get(server.url + "/openapi.json").text)["paths"]
