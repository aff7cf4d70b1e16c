"""`geneval-reward serve`: scoring as a service."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from geneval_reward.cli.shared.options import Backend, BatchSize, Checkpoint, Precision, RulesText, check_judge
from geneval_reward.errors import DependencyError, UsageError
from geneval_reward.support.imports import is_import_path


def serve(
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; any but loopback needs a key.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            "-p",
            min=0,
            max=65535,
            help="Port to listen on; 0 for a free one.",
            show_default="8321, with --compat 18085",
        ),
    ] = None,
    backend: Backend = "lite",
    device: Annotated[
        str, typer.Option("--device", help="auto (every GPU, or the CPU), cpu, cuda, or a list such as cuda:0,cuda:1.")
    ] = "auto",
    precision: Precision = "auto",
    batch_size: BatchSize = None,
    rules: RulesText = None,
    checkpoint: Checkpoint = None,
    workers: Annotated[int, typer.Option("--workers", "-w", min=1, help="Worker processes per device.")] = 1,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads", min=1, help="CPU threads per worker.", show_default="an equal share of the machine's"
        ),
    ] = None,
    max_wait: Annotated[
        float, typer.Option("--max-wait", min=0, help="Milliseconds that an image waits for others to fill a batch.")
    ] = 5.0,
    api_key_file: Annotated[
        Path | None,
        typer.Option("--api-key-file", help="File with the key that clients must send; or GENEVAL_REWARD_API_KEY."),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option("--tls-cert", help="Certificate chain, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="Its private key, PEM.")] = None,
    limits: Annotated[
        str, typer.Option("--limits", help="field=value pairs, such as 'max_items=64,deadline=30'; docs/serving.md.")
    ] = "",
    compat: Annotated[
        str | None, typer.Option("--compat", help="flow-grpo: answer that trainer's own client as well.")
    ] = None,
    credit: Annotated[
        str, typer.Option("--credit", help="With --compat: the credit of `scores`; our own clients name theirs.")
    ] = "flow_grpo",
    swap_rb: Annotated[
        bool,
        typer.Option(
            "--swap-rb/--no-swap-rb",
            help="With --compat: show the detector red and blue swapped, as the public server does.",
        ),
    ] = True,
    log_level: Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")] = "info",
) -> None:
    """Serve verdicts and rewards over HTTP.

    SIGTERM or Ctrl-C ends it, after the requests that it has accepted.

    Examples:
        geneval-reward serve --device cuda
        geneval-reward serve --host 0.0.0.0 --api-key-file key.txt --workers 2
        geneval-reward serve --compat flow-grpo
    """
    import logging

    check_judge(backend, precision=precision, rules=rules, checkpoint=checkpoint)
    if log_level.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise UsageError(f"--log-level: expected debug, info, warning or error, got {log_level!r}")
    if (tls_cert is None) != (tls_key is None):
        raise UsageError("--tls-cert, --tls-key: expected both or neither, got one")
    for name, path in (("--tls-cert", tls_cert), ("--tls-key", tls_key)):
        if path is not None and not path.is_file():
            raise UsageError(f"{name}: expected a file, got {path}, which is none")
    if compat not in (None, "flow-grpo"):
        raise UsageError(f"--compat: expected flow-grpo, got {compat!r}")
    if compat is None and (credit != "flow_grpo" or not swap_rb):
        raise UsageError(
            "--credit, --swap-rb: expected --compat with them, got none; our own clients name their credit"
        )
    try:
        from geneval_reward.service.server.runner import serve as run
    except ImportError as error:
        raise DependencyError(
            f"serve: expected the package {error.name}, got {error}; pip install 'geneval-reward[serve]'"
        ) from error
    from geneval_reward.service.server.limits import DEFAULT_COMPAT_PORT, DEFAULT_PORT, Limits
    from geneval_reward.service.server.pool import PoolConfig

    logging.basicConfig(level="WARNING", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("geneval_reward").setLevel(log_level.upper())
    bounds = Limits.parse(limits)
    devices = [name for name in _devices(device) for _ in range(workers)]
    options: dict[str, Any] = {"precision": precision, "rules": rules}
    options |= {} if checkpoint is None else {"checkpoint": checkpoint}
    # A scorer of one's own takes no options; the server fills its batches all the same.
    options |= {} if is_import_path(backend) else {"batch_size": batch_size}
    config = PoolConfig(
        devices=tuple(devices),
        backend=backend,
        options=options,
        swap_rb=compat is not None and swap_rb,
        batch_size=batch_size,
        max_wait=max_wait / 1000,
        threads=threads or max(1, _cores() // len(devices)),
        limits=bounds,
    )
    messages = Console(stderr=True, highlight=False, soft_wrap=True)
    if port is None:
        port = DEFAULT_PORT if compat is None else DEFAULT_COMPAT_PORT
    run(
        config,
        host=host,
        port=port,
        api_key=_api_key(api_key_file),
        flow_grpo_credit=None if compat is None else credit,
        tls=None if tls_cert is None or tls_key is None else (str(tls_cert), str(tls_key)),
        on_listening=lambda url: messages.print(f"listening on {url}; loading {backend} on {', '.join(devices)}"),
        on_ready=lambda info: messages.print(
            f"ready: {info['backend']}, fingerprint {info['fingerprint']}, batches of {batch_size or info['batch_size']}"
        ),
    )


def _api_key(path: Path | None) -> str | None:
    if path is None:
        return (os.environ.get("GENEVAL_REWARD_API_KEY") or "").strip() or None
    try:
        key = path.read_text().strip()
    except OSError as error:
        raise UsageError(f"--api-key-file: expected a file that can be read, got {error.strerror}: {path}") from error
    if not key:
        raise UsageError(f"--api-key-file: expected a key in {path}, got an empty file")
    return key


def _devices(text: str) -> list[str]:
    """The devices that an option names; torch is loaded in the workers only."""
    names = [name.strip() for name in text.split(",")]
    if names == ["auto"]:
        count = _gpus() if any(map(os.path.exists, ("/dev/nvidiactl", "/dev/dxg"))) else 0
        return [f"cuda:{index}" for index in range(count)] or ["cpu"]
    if names == ["cuda"]:
        count = _gpus()
        if not count:
            raise UsageError("--device: expected at least one CUDA device, got none that torch sees; use --device cpu")
        return [f"cuda:{index}" for index in range(count)]
    if not all(names):
        raise UsageError(f"--device: expected names such as cuda:0,cuda:1, got {text!r}")
    return names


def _gpus() -> int:
    code = "import torch; print(torch.cuda.device_count())"
    # -P: torch is not taken from the working folder.
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    return int(result.stdout)


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1
