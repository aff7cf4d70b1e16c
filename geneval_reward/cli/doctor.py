"""`geneval-reward doctor`: what is installed, which weights are there, and whether the detector still sees."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console

from geneval_reward.cli.shared.options import Backend, Checkpoint, Device, Precision, check_judge

_PACKAGES = (
    "geneval-reward",
    "torch",
    "torchvision",
    "torchmetrics",
    "numpy",
    "pillow",
    "transformers",
    "open-clip-torch",
    "opencv-python-headless",
    "lightning",
    "diffusers",
    "wandb",
    "mmdet",
    "ray",
)


class Format(StrEnum):
    """The formats in which the findings can be printed."""

    text = "text"
    json = "json"


def doctor(
    backend: Backend = "lite",
    device: Device = "auto",
    precision: Precision = "auto",
    checkpoint: Checkpoint = None,
    format: Annotated[Format, typer.Option("--format", "-f", help="How to print it.")] = Format.text,
) -> None:
    """Check the installation, and judge images whose verdicts are known.

    It prints versions, devices, weights and their hashes: what a bug report needs.

    Examples:
        geneval-reward doctor
        geneval-reward doctor --backend paper --device cuda

    Exit code 1: the judge could not be loaded, or a verdict was not the known one.
    """
    check_judge(backend, precision=precision, checkpoint=checkpoint)
    report: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "devices": _devices(),
        "weights": _weights(),
    }
    report["self_test"] = _self_test(backend, device, precision, checkpoint)
    if format is Format.json:
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    else:
        _print(report)
    if not report["self_test"]["passed"]:
        raise typer.Exit(1)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> list[str]:
    import torch

    names = [f"cpu, {torch.get_num_threads()} threads"]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        names.append(f"cuda:{index} {properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    return names


def _weights() -> list[dict[str, Any]]:
    from geneval_reward.vision.weights import KNOWN_FILES, find

    found = []
    for file in KNOWN_FILES.values():
        path = find(file)
        found.append({"file": file.file_name, "for": file.about, "path": None if path is None else str(path)})
    return found


def _self_test(backend: str, device: str, precision: str, checkpoint: str | None) -> dict[str, Any]:
    from geneval_reward import GenEvalScorer
    from geneval_reward.errors import SelfTestError, WeightsError
    from geneval_reward.vision.photos import PHOTOS, photo

    options: dict[str, Any] = {} if checkpoint is None else {"checkpoint": checkpoint}
    try:
        scorer = GenEvalScorer.from_pretrained(backend, device=device, precision=precision, **options)
    except (SelfTestError, WeightsError, ImportError) as error:
        return {"backend": backend, "passed": False, "error": str(error)}
    cases = [(name, record, True) for name, shot in PHOTOS.items() for record in [shot.record]]
    cases += [(name, shot.false_record, False) for name, shot in PHOTOS.items()]
    verdicts = scorer.score([photo(name) for name, _, _ in cases], [record for _, record, _ in cases])
    rows = [
        {
            "photo": name,
            "prompt": verdict.spec.prompt,
            "expected": truth,
            "got": verdict.correct,
            "reason": verdict.reason,
        }
        for (name, _, truth), verdict in zip(cases, verdicts, strict=True)
    ]
    return {
        "backend": backend,
        "passed": all(row["expected"] == row["got"] for row in rows),
        "fingerprint": scorer.fingerprint_id,
        "details": scorer.fingerprint(),
        "images": rows,
    }


def _words(value: Any) -> str:
    """Write a detector's or verifier's identity for people; `--format json` has all of it."""
    if not isinstance(value, dict):
        return str(value)
    parts = {name: one for name, one in value.items() if isinstance(one, str | int | float) and len(str(one)) <= 40}
    return ", ".join(f"{name} {one}" for name, one in parts.items())


def _print(report: dict[str, Any]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"python {report['python']} on {report['platform']}")
    for name, version in report["packages"].items():
        console.print(f"  {name:<24} {version or '-'}")
    console.print("devices")
    for device in report["devices"]:
        console.print(f"  {device}")
    console.print("weights")
    console.print("  lite, nanodet: inside the package")
    for file in report["weights"]:
        console.print(f"  {file['for']}: {file['path'] or 'not here; geneval-reward weights fetch'}")
    test = report["self_test"]
    console.print(f"self-test of {test['backend']}")
    if "error" in test:
        console.print(f"  [red]failed[/]: {test['error']}")
        return
    console.print(f"  fingerprint {test['fingerprint']}")
    for key in ("detector", "verifier"):
        console.print(f"  {key}: {_words(test['details'][key])}")
    for row in test["images"]:
        mark = "[green]ok[/]" if row["expected"] == row["got"] else "[red]wrong[/]"
        console.print(
            f"  {mark} {row['photo']}: {row['prompt']} -> {'correct' if row['got'] else 'wrong'} {row['reason']}"
        )
    console.print("[green]passed[/]" if test["passed"] else "[red]failed[/]")
