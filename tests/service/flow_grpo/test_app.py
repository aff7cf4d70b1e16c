"""The public Flow-GRPO client against the server, over real HTTP; the pool scores in this process."""

import json
import logging
import lzma
import os
import pickle
import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import uvicorn
from PIL import Image

from geneval_reward import GenEvalScorer
from geneval_reward.judge import Detections
from geneval_reward.prompts import COLOR_IDS, COLORS, TAGS, class_id
from geneval_reward.service.flow_grpo.reply import with_red_and_blue_swapped
from geneval_reward.service.server.app import make_app
from geneval_reward.service.server.limits import Limits
from geneval_reward.service.server.pool import Answer as PoolAnswer
from geneval_reward.service.server.pool import QueueFullError
from geneval_reward.service.wire import ItemReply
from geneval_reward.testing import FakeDetector, FakeVerifier, scorer_for
from geneval_reward.vision.protocols import ColorQuery, Wanted

VERDICTS = Path(__file__).parents[2] / "data" / "verdicts.jsonl.xz"
KEYS = ["scores", "rewards", "strict_rewards", "group_rewards", "group_strict_rewards"]
BENCH = {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"}


@dataclass
class Answer:
    status: int
    body: bytes
    headers: dict[str, str]


@dataclass
class Server:
    port: int
    app: Any

    def post(self, body, path="/"):
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("POST", path, body)
            got = connection.getresponse()
            return Answer(got.status, got.read(), dict(got.getheaders()))
        finally:
            connection.close()


@pytest.fixture
def serving(local):
    """Serves a scorer as a context manager."""

    @contextmanager
    def serve(scorer, credit="flow_grpo", **options):
        app = make_app(local.pool(scorer, **options), flow_grpo_credit=credit, hosts=())
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none", http="h11"))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            try:
                while not server.started:
                    time.sleep(0.01)
                yield Server(listener.getsockname()[1], app)
            finally:
                server.should_exit = True
                thread.join()

    return serve


@pytest.fixture
def server(serving):
    with serving(scorer_for(FakeDetector({"bench": [[1, 1, 9, 9, 0.8]]}))) as found:
        yield found


def jpeg(image: npt.NDArray[np.uint8], **options):
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", **options)
    return buffer.getvalue()


def client_bodies(images, metadatas, only_strict, protocol=None):
    """What the public client posts: batches of at most 64 of even size, JPEG at Pillow's default quality."""
    parts = int(np.ceil(len(images) / 64))
    return [
        pickle.dumps(
            {"images": [jpeg(image) for image in some], "meta_datas": list(records), "only_strict": only_strict},
            protocol,
        )
        for some, records in zip(np.array_split(images, parts), np.array_split(metadatas, parts), strict=True)
    ]


def client_results(server, bodies):
    """The client's 5-tuple."""
    lists: list[list[float]] = [[], [], []]
    groups: list[dict[str, list[float]]] = [{}, {}]
    for body in bodies:
        answer = server.post(body)
        assert answer.status == 200
        found = pickle.loads(answer.body)
        assert list(found) == KEYS
        for values, key in zip(lists, KEYS[:3], strict=True):
            values += found[key]
        for group, key in zip(groups, KEYS[3:], strict=True):
            for tag, more in found[key].items():
                group.setdefault(tag, []).extend(more)
    return (*lists, *groups)


class Recorder:
    """A detector that keeps what it was shown and finds one bench."""

    name = "recorder"

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def detect(self, images: Sequence[torch.Tensor], wanted: Sequence[Wanted]) -> list[Detections]:
        self.seen += images
        return FakeDetector({"bench": [[1, 1, 9, 9, 0.8]]}).detect(images, wanted)

    def fingerprint(self) -> dict[str, Any]:
        return {"name": self.name}

    def to(self, device: torch.device | str) -> "Recorder":
        return self


class Golden:
    """A detector and verifier that answer a golden case, whose number is the image's width."""

    name = "golden"

    def __init__(self, cases: Sequence[dict[str, Any]]) -> None:
        self.cases = cases

    def detect(self, images: Sequence[torch.Tensor], wanted: Sequence[Wanted]) -> list[Detections]:
        return [self.one(self.cases[image.shape[2] - 1]) for image in images]

    def one(self, case: dict[str, Any]) -> Detections:
        rows = [(class_id(name), row) for name, found in case["detections"].items() for row in found]
        return Detections(
            np.array([row[:4] for _, row in rows], np.float32).reshape(-1, 4),
            np.array([row[4] for _, row in rows], np.float32),
            np.array([number for number, _ in rows], np.int64),
            tuple(case["image_size"]),
        )

    def colors(self, queries: Sequence[ColorQuery]) -> npt.NDArray[np.float32]:
        table = np.zeros((len(queries), len(COLORS)), np.float32)
        for index, query in enumerate(queries):
            rows = self.cases[query.image.shape[2] - 1]["detections"][query.class_name]
            boxes = np.array([row[:4] for row in rows], np.float32)
            table[index, COLOR_IDS[rows[int(np.flatnonzero((boxes == query.xyxy).all(1))[0])][5]]] = 1.0
        return table

    def fingerprint(self) -> dict[str, Any]:
        return {"name": self.name}

    def to(self, device: torch.device | str) -> "Golden":
        return self


@pytest.fixture(scope="module")
def golden():
    default = {
        "threshold": 0.3,
        "counting_threshold": 0.9,
        "max_objects": 16,
        "max_overlap": 1.0,
        "position_threshold": 0.1,
    }
    with lzma.open(VERDICTS, "rt", encoding="utf-8") as lines:
        return [case for line in lines if (case := json.loads(line))["options"] == default][:150]


def test_the_public_rewards_come_back_exactly(golden, serving):
    assert len(golden) >= 100
    assert {case["spec"]["tag"] for case in golden} == set(TAGS)
    detector = Golden(golden)
    scorer = GenEvalScorer(detector, detector, min_confidence=0.0)  # type: ignore[arg-type]
    records = [case["spec"] for case in golden]
    images = np.empty(len(golden), dtype=object)
    images[:] = [np.zeros((8, width, 3), np.uint8) for width in range(1, len(golden) + 1)]
    expected = [case["expected"] for case in golden]
    tags = [record["tag"] for record in records]
    with serving(scorer) as found:
        for only_strict in (False, True):
            bodies = client_bodies(images, records, only_strict)
            assert len(bodies) == 3
            scores, rewards, strict, groups, strict_groups = client_results(found, bodies)
            assert scores == pytest.approx([case["score"] for case in expected], abs=1e-12)
            assert strict == [float(case["strict_correct"]) for case in expected]
            assert rewards == [0.0 if only_strict else float(case["correct"]) for case in expected]
            assert list(groups) == list(strict_groups) == list(TAGS)
            for tag in TAGS:
                want = zip(tags, rewards, strict, strict=True)
                assert list(zip(groups[tag], strict_groups[tag], strict=True)) == [
                    (reward, exact) if own == tag else (-10.0, -10.0) for own, reward, exact in want
                ]
    assert min(scores) < 0


@pytest.mark.parametrize("protocol", [3, 4, 5, None])
def test_every_pickle_protocol(server, protocol):
    images = np.random.default_rng(0).integers(0, 256, (3, 24, 32, 3), np.uint8)
    records = [BENCH, {**BENCH, "include": [{"class": "cow", "count": 1}]}, {**BENCH, "tag": "counting"}]
    (body,) = client_bodies(images, records, False, protocol)
    answer = server.post(body)
    # The reply's bytes are those of the public server: plain Python values, in this order, by the default of Python 3.8 to 3.13.
    of = {"single_object": [1.0, 0.0, -10.0], "counting": [-10.0, -10.0, 0.0]}
    rest = [-10.0] * 3
    groups = {tag: of.get(tag, rest) for tag in TAGS}
    other = {tag: list(values) for tag, values in groups.items()}
    assert pickle.loads(answer.body) == {
        "scores": [1.0, 0.0, 0.0],
        "rewards": [1.0, 0.0, 0.0],
        "strict_rewards": [1.0, 0.0, 0.0],
        "group_rewards": groups,
        "group_strict_rewards": other,
    }
    groups = {tag: list(values) for tag, values in groups.items()}
    plain = [[1.0, 0.0, 0.0] for _ in range(3)]
    assert answer.body == pickle.dumps(dict(zip(KEYS, [*plain, groups, other], strict=True)), 4)


def test_the_example_of_the_public_server(serving):
    """Its test posts one image with one record by the keys below."""
    record = {
        "tag": "color_attr",
        "include": [
            {"class": "giraffe", "count": 1, "color": "brown"},
            {"class": "stop sign", "count": 1, "color": "white"},
        ],
        "prompt": "a photo of a brown giraffe and a white stop sign",
    }
    verifier = FakeVerifier(lambda query: "brown" if query.class_name == "giraffe" else "red")
    both = {"giraffe": [[1, 1, 9, 9, 0.8]], "stop sign": [[9, 9, 15, 15, 0.7]]}
    with serving(scorer_for(FakeDetector(both), verifier)) as found:
        image = jpeg(np.zeros((16, 16, 3), np.uint8))
        data = pickle.dumps({"images": [image], "meta_datas": [record], "only_strict": False})
        answer = pickle.loads(found.post(data).body)
    assert answer["scores"] == [0.75]
    assert answer["group_rewards"]["color_attr"] == answer["rewards"] == [0.0]


def test_strict_does_not_read_exclude_and_credit_is_a_choice(serving):
    record = {**BENCH, "exclude": [{"class": "dog", "count": 1}], "id": 7}
    found = FakeDetector({"bench": [[1, 1, 9, 9, 0.8]] * 3, "dog": [[1, 1, 9, 9, 0.8]]})
    image = np.zeros((1, 16, 16, 3), np.uint8)
    one = FakeDetector({"bench": [[1, 1, 9, 9, 0.8]], "dog": [[1, 1, 9, 9, 0.8]]})
    with serving(scorer_for(one)) as server:
        scores, rewards, strict, *_ = client_results(server, client_bodies(image, [record], False))
    assert (scores, rewards, strict) == ([1.0], [0.0], [1.0])
    for credit, score in {"flow_grpo": -1.0, "partial": 0.0, "official": 1.0}.items():
        with serving(scorer_for(found), credit=credit) as server:
            assert client_results(server, client_bodies(image, [BENCH], False))[0] == [score]
    with (
        pytest.raises(ValueError, match=r"credit: expected one of official.*got 'flow'"),
        serving(scorer_for(found), credit="flow"),
    ):
        pass


@pytest.mark.parametrize("swap", [False, True])
def test_pixels_are_those_of_the_jpeg_and_swapped_only_for_the_detector(swap, serving):
    detector, seen = Recorder(), []
    verifier = FakeVerifier(lambda query: seen.append(query.image) or "red")  # type: ignore[func-returns-value]
    image = np.random.default_rng(1).integers(0, 256, (1, 40, 56, 3), np.uint8)
    record = {**BENCH, "tag": "colors", "include": [{"class": "bench", "count": 1, "color": "red"}]}
    scorer = GenEvalScorer(detector, verifier, name="paper")
    with serving(with_red_and_blue_swapped(scorer) if swap else scorer) as server:
        assert client_results(server, client_bodies(image, [record], False))[0] == [1.0]
    rgb = torch.from_numpy(np.array(Image.open(BytesIO(jpeg(image[0]))))).permute(2, 0, 1)
    assert not torch.equal(rgb, torch.from_numpy(image[0]).permute(2, 0, 1))
    assert torch.equal(detector.seen[0], rgb.flip(0) if swap else rgb)
    assert torch.equal(seen[0], rgb)


def test_the_swap_follows_the_weights():
    for name, swapped in {"lite": False, "paper": True, "mmdet": True}.items():
        scorer = GenEvalScorer(Recorder(), FakeVerifier(), name=name)
        found = with_red_and_blue_swapped(scorer)
        assert (found is not scorer) is swapped
        assert (found.fingerprint_id != scorer.fingerprint_id) is swapped
        assert with_red_and_blue_swapped(found) is found

    class SwapsItself(Recorder):
        swap_rb = True

    own = GenEvalScorer(SwapsItself(), FakeVerifier(), name="paper")
    assert with_red_and_blue_swapped(own) is own  # not swapped a second time


# -- requests that are refused ----------------------------------------------------------------------------------------


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


GOOD = jpeg(np.zeros((8, 8, 3), np.uint8))


def png():
    buffer = BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, format="PNG")
    return buffer.getvalue()


