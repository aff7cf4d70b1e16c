"""`geneval-reward weights`: list the weight files, fetch them, check them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from geneval_reward.cli.shared.help import Command, Group

app = typer.Typer(help="List, fetch and verify the weights of the paper backend.", no_args_is_help=True, cls=Group)

_Key = Annotated[str, typer.Argument(help="A key of `weights list`.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
_File = Annotated[Path | None, typer.Argument(help="A checkpoint or folder.", show_default="where the backend looks")]


@app.command("list", cls=Command)
def list_(as_json: _Json = False) -> None:
    """Name the known files, their addresses and where they are.

    Examples:
        geneval-reward weights list
    """
    from geneval_reward.vision.weights import KNOWN_FILES, cache_dir, find

    rows: list[dict[str, Any]] = []
    for file in KNOWN_FILES.values():
        path = find(file)
        rows.append(
            {
                "key": file.key,
                "about": file.about,
                "file": file.file_name,
                "url": file.url,
                "sha256_prefix": file.sha256_prefix,
                "variable": file.variable,
                "path": None if path is None else str(path),
            }
        )
    if as_json:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return
    for row in rows:
        sys.stdout.write(
            f"{row['key']}: {row['about']}\n  file      {row['file']}\n  address   {row['url']}\n"
            f"  sha256    {row['sha256_prefix']}...\n  place     {row['path'] or 'not here'}  (or set {row['variable']})\n"
        )
    sys.stdout.write(
        "clip: the benchmark's colour verifier, open_clip ViT-L-14-quickgelu/openai\n"
        "  open_clip fetches it from its hub when it is first used (or set GENEVAL_REWARD_CLIP)\n"
        f"cache: {cache_dir()}  (or set GENEVAL_REWARD_CACHE)\n"
    )


@app.command(cls=Command)
def fetch(
    key: _Key = "mask2former",
    folder: Annotated[Path | None, typer.Option("--folder", help="Where to put it.", show_default="the cache")] = None,
) -> None:
    """Download a file and check its hash.

    Examples:
        geneval-reward weights fetch mask2former
    """
    from geneval_reward.vision.weights import fetch as fetch_file

    path = fetch_file(_known(key), folder, progress=sys.stderr.isatty())
    sys.stdout.write(f"{path}\n")


@app.command(cls=Command)
def verify(
    path: _File = None,
    self_test: Annotated[bool, typer.Option(help="Look for the cat in a packaged photograph.")] = False,
    as_json: _Json = False,
) -> None:
    """Check a file's hash, names and shapes.

    Examples:
        geneval-reward weights verify checkpoints/mask2former.pth --self-test

    Exit code 1: the file is sound, but not a published one.
    """
    from geneval_reward.vision.detectors.mask2former import Mask2FormerDetector
    from geneval_reward.vision.detectors.mask2former_convert import build_model, load_converted
    from geneval_reward.vision.weights import KNOWN_FILES, resolve

    file = resolve(KNOWN_FILES["mask2former"], path, allow_download=False)
    weights = load_converted(file)
    model = build_model(weights)
    sizes = weights.architecture
    report: dict[str, Any] = {
        "path": str(file),
        "sha256": weights.source_sha256,
        "published": weights.verified,
        "layout": f"mmdet {weights.layout}",
        "tensors": len(weights.tensors),
        "parameters": sum(tensor.numel() for tensor in weights.tensors.values()),
        "depths": sizes.depths,
        "embed_dim": sizes.embed_dim,
        "queries": sizes.num_queries,
        "classes": sizes.num_classes,
    }
    if self_test:
        status = "published" if weights.verified else "unverified weights"
        detector = Mask2FormerDetector(model, weights_sha256=weights.source_sha256, weights_status=status)
        detector.check()
        report["self_test"] = "passed"
    if as_json:
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    else:
        sys.stdout.writelines(f"{name:<12}{value}\n" for name, value in report.items())
    if not weights.verified:
        raise typer.Exit(1)


def _known(key: str) -> Any:
    from geneval_reward.vision.weights import KNOWN_FILES

    if key not in KNOWN_FILES:
        raise typer.BadParameter(f"expected one of {', '.join(KNOWN_FILES)}, got {key!r}")
    return KNOWN_FILES[key]
