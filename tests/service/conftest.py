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

from geneval_reward.prompts import PromptSpec
from geneval_reward.service.server.app import State, make_app
from geneval_reward.service.server.items import Answer
from geneval_reward.service.server.limits import Limits
from geneval_reward.service.server.pool import PoolConfig, WorkerPool
from geneval_reward.service.server.worker import _reply, decode, describe, score_items

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import service_fakes  # noqa: E402


class LocalPool(WorkerPool):
    """Scores in this process, one item after the other, after `delay` seconds."""

    def __init__(self, scorer, *, ready=True, delay=0.0, max_queue=64):
        super().__init__(PoolConfig(max_queue=max_queue))
        self.scorer = scorer
        self.delay = delay
        self._is_ready = ready
        if ready:
            self.info = describe(scorer, "cpu")

    @property
    def ready_workers(self):
        return int(self._is_ready)

    def start(self):
        self.loop = asyncio.get_running_loop()

    async def stop(self):
        pass

    def submit(self, items):
        super().submit(items)
        self._background = asyncio.get_running_loop().create_task(self._score())

    async def _score(self):
        await asyncio.sleep(self.delay)
        while len(self.queue):
            (item,) = self.queue._pop(1) or [None]
            if item is None:
                continue
            try:
                image = decode(item.head, memoryview(bytearray(item.data)), 10**6, item.head["where"])
            except ValueError as error:
                image = str(error)
            (found,) = score_items(self.scorer, [image], [PromptSpec.parse(item.head["spec"])])
            if not item.future.done():
                item.future.set_result(Answer(_reply(found, item.head["credit"]), isinstance(found, str)))


class Local:
    """An application in this process, asked over ASGI."""

    def __init__(self, *, pool=None, limits=None, **options):
        self.pool = pool or LocalPool(service_fakes.make())
        self.state = State()
        self._lock = threading.Lock()
        self.app = make_app(self.pool, limits or Limits(max_pixels=10**6), state=self.state, **options)

    def request(self, method, path, **kwargs):
        async def go():
            self.pool.loop = asyncio.get_running_loop()
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://local") as client:
                return await client.request(method, path, **kwargs)

        # Futures belong to one event loop; concurrent callers come one after the other.
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

    make.pool = lambda **options: LocalPool(service_fakes.make(), **options)
    return make


class Process:
    """A server process."""

    def __init__(self, *arguments, env=None):
        paths = [str(HERE), os.environ.get("PYTHONPATH", "")]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "geneval_reward", "serve", "--port", "0", *arguments],
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

    def start(*arguments, env=None):
        started.append(Process(*arguments, env=env))
        return started[-1]

    yield start
    for process in started:
        process.end()
