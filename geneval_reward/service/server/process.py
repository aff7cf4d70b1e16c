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
_GOODBYE: Final = 2.0  # seconds within which a worker should exit once its pipe is closed


class WorkerFailedError(Exception):
    """A worker that cannot start, died or hangs.

    Attributes:
        hopeless: Whether another attempt would fail in the same way, because the worker itself gave the reason.
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
                # -P: no module is imported from the folder in which the server was started.
                command = [sys.executable, "-P", "-m", "geneval_reward.service.server.worker", str(theirs.fileno())]
                # Its output goes to our stderr, because stdout is for data.
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
        """The process id."""
        return self._process.pid

    def start(self, config: dict[str, Any], timeout: float) -> dict[str, Any]:
        """Wait until the worker has loaded and tested its scorer.

        Args:
            config: The configuration for `geneval_reward.service.server.worker.load_scorer`.
            timeout: Seconds.

        Returns:
            The worker's description of its scorer.

        Raises:
            WorkerFailedError: If it cannot load its scorer in time.
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
            OSError: If the worker is gone; `receive` says why.
        """
        send(self._pipe, head, blobs)

    def receive(
        self, stall_timeout: float, busy_since: Callable[[], float | None]
    ) -> tuple[dict[str, Any], list[bytes]]:
        """Wait for the worker's next answer.

        Args:
            stall_timeout: Seconds that the worker may be busy without answering.
            busy_since: The `time.monotonic` time at which it began its current batch; None if it has none.

        Raises:
            WorkerFailedError: If the worker has died or hangs.
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
        """Kill the worker; threads that are sending or receiving get an error."""
        self._process.kill()

    def close(self) -> None:
        """Kill the worker, wait for it to exit, and close the pipe, which no other thread may use any more."""
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
    """Copy our environment, adding this process's import paths and removing the key, which only the server needs."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return {name: value for name, value in os.environ.items() if name != API_KEY_VARIABLE} | {"PYTHONPATH": path}
