"""`WorkerProcess`: the server's end of one worker process."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from geneval_reward.service.server.messages import PipeEnd, receive, send

API_KEY_VARIABLE: Final = "GENEVAL_REWARD_API_KEY"
_GOODBYE: Final = 2.0  # seconds in which a worker whose pipe is closed should have ended


class WorkerFailedError(Exception):
    """A worker that cannot start, died or hangs.

    Attributes:
        hopeless: Whether another attempt will fail in the same way, since the worker itself gave the reason.
    """

    def __init__(self, message: str, *, hopeless: bool = False) -> None:
        super().__init__(message)
        self.hopeless = hopeless


class WorkerProcess:
    """One worker process. One thread may send to it while another receives.

    Raises:
        WorkerFailedError: If no process can be started.
    """

    def __init__(self) -> None:
        self._pipe: PipeEnd
        try:
            self._pipe, theirs = multiprocessing.Pipe()
            with contextlib.closing(theirs):
                # -P: no module is taken from the folder in which the server was started.
                command = [sys.executable, "-P", "-m", "geneval_reward.service.server.worker", str(theirs.fileno())]
                # What it prints goes to our stderr, since stdout is for data.
                self._process = subprocess.Popen(
                    command,
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=2,
                    env=_environment(),
                )
        except OSError as error:
            raise WorkerFailedError(f"expected to start a process, got {error}") from error

    @property
    def process_id(self) -> int:
        """Id of the process."""
        return self._process.pid

    def start(self, config: dict[str, Any], timeout: float) -> dict[str, Any]:
        """Wait until it has loaded and tested its scorer.

        Args:
            config: What `geneval_reward.service.server.worker.load_scorer` takes.
            timeout: Seconds.

        Returns:
            What it says about its scorer.

        Raises:
            WorkerFailedError: If it cannot.
        """
        try:
            send(self._pipe, config)
            if not self._pipe.poll(timeout):
                raise WorkerFailedError(f"expected it to be ready within {timeout:g} s, got nothing")
            info, _ = receive(self._pipe)
        except (EOFError, OSError):
            raise WorkerFailedError(f"expected it to be ready, got {self._how_it_ended()} while it loaded") from None
        if info["kind"] != "ready":
            raise WorkerFailedError(info["error"], hopeless=True)
        return info

    def send(self, head: dict[str, Any], blobs: Sequence[bytes]) -> None:
        """Send a batch.

        Raises:
            OSError: If it is gone; `receive` says how.
        """
        send(self._pipe, head, blobs)

    def receive(
        self, stall_timeout: float, busy_since: Callable[[], float | None]
    ) -> tuple[dict[str, Any], list[bytes]]:
        """Wait for its next answer.

        Args:
            stall_timeout: Seconds that it may be busy without an answer.
            busy_since: Since when it works on its present batch, on `time.monotonic`; None if it has none.

        Raises:
            WorkerFailedError: If it has died or hangs.
        """
        try:
            while not self._pipe.poll(min(1.0, stall_timeout)):
                since = busy_since()
                if since is not None and time.monotonic() - since > stall_timeout:
                    raise WorkerFailedError(f"expected an answer within {stall_timeout:g} s, got none; killing it")
            return receive(self._pipe)
        except (EOFError, OSError):
            raise WorkerFailedError(f"expected it to live, got {self._how_it_ended()}") from None

    def kill(self) -> None:
        """Kill it; threads that send or receive get an error."""
        self._process.kill()

    def close(self) -> None:
        """Kill it, wait until it is gone, and close the pipe, which no other thread may use any more."""
        self.kill()
        self._process.wait()
        self._pipe.close()

    def _how_it_ended(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GOODBYE)
        code = self._process.returncode
        if code is None:
            return "a closed pipe"
        return f"its end by signal {-code}" if code < 0 else f"its end with status {code}"


def _environment() -> dict[str, str]:
    """Ours, with the paths that this process imports from, and without the key that only the server needs."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return {name: value for name, value in os.environ.items() if name != API_KEY_VARIABLE} | {"PYTHONPATH": path}
