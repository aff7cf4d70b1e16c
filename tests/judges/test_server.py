"""A real server on a real port: a stand-in that speaks OpenAI's protocol, fails first and counts what it is asked."""

import json
import math
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

pytest.importorskip("openai")
pytest.importorskip("diskcache")

from geneval_reward.errors import ScoringError, ServiceError, UsageError
from geneval_reward.judges import ServerModel, VQAScorer, open_model

IMAGE = torch.zeros(3, 16, 16, dtype=torch.uint8)


class StandIn(ThreadingHTTPServer):
    """Says what `tokens` says; `fail` answers first are errors, and every answer waits `delay` seconds."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies, self.models = [], ["tiny"]
        self.fail, self.delay, self.text = 0, 0.0, "[Result]: 4 2"
        self.tokens = {"Yes": 0.6, "yes": 0.1, "No": 0.2, "Three": 0.05}

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def _answer(self, value, status=200):
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        self._answer({"object": "list", "data": [{"id": name, "object": "model"} for name in self.server.models]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.bodies.append(body)
        time.sleep(self.server.delay)
        if self.server.fail:
            self.server.fail -= 1
            self._answer({"error": {"message": "busy"}}, 503)
            return
        listed = [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in self.server.tokens.items()]
        first = {"token": "Yes", "logprob": -0.5, "bytes": None, "top_logprobs": listed}
        choice = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": self.server.text},
            "logprobs": {"content": [first]} if body.get("logprobs") and listed else None,
        }
        self._answer({"id": "1", "object": "chat.completion", "created": 0, "model": "tiny", "choices": [choice]})


@pytest.fixture
def server():
    stand_in = StandIn()
    thread = threading.Thread(target=stand_in.serve_forever, daemon=True)
    thread.start()
    yield stand_in
    stand_in.shutdown()
    stand_in.server_close()
    thread.join()


def test_probabilities_are_those_of_the_listed_tokens(server):
    model = open_model(server.url)
    assert model.name == "tiny"
    [verdict] = VQAScorer(model, whole=False).score([IMAGE], ["a photo of a bench"])
    [one] = verdict.answers
    assert one.raw == pytest.approx(0.7)
    assert one.share == pytest.approx(0.7 / 0.9)
    body = server.bodies[0]
    assert (body["max_tokens"], body["temperature"], body["logprobs"], body["top_logprobs"]) == (1, 0.0, True, 20)
    picture, text = body["messages"][0]["content"]
    assert picture["image_url"]["url"].startswith("data:image/png;base64,")
    assert text["text"] == "Is there a bench in the image? Answer in one word."


def test_a_busy_server_is_asked_again_and_an_answer_is_kept(server, tmp_path):
    server.fail = 1
    model = ServerModel(server.url, "tiny", cache=tmp_path / "answers")
    first = model.probabilities(IMAGE, ["Is it?"], [("yes", "no")])
    assert len(server.bodies) == 2
    again = ServerModel(server.url, "tiny", cache=tmp_path / "answers")
    assert again.probabilities(IMAGE, ["Is it?"], [("yes", "no")]) == first
    assert len(server.bodies) == 2
    again.probabilities(IMAGE + 1, ["Is it?"], [("yes", "no")])
    assert len(server.bodies) == 3


def test_a_server_that_times_out_is_named_and_scores_nothing(server):
    server.delay = 1.0
    model = ServerModel(server.url, "tiny", timeout=0.2, retries=0)
    with pytest.raises(ServiceError, match="expected an answer of tiny, got APITimeoutError"):
        model.probabilities(IMAGE, ["Is it?"], [("yes", "no")])
    with pytest.raises(ScoringError, match=r"1 of 1 images.*APITimeoutError"):
        VQAScorer(model).score([IMAGE], ["a photo of a bench"])


def test_answers_that_are_not_listed_are_an_error(server):
    server.tokens = {"Maybe": 0.9}
    with pytest.raises(ScoringError, match="got none of them"):
        VQAScorer(open_model(server.url)).score([IMAGE], ["a photo of a bench"])


def test_a_server_without_log_probabilities(server):
    server.tokens = {}
    with pytest.raises(ServiceError, match="probabilities of the first token"):
        ServerModel(server.url, "tiny").probabilities(IMAGE, ["Is it?"], [("yes", "no")])


def test_several_models_must_be_named(server):
    server.models = ["a", "b"]
    with pytest.raises(ServiceError, match="expected one model, got a, b"):
        open_model(server.url)
    assert open_model(f"{server.url}#b").name == "b"


def test_nobody_there():
    with pytest.raises(ServiceError, match="expected a list of models"):
        ServerModel("http://127.0.0.1:9/v1", retries=0, timeout=1)


def test_texts_come_back_in_order(server):
    model = ServerModel(server.url, "tiny")
    assert model.write([([IMAGE, IMAGE], "which?"), ([IMAGE], "and?")], "be fair") == ["[Result]: 4 2"] * 2
    system, user = server.bodies[0]["messages"]
    assert system == {"role": "system", "content": "be fair"}
    assert [part["type"] for part in user["content"]][-1] == "text"


def test_a_cache_needs_a_server(tmp_path):
    with pytest.raises(UsageError, match="cache: expected it with a server's address"):
        open_model("folder", cache=tmp_path)
