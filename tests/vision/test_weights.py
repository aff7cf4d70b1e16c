"""Downloads against a real server on the loopback, by real processes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from geneval_reward.errors import WeightsError
from geneval_reward.vision.weights import KNOWN_FILES, WeightFile, cache_dir, fetch, find, resolve, sha256_of

SIZE = 3 << 20


class Server(ThreadingHTTPServer):
    """Serves one file; can be told to cut the connection, to wait, or to answer another status."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = np.random.default_rng(0).bytes(SIZE)
        self.cut_after: list[int] = []
        self.statuses: list[int] = []
        self.delay = 0.0
        self.requests = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/folder/model-{self.prefix}.pth"

    @property
    def prefix(self) -> str:
        return hashlib.sha256(self.content).hexdigest()[:8]

    def file(self) -> WeightFile:
        return WeightFile("k", "a test file", self.url, self.prefix, SIZE, "GENEVAL_REWARD_MASK2FORMER")

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # A killed client is part of the tests.


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        server.requests += 1
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(server.content)))
        self.end_headers()
        time.sleep(server.delay)
        self.wfile.write(server.content[: server.cut_after.pop(0) if server.cut_after else None])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def left(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.suffix != ".lock")


def child(code: str, **env: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(code)]
    environment = {**os.environ, **env}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_whole_file(server: Server, tmp_path: Path) -> None:
    path = fetch(server.file(), tmp_path / "new")
    assert path.read_bytes() == server.content
    assert sha256_of(path) == hashlib.sha256(server.content).hexdigest()
    assert left(tmp_path / "new") == [path.name]


def test_cut_connections_and_busy_servers_are_tried_again(server: Server, tmp_path: Path) -> None:
    server.cut_after = [1 << 20]
    server.statuses = [503]
    assert fetch(server.file(), tmp_path, pause=0.01).read_bytes() == server.content
    assert server.requests == 3


def test_wrong_content_is_thrown_away(server: Server, tmp_path: Path) -> None:
    file = WeightFile("k", "a", server.url, "00000000", None, "V")
    with pytest.raises(WeightsError, match=r'got none: invalid hash value .expected "00000000"'):
        fetch(file, tmp_path, attempts=1)
    assert left(tmp_path) == []


def test_a_file_that_is_not_there_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    server.statuses = [404] * 3
    with pytest.raises(WeightsError, match="HTTP Error 404: Not Found in attempt 1; download http"):
        fetch(server.file(), tmp_path, pause=0.01)
    assert server.requests == 1


@pytest.mark.slow
def test_two_processes_fetch_once(server: Server, tmp_path: Path) -> None:
    server.delay = 0.5
    code = f"""
        from geneval_reward.vision.weights import WeightFile, fetch
        file = WeightFile("k", "a", {server.url!r}, {server.prefix!r}, None, "NO_SUCH_VARIABLE")
        print(fetch(file))
    """
    children = [child(code, GENEVAL_REWARD_CACHE=str(tmp_path)) for _ in range(3)]
    answers = [process.communicate(timeout=60) for process in children]
    target = tmp_path / "weights" / f"model-{server.prefix}.pth"
    assert {out.strip() for out, _ in answers} == {str(target)}, answers
    assert target.read_bytes() == server.content
    assert server.requests == 1
    assert left(tmp_path / "weights") == [target.name]


class TestResolve:
    def test_no_network_says_which_file_to_put_where(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file = WeightFile("k", "a", "http://127.0.0.1:9/model-abcdef01.pth", "abcdef01", None, "SOME_VARIABLE")
        monkeypatch.setenv("GENEVAL_REWARD_CACHE", str(tmp_path))
        with pytest.raises(WeightsError) as caught:
            fetch(file, attempts=1)
        message = str(caught.value)
        for part in ("model-abcdef01.pth", str(tmp_path / "weights" / "model-abcdef01.pth"), "SOME_VARIABLE", file.url):
            assert part in message
        assert "\n" not in message

    @pytest.mark.parametrize("how", ["variable", "argument"])
    def test_offline(self, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
        if how == "variable":
            monkeypatch.setenv("GENEVAL_REWARD_OFFLINE", "1")
        with pytest.raises(WeightsError, match="downloads are off"):
            resolve(KNOWN_FILES["mask2former"], allow_download=how == "variable")

    def test_order(self, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file = server.file()
        assert find(file) is None
        fetched = resolve(file)
        assert fetched == cache_dir() / "weights" / file.file_name
        assert find(file) == fetched
        assert resolve(file) == fetched
        assert server.requests == 1
        named = tmp_path / "mine.pth"
        named.write_bytes(b"1")
        monkeypatch.setenv(file.variable, str(named))
        assert resolve(file) == named
        other = tmp_path / "other.pth"
        other.write_bytes(b"2")
        assert resolve(file, other) == other

    def test_folders(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file = KNOWN_FILES["mask2former"]
        with pytest.raises(WeightsError, match="got no checkpoint"):
            resolve(file, tmp_path)
        (tmp_path / "anything.pth").write_bytes(b"")
        assert resolve(file, tmp_path).name == "anything.pth"
        (tmp_path / "another.pth").write_bytes(b"")
        with pytest.raises(WeightsError, match=r"another\.pth, anything\.pth"):
            resolve(file, tmp_path)
        # The name under which GenEval's own script stores it.
        (tmp_path / "mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco.pth").write_bytes(b"")
        assert resolve(file, tmp_path).name == "mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco.pth"
        (tmp_path / file.file_name).write_bytes(b"")
        assert resolve(file, tmp_path).name == file.file_name
        monkeypatch.setenv(file.variable, str(tmp_path / "nowhere"))
        with pytest.raises(WeightsError, match="GENEVAL_REWARD_MASK2FORMER: expected"):
            find(file)

    def test_unwritable_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "plain").write_text("a file where the folder should be")
        monkeypatch.setenv("GENEVAL_REWARD_CACHE", str(tmp_path / "plain"))
        with pytest.raises(WeightsError, match="put it at"):
            fetch(KNOWN_FILES["mask2former"])

    def test_cache_folder(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("GENEVAL_REWARD_CACHE")
        assert "geneval-reward" in str(cache_dir())

    @pytest.mark.parametrize("file", KNOWN_FILES.values(), ids=lambda file: file.key)
    def test_known_files(self, file: WeightFile) -> None:
        """OpenMMLab's names end in the first 8 digits of the file's sha256."""
        assert file.file_name.removesuffix(".pth").endswith(f"-{file.sha256_prefix}")
        assert file.url.startswith("https://")


def test_light_module() -> None:
    """Looking for a file needs no torch."""
    code = "import sys, geneval_reward.vision.weights as w; w.find(w.KNOWN_FILES['mask2former']); print('torch' in sys.modules)"
    out, err = child(code).communicate(timeout=60)
    assert out.strip() == "False", err
