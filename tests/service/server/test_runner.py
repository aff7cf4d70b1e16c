import socket

import pytest
from typer.testing import CliRunner

from geneval_reward.cli import app
from geneval_reward.cli.serve import _api_key, _devices
from geneval_reward.errors import ServiceError
from geneval_reward.service.server.door import is_loopback
from geneval_reward.service.server.limits import Limits
from geneval_reward.service.server.runner import check_address, listen

KEY = "correct-horse-battery"


def test_loopback():
    assert all(map(is_loopback, ["127.0.0.1", "127.8.9.1", "::1", "localhost"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "10.0.0.1", "example.org", "", "127.0.0.1.example.org"]))


def test_strangers_need_a_key():
    check_address("127.0.0.1", None)
    check_address("127.0.0.1", None, flow_grpo=True)
    check_address("0.0.0.0", KEY)
    with pytest.raises(ValueError, match=r"--host: expected a loopback address without a key, got 0\.0\.0\.0"):
        check_address("0.0.0.0", None)
    with pytest.raises(ValueError, match="its client cannot send a key"):
        check_address("0.0.0.0", KEY, flow_grpo=True)
    with pytest.raises(ValueError, match="at least 16 characters, got 3"):
        check_address("127.0.0.1", "abc")


def test_a_taken_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ServiceError, match="--port: expected a free address"):
            listen("127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_size=3", "expected one of max_body"),
        ("max_items=many", "max_items: expected an integer, got 'many'"),
        ("deadline=soon", "deadline: expected a number"),
        ("max_items=0", "max_items: expected a positive number"),
        ("deadline=nan", "deadline: expected a positive"),
        ("max_body=10,max_memory=5", "at least max_body"),
        ("max_queue=16", r"max_queue: expected at least max_items \(128\), got 16"),
    ],
)
def test_limits_that_are_none(text, message):
    with pytest.raises(ValueError, match=message):
        Limits.parse(text)


def test_limits():
    assert Limits.parse("") == Limits()
    assert Limits.parse("max_items = 3,deadline=2").to_dict() == Limits(max_items=3, deadline=2.0).to_dict()


def test_devices():
    assert _devices("cpu") == ["cpu"]
    assert _devices("cuda:0, cuda:1") == ["cuda:0", "cuda:1"]
    with pytest.raises(ValueError, match="--device: expected names"):
        _devices("cuda:0,,")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "expected a loopback address without a key"),
        (["--api-key-file", "nothing"], "--api-key-file: expected a file that can be read"),
        (["--tls-cert", "cert.pem"], "expected both or neither"),
        (["--compat", "other"], "--compat: expected flow-grpo, got 'other'"),
        (["--limits", "max_size=1"], "limits: expected one of"),
        (["--log-level", "loud"], "--log-level: expected debug"),
    ],
)
def test_wrong_options_are_one_sentence(arguments, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GENEVAL_REWARD_API_KEY", raising=False)
    result = CliRunner().invoke(app, ["serve", "--device", "cpu", "--port", "0", *arguments])
    assert isinstance(result.exception, ValueError)
    assert message in str(result.exception)


def test_an_empty_key_is_no_key(monkeypatch, tmp_path):
    (tmp_path / "key").write_text("\n")
    with pytest.raises(ValueError, match="got an empty file"):
        _api_key(tmp_path / "key")
    (tmp_path / "key").write_text(f"{KEY}\n")
    assert _api_key(tmp_path / "key") == KEY
    monkeypatch.setenv("GENEVAL_REWARD_API_KEY", "")
    assert _api_key(None) is None
