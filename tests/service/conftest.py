"""An application whose pool scores in this process, and real server processes."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
import service_fakes

from geneval_reward.service.server.app import State, make_app
from geneval_reward.service.server.decode import decode_all
from geneval_reward.service.server.limits import Limits
from geneval_reward.service.server.pool import Answer, PoolConfig, WorkerPool
from geneval_reward.service.server.worker import answer_items, describe

HERE = Path(__file__).parent

SMALL = Limits(max_pixels=10**6)


class LocalPool(WorkerPool):
    """Scores in this process, one item after the other, after `delay` seconds."""

    def __init__(self, scorer, *, ready=True, delay=0.0, limits=SMALL):
        super().__init__(PoolConfig(limits=limits))
        self.scorer = scorer
        self.delay = delay
        self._is_ready = ready
        if ready:
            self.info = {name: value for name, value in describe(scorer, "cpu").items() if name != "device"}

    @property
    def ready_workers(self):
        return int(self._is_ready)

    def start(self):
        pass

    def stop(self):
        pass

    def submit(self, items):
        super().submit(items)
        threading.Thread(target=self._score, daemon=True).start()

    def _score(self):
        time.sleep(self.delay)
        while True:
            with self._changed:
                batch = self._pop_batch() if self._queue else []
            if not batch:
                return
            limits = self.config.limits
            heads = [item.head for item in batch]
            images, _ = decode_all(heads, [item.data for item in batch], limits.max_pixels, limits.decode_timeout)
            for item, text, failed in zip(batch, *answer_items(self.scorer, heads, images), strict=True):
                item.future.set_result(Answer(text, failed))


class Local:
    """An application in this process, asked over ASGI."""

    def __init__(self, *, pool=None, limits=SMALL, **options):
        self.pool = pool or LocalPool(service_fakes.make(), limits=limits)
        self.state = State()
        self._lock = threading.Lock()
        self.app = make_app(self.pool, state=self.state, **options)

    def request(self, method, path, base_url="http://127.0.0.1", **kwargs):
        async def go():
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url=base_url) as client:
                return await client.request(method, path, **kwargs)

        with self._lock:
            return asyncio.run(go())


@pytest.fixture
def fakes():
    return service_fakes


@pytest.fixture
def local():
    """Makes an application in this process; `local.pool(...)` makes a pool for it."""

    def make(**options):
        return Local(**options)

    make.pool = lambda scorer=None, **options: LocalPool(scorer or service_fakes.make(), **options)
    return make


class Process:
    """A server process."""

    def __init__(self, *arguments, env=None, script=False):
        paths = [str(HERE), os.environ.get("PYTHONPATH", "")]
        command = [sys.executable, "-m", "geneval_reward"]
        if script:
            command = [str(Path(sys.executable).with_name("geneval-reward"))]
        self.process = subprocess.Popen(
            [*command, "serve", "--port", "0", *arguments],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"} | (env or {}),
        )
        os.set_blocking(self.process.stderr.fileno(), False)
        self.log = ""
        self.url = self.wait_for(r"listening on (\S+);")[1]

    def wait_for(self, pattern, seconds=120.0):
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.read())):
            assert time.monotonic() < end, f"no {pattern!r} in:\n{self.log}"
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.log}"
            time.sleep(0.05)
        return found

    def read(self):
        self.log += (self.process.stderr.read() or b"").decode()
        return self.log

    def ready(self):
        self.wait_for("ready: ")
        return self

    @property
    def port(self):
        return int(self.url.rpartition(":")[2])

    @property
    def workers(self):
        """Process ids of all workers that ever got ready, in order."""
        return [int(pid) for pid in re.findall(r"worker \d+ ready: .* process (\d+)", self.read())]

    def memory(self):
        """Resident bytes of the server process."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.read()
        self.process.stderr.close()


@pytest.fixture(scope="module")
def server_with():
    """Starts server processes; they are ended with the module."""
    started = []

    def start(*arguments, **options):
        started.append(Process(*arguments, **options))
        return started[-1]

    yield start
    for process in started:
        process.end()
