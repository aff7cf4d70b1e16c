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
    "max_body=4000000,upload_timeout=3,deadline=200,max_queue=200,drain_timeout=20,decode_timeout=3,stall_timeout=60"
)


@pytest.fixture(scope="module")
def server(server_with, tmp_path_factory):
    mark = tmp_path_factory.mktemp("mark") / "died"
    started = server_with(
        *("--backend", "service_fakes:make", "--device", "cpu", "--workers", "2", "--threads", "1", "--limits", LIMITS),
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


def test_a_slow_body_is_not_waited_for(server):
    head = b"POST /score HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
        sock.sendall(head)
        begun = time.monotonic()
        while time.monotonic() - begun < 2.5:  # a byte now and then does not help
            sock.sendall(b"x")
            time.sleep(0.3)
        assert sock.recv(100).startswith(b"HTTP/1.1 408 ")
    assert httpx.get(server.url + "/health").status_code == 200


def test_web_pages_cannot_use_it(server, fakes):
    body = {"images": [raw(fakes.picture(200))], "prompts": [BENCH]}
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        assert httpx.post(server.url + "/score", json=body, headers=headers).status_code == 403
        assert httpx.get(server.url + "/info", headers=headers).status_code == 403
    assert httpx.post(server.url + "/score", json=body, headers={"Origin": server.url}).status_code == 200


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
    server = server_with("--backend", "service_fakes:make", "--device", "cpu", "--threads", "1").ready()
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
    server = server_with("--backend", "service_fakes:make", "--device", "cpu", "--threads", "1").ready()
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
            "--backend",
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
        "--compat", "flow-grpo", "--backend", "service_fakes:make", "--device", "cpu", "--threads", "1"
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


def test_files_of_the_working_folder_are_not_imported(server_with, tmp_path, monkeypatch):
    """People stand in a folder of images from others when they start a server."""
    for name in ("torch.py", "numpy.py", "multiprocessing.py", "json.py", "site.py"):
        (tmp_path / name).write_text(
            f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r})\nraise ImportError('hostile')\n"
        )
    (tmp_path / "mine.py").write_text("from service_fakes import make\n")
    monkeypatch.chdir(tmp_path)
    # The console script, since `python -m` puts the working folder first by itself.
    server = server_with("--backend", "mine:make", "--device", "cpu", "--threads", "1", script=True).ready()
    assert not (tmp_path / "ran").exists()
    assert httpx.get(server.url + "/health").status_code == 200


def test_openapi_is_served(server):
    assert "/score" in json.loads(httpx.get(server.url + "/openapi.json").text)["paths"]
