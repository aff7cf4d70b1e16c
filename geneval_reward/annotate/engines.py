"""Where parts are annotated: in this process, in several on this machine, or on a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from queue import Empty
from typing import Any

import torch

from geneval_reward.annotate.part import Annotator, Job, PartReport, Setup, Tick
from geneval_reward.errors import GenEvalError, ServiceError, UsageError

Done = Callable[[PartReport], None]


def run_here(setup: Setup, jobs: Sequence[Job], tick: Tick, done: Done) -> None:
    """Annotate parts in this process, one after the other."""
    annotator = Annotator(setup)
    for job in jobs:
        done(annotator.annotate(job, tick))


class _StopError(Exception):
    """The main process was interrupted."""


class _Worker:
    """What a worker process keeps between parts."""

    setup: Setup
    ticks: Any
    stop: Any
    annotator: Annotator | None = None


def run_processes(setup: Setup, jobs: Sequence[Job], tick: Tick, done: Done, workers: int) -> None:
    """Annotate parts in several processes, which share the CPU's threads.

    Raises:
        UsageError: If the rewards or the scorer cannot be sent to other processes.
        GenEvalError: If a process died; what was stored is taken up by the next run.
    """
    try:
        pickle.dumps(setup)
    except Exception as error:
        raise UsageError(
            f"workers: expected rewards and a scorer that other processes can import, got one that cannot be sent to them "
            f"({error}); name it as module:function"
        ) from error
    context = multiprocessing.get_context("spawn")
    ticks, stop = context.Queue(), context.Event()
    threads = max(1, (os.cpu_count() or 1) // workers)
    with ProcessPoolExecutor(workers, context, _start, (setup, ticks, stop, threads)) as pool:
        running = {pool.submit(_annotate, job) for job in jobs}
        try:
            while running:
                finished, running = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                _drain(ticks, tick)
                for future in finished:
                    done(future.result())
        except BrokenProcessPool as error:
            raise GenEvalError(
                "workers: expected processes that live, got one that ended; look for too little memory, and run the command "
                "again to go on"
            ) from error
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


def _drain(ticks: Any, tick: Tick) -> None:
    while True:
        try:
            tick(ticks.get_nowait())
        except Empty:
            return


def _start(setup: Setup, ticks: Any, stop: Any, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    _Worker.setup, _Worker.ticks, _Worker.stop = setup, ticks, stop
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    """End this process when its parent was killed, so that no two runs ever write the same part."""
    parent.join()
    os._exit(1)


def _annotate(job: Job) -> PartReport:
    if _Worker.annotator is None:
        _Worker.annotator = Annotator(_Worker.setup)

    def tick(count: int) -> None:
        _Worker.ticks.put(count)
        if _Worker.stop.is_set():
            raise _StopError

    return _Worker.annotator.annotate(job, tick)


class AnnotatingActor:
    """A Ray actor that annotates parts.

    Args:
        setup: How.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._annotator: Annotator | None = None

    def process_id(self) -> int:
        """Return the process id."""
        return os.getpid()

    def annotate(self, job: Job) -> PartReport:
        """Annotate a part. The rewards are loaded here, because errors in a constructor reach the driver as a death."""
        if self._annotator is None:
            self._annotator = Annotator(self._setup)
        return self._annotator.annotate(job)


def run_ray(
    setup: Setup, jobs: Sequence[Job], tick: Tick, done: Done, workers: int | None, address: str | None = None
) -> None:
    """Annotate parts on a Ray cluster; progress is seen part by part.

    Raises:
        ServiceError: If Ray cannot be reached or has no room.
        GenEvalError: If a part cannot be annotated.
    """
    from geneval_reward.ray.pool import ActorPool
    from geneval_reward.ray.runtime import Workers

    pool = ActorPool(setup, Workers(workers), address, at_most=len(jobs), actor=AnnotatingActor)
    try:
        for number, report in pool.map("annotate", [(job,) for job in jobs]):
            if isinstance(report, ServiceError):
                raise GenEvalError(f"ray: {jobs[number].part.label}: {str(report).removeprefix('ray: ')}") from report
            tick(report.rows)
            done(report)
    finally:
        pool.close()
