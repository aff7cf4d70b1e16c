"""`serve`: the application on a socket, until a signal; what is in flight then is finished first."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import signal
import socket
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import Any

import uvicorn

from geneval_reward.errors import ServiceError, UsageError
from geneval_reward.service.flow_grpo.pool_scorer import PoolScorer
from geneval_reward.service.server.app import State, make_app
from geneval_reward.service.server.guard import App
from geneval_reward.service.server.limits import Limits
from geneval_reward.service.server.metrics import Metrics
from geneval_reward.service.server.pool import PoolConfig, WorkerPool
from geneval_reward.service.server.protocol import guarded_protocol

_log = logging.getLogger(__name__)

_KEEP_ALIVE = 30  # seconds that an idle connection stays open


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine can connect to an address.

    Example:
        >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0"), is_loopback("localhost")
        (True, True, False, True)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_address(host: str, api_key: str | None, compat: str | None) -> None:
    """Refuse to serve strangers.

    Raises:
        ValueError: If others can connect and no key is asked, or a key is too short, or a protocol cannot carry one.
    """
    if api_key is not None and len(api_key) < 16:
        raise UsageError(
            f"api key: expected at least 16 characters, got {len(api_key)}; `openssl rand -hex 32` makes one"
        )
    if is_loopback(host):
        return
    if api_key is None:
        raise UsageError(
            f"--host: expected a loopback address without a key, got {host}; set GENEVAL_REWARD_API_KEY or --api-key-file"
        )
    if compat is not None:
        raise UsageError(
            f"--host: expected a loopback address with --compat {compat}, got {host}; its client cannot send a key, so "
            "reach the port through an SSH tunnel"
        )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        ServiceError: If the address is not to be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise ServiceError(
            f"--host, --port: expected a free address, got {error.strerror} for {host}:{port}"
        ) from error
    sock.listen(2048)
    return sock


class _Server(uvicorn.Server):
    """uvicorn's server; a signal sets `state.draining` and ends it with status 0, and a second one ends it at once."""

    def __init__(self, config: uvicorn.Config, state: State) -> None:
        super().__init__(config)
        self._state = state

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            _log.warning("%s again: ending at once", signal.Signals(sig).name)
            self.force_exit = True
            return
        _log.info("%s: finishing what is in flight", signal.Signals(sig).name)
        self._state.draining = True
        self.should_exit = True


def serve(
    config: PoolConfig,
    *,
    host: str = "127.0.0.1",
    port: int = 8321,
    limits: Limits | None = None,
    api_key: str | None = None,
    compat: str | None = None,
    compat_credit: str = "flow_grpo",
    compat_swap_rb: bool = True,
    tls: tuple[str, str] | None = None,
    on_listening: Callable[[str], None] = lambda url: None,
    on_ready: Callable[[dict[str, Any]], None] = lambda info: None,
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        config: What the workers run.
        host: Address; anything but loopback needs a key.
        port: 0 for a free one.
        limits: What it takes on.
        api_key: What clients must send.
        compat: `flow-grpo` to answer that trainer's client too, on the path `/`.
        compat_credit: What that client gets as `scores`; `flow_grpo` is what it has always got.
        compat_swap_rb: Show the public server's detectors red and blue swapped, as it does.
        tls: Files of a certificate and its key.
        on_listening: Is told the address.
        on_ready: Is told of the scorer once a worker has passed its self-test.

    Raises:
        ValueError: If the address needs a key, or `compat` is unknown.
        ServiceError: If the address is taken or no worker can start.
    """
    limits = limits or Limits()
    check_address(host, api_key, compat)
    if not is_loopback(host) and tls is None:
        _log.warning("%s is not loopback and there is no TLS: key and images cross the network in the clear", host)
    asyncio.run(
        _serve(config, host, port, limits, api_key, compat, compat_credit, compat_swap_rb, tls, on_listening, on_ready)
    )


async def _serve(
    config: PoolConfig,
    host: str,
    port: int,
    limits: Limits,
    api_key: str | None,
    compat: str | None,
    compat_credit: str,
    compat_swap_rb: bool,
    tls: tuple[str, str] | None,
    on_listening: Callable[[str], None],
    on_ready: Callable[[dict[str, Any]], None],
) -> None:
    metrics, state = Metrics(), State()
    # Its public server shows the detector red and blue swapped; the detectors are in the workers.
    config = replace(config, swap_rb=compat == "flow-grpo" and compat_swap_rb)
    pool = WorkerPool(config, metrics)
    app = make_app(
        pool,
        limits,
        api_key=api_key,
        state=state,
        metrics=metrics,
        compat=_compat_app(compat, pool, limits.deadline, compat_credit),
    )
    sock = listen(host, port)
    options: dict[str, Any] = {} if tls is None else {"ssl_certfile": tls[0], "ssl_keyfile": tls[1]}
    server = _Server(
        uvicorn.Config(
            app,
            http=guarded_protocol(limits),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=limits.max_connections,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=max(1, round(limits.drain_timeout)),
            **options,
        ),
        state,
    )
    shown = f"[{host}]" if ":" in host else host
    on_listening(f"{'https' if tls else 'http'}://{shown}:{sock.getsockname()[1]}")
    watcher = asyncio.create_task(_watch(pool, server, on_ready))
    try:
        await server.serve([sock])
    finally:
        watcher.cancel()
    if pool.fatal is not None:
        raise ServiceError(f"workers: expected at least one that starts, got: {pool.fatal}")


async def _watch(pool: WorkerPool, server: uvicorn.Server, on_ready: Callable[[dict[str, Any]], None]) -> None:
    await pool.started.wait()
    if pool.info is None:
        server.should_exit = True
    else:
        on_ready(pool.info)


def _compat_app(name: str | None, pool: WorkerPool, timeout: float, credit: str) -> App | None:
    if name is None:
        return None
    if name != "flow-grpo":
        raise UsageError(f"--compat: expected flow-grpo, got {name!r}")
    from geneval_reward.service.flow_grpo import app as flow_grpo

    # One request more than there are workers, so that none waits while the next is decoded.
    # What the queue never has room for must be refused, not told to come back.
    images = min(flow_grpo.Capacity.images, pool.config.max_queue)
    capacity = flow_grpo.Capacity(concurrency=len(pool.config.devices) + 1, images=images)
    app: App = flow_grpo.make_app(PoolScorer(pool, timeout), credit=credit, capacity=capacity)
    return app