def request_of(**parts):
    return pickle.dumps({"images": [GOOD], "meta_datas": [BENCH], "only_strict": True, **parts})


REFUSED = {
    "not a pickle": (b"hello", "expected plain data"),
    "an empty body": (b"", "got the end of the bytes"),
    "half a pickle": (request_of()[:100], "expected"),
    "a list": (pickle.dumps([1]), "expected a dict with images, meta_datas and only_strict"),
    "another protocol": (pickle.dumps({"images": [GOOD], "prompts": ["a"]}), "expected a dict with images, meta_datas"),
    "no lists": (request_of(images=b"x"), "expected lists of images"),
    "no images": (request_of(images=[], meta_datas=[]), "expected 1 to 128 images"),
    "too many images": (request_of(images=[GOOD] * 257, meta_datas=[BENCH] * 257), "expected 1 to 128 images"),
    "fewer records": (request_of(images=[GOOD] * 2), "got 2 and 1"),
    "an array for an image": (
        request_of(images=[np.zeros((8, 8, 3), np.uint8)]),
        "pickle: expected plain data",
    ),
    "a list for an image": (request_of(images=[[1]]), r"images\[0\]: expected the bytes of a JPEG"),
    "a PNG": (request_of(images=[png()]), r"images\[0\]: expected a JPEG"),
    "no image": (request_of(images=[b"abc"]), r"images\[0\]: expected a JPEG"),
    "half an image": (
        request_of(images=[GOOD, jpeg(np.zeros((99, 99, 3), np.uint8))[:-300]], meta_datas=[BENCH] * 2),
        r"images\[1\]: expected a",
    ),
    "a record that is none": (request_of(meta_datas=["a photo of a bench"]), r"meta_datas\[0\]: expected a dict"),
    "an unknown class": (
        request_of(meta_datas=[{**BENCH, "include": [{"class": "unicorn", "count": 1}]}]),
        r"include\[0\]\.class: expected one of the 80",
    ),
    "no tag": (request_of(meta_datas=[{"include": BENCH["include"]}]), r"meta_datas\[0\]: "),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_requests(server, name, caplog):
    body, reason = REFUSED[name]
    with caplog.at_level(logging.WARNING):
        answer = server.post(body)
    assert answer.status == 400
    # The client unpickles whatever is no 500; the reason is raised there.
    with pytest.raises(ValueError, match=f"geneval-reward: .*{reason}"):
        pickle.loads(answer.body)
    assert "refused a request of 127.0.0.1" in caplog.text
    assert server.post(request_of()).status == 200


def test_a_hostile_request_runs_nothing(server, tmp_path, caplog):
    canary = tmp_path / "canary"
    bodies = [pickle.dumps(Touch(canary)), request_of(images=[Touch(canary)]), request_of(only_strict=Touch(canary))]
    for body in [*bodies, request_of(meta_datas=np.array([BENCH], dtype=object))]:
        with caplog.at_level(logging.WARNING):
            answer = server.post(body)
        assert answer.status == 400
        with pytest.raises(ValueError, match="geneval-reward: pickle: expected"):
            pickle.loads(answer.body)
        assert not canary.exists()
    assert "STACK_GLOBAL at byte" in caplog.text
    pickle.loads(bodies[0])
    assert canary.exists()


def test_other_paths_and_methods(server):
    assert server.post(request_of(), "/nothing").status == 404
    connection = HTTPConnection("127.0.0.1", server.port)
    connection.request("GET", "/")
    assert connection.getresponse().status == 405
    connection.close()


def test_pixels_and_bodies_are_limited(serving):
    with serving(scorer_for(FakeDetector({})), limits=Limits(max_body=20_000, max_pixels=1000)) as server:
        assert server.post(request_of()).status == 200
        answer = server.post(request_of(images=[jpeg(np.zeros((40, 40, 3), np.uint8))]))
        assert answer.status == 400
        with pytest.raises(ValueError, match=r"images\[0\]: expected at most 1,000 pixels, got 40 x 40"):
            pickle.loads(answer.body)
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000000\r\n\r\n")
            assert raw.recv(100).startswith(b"HTTP/1.1 413")
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            head = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
            raw.sendall(head + b"7530\r\n" + bytes(30_000) + b"\r\n")
            assert raw.recv(100).startswith(b"HTTP/1.1 413")
        assert server.post(request_of()).status == 200


def test_a_slow_body_is_not_waited_for(serving):
    with serving(scorer_for(FakeDetector({})), limits=Limits(upload_timeout=0.2)) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as raw:
            raw.sendall(b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\nabc")
            assert raw.recv(100).startswith(b"HTTP/1.1 408")
        assert server.post(request_of()).status == 200
        end = time.monotonic() + 10
        while server.app.memory and time.monotonic() < end:
            time.sleep(0.01)
        assert server.app.memory == 0


def test_a_web_page_cannot_use_it(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as raw:
        raw.sendall(b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://evil.example\r\nContent-Length: 0\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 403")


def test_a_busy_server_says_when_to_come_back(serving, local, monkeypatch):
    pool = local.pool(scorer_for(FakeDetector({})))

    def full(self, items):
        raise QueueFullError

    with serving(scorer_for(FakeDetector({}))) as server:
        with monkeypatch.context() as patch:
            patch.setattr(type(pool), "submit", full)
            answer = server.post(request_of())
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert server.post(request_of()).status == 200
    with serving(scorer_for(FakeDetector({})), ready=False) as server:
        assert server.post(request_of()).status == 503


def test_an_image_that_no_worker_can_score_is_not_sent_again(serving, local, monkeypatch):
    def three_deaths(self, items):
        reply = ItemReply(error="images[0]: expected a verdict, got 3 workers that died with it; leave it out")
        for item in items:
            item.future.set_result(PoolAnswer(reply.model_dump_json().encode(), failed=True))

    monkeypatch.setattr(type(local.pool()), "submit", three_deaths)
    with serving(scorer_for(FakeDetector({}))) as server:
        answer = server.post(request_of())
    assert answer.status == 400
    with pytest.raises(ValueError, match="got 3 workers that died with it"):
        pickle.loads(answer.body)


def test_a_long_tag_is_not_quoted_in_full(server, caplog):
    answer = server.post(request_of(meta_datas=[{**BENCH, "tag": "x" * 1_000_000}]))
    assert answer.status == 400
    assert len(answer.body) < 1000
    assert all(len(record.getMessage()) < 1000 for record in caplog.records)
    with pytest.raises(ValueError, match=r"meta_datas\[0\]: .*xxx'\.\.\."):
        pickle.loads(answer.body)


def test_a_failure_of_the_server_is_a_500_without_its_traceback(serving, local, monkeypatch, caplog):
    def broken(self, items):
        raise RuntimeError("secret")

    monkeypatch.setattr(type(local.pool()), "submit", broken)
    with serving(scorer_for(FakeDetector({}))) as server, caplog.at_level(logging.ERROR):
        answer = server.post(request_of())
    assert answer.status == 500
    assert (
        answer.body == b"geneval-reward: expected to score the batch, got an error of the server's own; see its log\n"
    )
    assert "secret" in caplog.text


def test_many_clients_get_their_own_answers(server):
    def one(number):
        records = [
            BENCH if (number >> bit) & 1 else {**BENCH, "include": [{"class": "cow", "count": 1}]} for bit in range(6)
        ]
        images = np.zeros((6, 8, 8, 3), np.uint8)
        scores = client_results(server, client_bodies(images, records, True))[0]
        return bool(scores == [float((number >> bit) & 1) for bit in range(6)])

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(one, range(1, 64)))
