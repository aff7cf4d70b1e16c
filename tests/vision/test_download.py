"""Downloads against a real server on the loopback, by real processes."""

from __future__ import annotations

import hashlib
import os
import re
import signal
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
from geneval_reward.vision import weights as weights_module
from geneval_reward.vision.download import download, sha256_of
from geneval_reward.vision.weights import KNOWN_FILES, WeightFile, cache_dir, fetch, find, resolve

SIZE = 3 << 20


class Server(ThreadingHTTPServer):
    """Serves one file; can be told to cut, to stall, to lie, or to not know ranges."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = np.random.default_rng(0).bytes(SIZE)
        self.etag = '"one"'
        self.cut_after: list[int] = []
        self.statuses: list[int] = []
        self.ranges = True
        self.delay = 0.0
        self.requests: list[tuple[int, int]] = []

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
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        start = 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and server.ranges and self.headers.get("If-Range") == server.etag:
            start = int(asked[1])
        if start >= len(server.content):
            self.send_error(416)
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", server.etag)
        self.end_headers()
        sent = server.cut_after.pop(0) if server.cut_after else len(body)
        server.requests.append((start, min(sent, len(body))))
        for offset in range(0, min(sent, len(body)), 1 << 17):
            self.wfile.write(body[offset : min(offset + (1 << 17), sent)])
            time.sleep(server.delay)

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


def get(server: Server, target: Path, **options: object) -> str:
    return download(server.url, target, sha256_prefix=server.prefix, pause=0.01, **options)  # type: ignore[arg-type]


def left(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.suffix != ".lock")


def child(code: str, **env: str) -> subprocess.Popen[str]:
    # filelock and this package's download need neither torch nor transformers: children start at once.
    command = [sys.executable, "-c", textwrap.dedent(code)]
    environment = {**os.environ, **env}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_whole_file(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    digest = get(server, tmp_path / "new" / "file", progress=lambda done, total: seen.append((done, total)))
    assert (tmp_path / "new" / "file").read_bytes() == server.content
    assert digest == hashlib.sha256(server.content).hexdigest() == sha256_of(tmp_path / "new" / "file")
    assert seen[-1] == (SIZE, SIZE)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert left(tmp_path / "new") == ["file"]


def test_cut_connections_are_resumed(server: Server, tmp_path: Path) -> None:
    server.cut_after = [1 << 20, 1 << 19]
    get(server, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == server.content
    assert [start for start, _ in server.requests] == [0, 1 << 20, (1 << 20) + (1 << 19)]


def test_server_without_ranges_sends_all_again(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    server.cut_after = [1 << 20]
    get(server, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == server.content
    assert [start for start, _ in server.requests] == [0, 0]


def test_file_changed_between_attempts(server: Server, tmp_path: Path) -> None:
    server.cut_after = [1 << 20]
    with pytest.raises(WeightsError, match="resumes"):
        get(server, tmp_path / "file", attempts=1)
    assert left(tmp_path) == ["file.part", "file.part.origin"]
    server.content, server.etag = server.content[::-1], '"two"'
    get(server, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == server.content
    assert left(tmp_path) == ["file"]


def test_partial_file_longer_than_the_whole(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(b"x" * (SIZE + 1))
    (tmp_path / "file.part.origin").write_text(server.etag)
    get(server, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == server.content


def test_wrong_content_is_thrown_away(server: Server, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="begins with 00000000, got"):
        download(server.url, tmp_path / "file", sha256_prefix="00000000")
    assert left(tmp_path) == []


def test_server_errors(server: Server, tmp_path: Path) -> None:
    server.statuses = [503, 500]
    get(server, tmp_path / "file")
    server.statuses = [404]
    with pytest.raises(WeightsError, match="HTTP status 404"):
        get(server, tmp_path / "other")
    server.statuses = [503] * 2
    with pytest.raises(WeightsError, match="HTTP status 503"):
        get(server, tmp_path / "other", attempts=2)


def test_killed_download_goes_on(server: Server, tmp_path: Path) -> None:
    server.delay = 0.05
    code = f"""
        from pathlib import Path
        from geneval_reward.vision.download import download
        download({server.url!r}, Path({str(tmp_path / "file")!r}), sha256_prefix={server.prefix!r})
    """
    process = child(code)
    part = tmp_path / "file.part"
    while not (part.is_file() and part.stat().st_size >= 1 << 20):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = part.stat().st_size
    assert kept < SIZE
    assert not (tmp_path / "file").exists()
    server.delay = 0.0
    get(server, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == server.content
    assert server.requests[-1][0] == kept


def test_two_processes_fetch_once(server: Server, tmp_path: Path) -> None:
    server.delay = 0.02
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
    assert len(server.requests) == 1
    assert left(tmp_path / "weights") == [target.name]


def test_disk_full(server: Server, tmp_path: Path) -> None:
    """A real limit on file sizes, in a real process."""
    code = f"""
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
        from pathlib import Path
        from geneval_reward.errors import WeightsError
        from geneval_reward.vision.download import download
        try:
            download({server.url!r}, Path({str(tmp_path / "file")!r}), sha256_prefix={server.prefix!r})
        except WeightsError as error:
            print(error)
    """
    out, err = child(code).communicate(timeout=60)
    assert "expected room for file" in out, err
    assert "GENEVAL_REWARD_CACHE" in out
    assert left(tmp_path) == []


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
        assert len(server.requests) == 1
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
    """The download itself needs no torch, so that a fetch starts at once."""
    code = "import sys, geneval_reward.vision.weights; print('torch' in sys.modules)"
    out, err = child(code).communicate(timeout=60)
    assert out.strip() == "False", err
    assert weights_module.sha256_of is sha256_of
