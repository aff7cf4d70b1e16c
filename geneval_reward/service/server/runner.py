"""`serve`: run the application on a socket until a signal, then finish the requests in flight."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn

from geneval_reward.errors import ServiceError, UsageError
from geneval_reward.service.server.app import State, make_app
from geneval_reward.service.server.door import is_loopback
from geneval_reward.service.server.metrics import Metrics
from geneval_reward.service.server.pool import PoolConfig, WorkerPool

_log = logging.getLogger(__name__)

_KEEP_ALIVE = 30  # seconds that an idle connection stays open


def check_address(host: str, api_key: str | None, *, flow_grpo: bool = False) -> None:
    """Refuse to serve other machines without a key.

    Args:
        host: Address to listen on.
        api_key: The key that clients must send, if any.
        flow_grpo: Whether to serve Flow-GRPO's client, which cannot send a key.

    Raises:
        UsageError: If other machines could connect without a key, or a key is too short.
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
    if flow_grpo:
        raise UsageError(
            f"--host: expected a loopback address with --compat flow-grpo, got {host}; its client cannot send a key, so "
            "reach the port through an SSH tunnel"
        )


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket.

    Raises:
        ServiceError: If the address is not available.
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
    """uvicorn's server, which on a signal sets `state.draining` and exits with status 0, and on a second exits at once."""

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
    api_key: str | None = None,
    flow_grpo_credit: str | None = None,
    tls: tuple[str, str] | None = None,
    on_listening: Callable[[str], None] = lambda url: None,
    on_ready: Callable[[dict[str, Any]], None] = lambda info: None,
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        config: Configuration of the workers.
        host: Address to listen on; any address but loopback needs a key.
        port: Port, or 0 for a free one.
        api_key: The key that clients must send.
        flow_grpo_credit: Also answer Flow-GRPO's own client on the path `/`, with this credit as `scores`.
        tls: Paths of a certificate and its key.
        on_listening: Called with the address.
        on_ready: Called with a description of the scorer once a worker has passed its self-test.

    Raises:
        UsageError: If the address needs a key.
        ServiceError: If the address is taken, or no worker can start.
    """
    limits = config.limits
    check_address(host, api_key, flow_grpo=flow_grpo_credit is not None)
    if not is_loopback(host) and tls is None:
        _log.warning("%s is not loopback and there is no TLS: key and images cross the network in the clear", host)
    metrics, state = Metrics(), State()
    pool = WorkerPool(config, metrics)
    app = make_app(
        pool,
        api_key=api_key,
        hosts=(host,),
        state=state,
        metrics=metrics,
        flow_grpo_credit=flow_grpo_credit,
    )
    sock = listen(host, port)
    options: dict[str, Any] = {} if tls is None else {"ssl_certfile": tls[0], "ssl_keyfile": tls[1]}
    server = _Server(
        uvicorn.Config(
            app,
            http="h11",
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

    def watch() -> None:
        pool.started.wait()
        if pool.info is None:
            server.should_exit = True
        else:
            on_ready(pool.info)

    threading.Thread(target=watch, daemon=True).start()
    server.run([sock])
    if pool.fatal is not None:
        raise ServiceError(f"workers: expected at least one that starts, got: {pool.fatal}")
