"""`Child`: a subprocess that answers in JSON lines and always ends with this process."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import signal
import subprocess
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Final

from geneval_reward.errors import GeneratorError

_TAIL: Final = 20
_LONGEST: Final = 300


class Child:
    """Starts a process and exchanges JSON objects with it, one per line, over its standard input and output.

    It has its own session and process group: a Ctrl-C in the terminal reaches only this process, which then ends the
    whole group. Any other failure ends it too, because a late answer would be taken for the next one.

    Args:
        command: The program and its arguments.
        name: Name of the process in messages.
        cwd: Its working folder.
        env: Its environment variables.

    Attributes:
        numbers: Yields a unique number for each request.

    Raises:
        GeneratorError: If the program cannot be started.
    """

    def __init__(self, command: Sequence[str], name: str, *, cwd: Path, env: dict[str, str]) -> None:
        self.name = name
        self.numbers = itertools.count(1)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=cwd,
                env=env,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            raise GeneratorError(f"{name}: expected to start {command[0]}, got {error}") from error
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._tail: deque[str] = deque(maxlen=_TAIL)
        # The threads must not hold the object, or it would never be collected and its process would stay alive.
        threads = [
            threading.Thread(target=_queue_lines, args=(self._process.stdout, self._lines), daemon=True),
            threading.Thread(target=_keep_lines, args=(self._process.stderr, self._tail), daemon=True),
        ]
        self._stderr = threads[1]
        for thread in threads:
            thread.start()
        self._kill = weakref.finalize(self, _end, self._process, os.getpid())

    @property
    def alive(self) -> bool:
        """Whether the process has not been ended by this object."""
        return self._kill.alive

    def ask(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:
        """Send a request and wait for the answer with the same `id`.

        Raises:
            GeneratorError: As for `receive`.
        """
        assert self._process.stdin is not None
        # If the process has ended, reading reports that and why.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        answer = self.receive(timeout)
        if answer.get("id") != request["id"]:
            raise self.failure(f"the answer to request {request['id']}", f"{answer}")
        return answer

    def receive(self, timeout: float) -> dict[str, Any]:
        """Wait for a line.

        Args:
            timeout: Seconds.

        Raises:
            GeneratorError: If no line comes in time, the process ends, or the line is not a JSON object. The process has
                then been ended.
        """
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise self.failure(
                f"an answer within {timeout:g} s", "none", "give it more time (timeout), or see what it does"
            ) from None
        except BaseException:
            self.kill()
            raise
        if line is None:
            raise self.failure("an answer", f"the end of the process ({self._how_it_ended()})")
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise self.failure(
                "JSON objects on standard output",
                f"{line.strip()[:_LONGEST]!r}",
                "start Python itself, not a script that prints",
            )
        return found

    def failure(self, expected: str, got: str, do: str = "") -> GeneratorError:
        """End the process, and make an error that includes the last lines of its standard error."""
        self.kill()
        self._stderr.join(timeout=2)
        lines = "".join(f"\n  | {line}" for line in self._tail)
        tail = f"; its last lines on standard error:{lines}" if lines else "; it wrote nothing to standard error"
        return GeneratorError(f"{self.name}: expected {expected}, got {got}" + (f"; {do}" if do else "") + tail)

    def kill(self) -> None:
        """End the process and everything it started."""
        self._kill()

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "its output is closed"
        if code >= 0:
            return f"exit code {code}"
        hint = ", often because the machine is out of memory" if code == -signal.SIGKILL else ""
        return f"{signal.Signals(-code).name}{hint}"


def _queue_lines(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    with stream:
        for line in stream:
            lines.put(line)
    lines.put(None)


def _keep_lines(stream: IO[str], tail: deque[str]) -> None:
    with stream:
        for line in stream:
            if line.strip():
                tail.append(line.rstrip()[-_LONGEST:])


def _end(process: subprocess.Popen[str], owner: int) -> None:
    """Kill a process and its group, and reap it."""
    if os.getpid() != owner:
        return  # in a fork of the process that started it, such as a data loader worker
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
