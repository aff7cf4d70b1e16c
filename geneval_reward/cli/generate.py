"""`geneval-reward generate`: images of a prompt set in the benchmark's layout, ready for `score`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from geneval_reward.cli.shared.options import Arguments, DType, Lora, LoraScale, Model, SubsetSize, SuiteName
from geneval_reward.cli.shared.suites import call_arguments, choose_subset, read_suite
from geneval_reward.cli.shared.tables import message_console
from geneval_reward.errors import FileError, UsageError
from geneval_reward.support.files import read_json

if TYPE_CHECKING:
    from geneval_reward.generate import Generator, Subset
    from geneval_reward.prompts import PromptSpec

# What may change between calls on one folder: more images and more prompts of the same run can be added.
_NOT_OF_THE_RUN: Final = ("subset", "images_per_prompt")


def generate(
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for images and records.")],
    suite: SuiteName = "official",
    images_per_prompt: Annotated[int, typer.Option("--images-per-prompt", "-n", min=1)] = 4,
    seed: Annotated[int, typer.Option("--seed", "-s", min=0, help="Seed of the whole set.")] = 0,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Sampling steps; the pipeline's own.")] = None,
    guidance: Annotated[float | None, typer.Option("--guidance", help="Guidance scale; the pipeline's own.")] = None,
    arguments: Arguments = None,
    lora: Lora = None,
    lora_scale: LoraScale = 1.0,
    rewrites: Annotated[
        Path | None,
        typer.Option(
            "--rewrites", help="JSON lines with another text for every prompt; the records stay, and it is said."
        ),
    ] = None,
    subset: SubsetSize = None,
    shard: Annotated[
        str | None,
        typer.Option("--shard", help="i/n: only every n-th prompt, from the i-th (from 0). torchrun sets its own."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, help="64 for pocket, else 8.")] = None,
    device: Annotated[str, typer.Option("--device", help="A torch device, or auto: CUDA where there is one.")] = "auto",
    precision: DType = "auto",
) -> None:
    """Make images of a prompt set, as DIR/00000/metadata.jsonl and DIR/00000/samples/0000.png; goes on where it stopped.

    Every image has its own seed, made of --seed, its prompt and its number: neither batch size nor interruptions nor the
    number of processes change one. The batch is halved when memory runs out.
    """
    from rich.text import Text

    from geneval_reward.generate import Shard, load_generator, plan_images, read_rewrites, write_images
    from geneval_reward.generate.identity import identify
    from geneval_reward.results.layout import GENERATE_SETUP

    messages = message_console()
    part = Shard.current(shard)
    whole = read_suite(suite)
    new_texts = {} if rewrites is None else read_rewrites(rewrites, whole)
    if rewrites is not None and not new_texts:
        raise UsageError(
            f"{rewrites}: expected at least one text that is not the record's own, got none; leave --rewrites out"
        )
    chosen = choose_subset(whole, subset)
    settings = call_arguments(arguments, num_inference_steps=steps, guidance_scale=guidance)
    _check_folder(out)

    def load() -> Generator:
        with messages.status(Text(f"loading {model}")):
            return load_generator(
                model,
                device=device,
                dtype=precision,
                batch_size=batch_size,
                lora=lora,
                lora_scale=lora_scale,
                **settings,
            )

    # A model that cannot be loaded should leave nothing behind in a new folder.
    generator = None if (out / GENERATE_SETUP).exists() else load()
    with messages.status("reading the weights' identity"):
        identity = {"model": identify(model), "lora": None if lora is None else identify(lora)}
    setup = {
        "model": model,
        "suite": suite,
        "seed": seed,
        "steps": settings.get("num_inference_steps"),
        "guidance": settings.get("guidance_scale"),
        "precision": precision,
        "arguments": {
            name: settings[name] for name in sorted(settings) if name not in ("num_inference_steps", "guidance_scale")
        },
        "lora": lora,
        "lora_scale": lora_scale,
        "identity": identity,
        "rewrites": _rewrites_record(rewrites, whole, new_texts),
        "subset": None if chosen is None else _subset_record(chosen, suite),
        "images_per_prompt": images_per_prompt,
    }
    _check_setup(out, setup)
    if part.index == 0:
        _announce(messages, chosen, images_per_prompt, len(new_texts))
    specs = whole if chosen is None else chosen.specs
    numbers = range(len(whole)) if chosen is None else chosen.numbers
    jobs = plan_images(out, part.of(specs), images_per_prompt, seed, numbers=part.of(numbers), rewrites=new_texts)
    todo = sum(not job.path.exists() for job in jobs)
    if todo < len(jobs):
        messages.print(f"{len(jobs) - todo} of {len(jobs)} images are there already")
    if todo:
        generator = generator or load()
        with progress_bar(messages, "generating", quiet=part.index > 0) as bar:
            task = bar.add_task("", total=len(jobs), completed=len(jobs) - todo)
            for batch in write_images(generator, jobs):
                bar.update(task, advance=len(batch.jobs))
    of = f" (shard {part.index}/{part.count})" if part.count > 1 else ""
    sys.stdout.write(f"{len(jobs)} images of {len(part.of(specs))} prompts{of} in {out}\n")


def progress_bar(messages: Any, what: str, *, quiet: bool = False) -> Any:
    """A bar with counts and times; nothing at all if `quiet`: of many processes one shows it."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=messages, disable=quiet)


def _rewrites_record(
    path: Path | None, whole: Sequence[PromptSpec], texts: dict[PromptSpec, str]
) -> dict[str, Any] | None:
    """The file by content, so that it may move, but not change under a half-made folder."""
    if path is None:
        return None
    import hashlib

    digest = hashlib.sha256("\0".join(texts.get(spec, "") for spec in whole).encode()).hexdigest()
    return {"file": path.name, "prompts": len(texts), "sha256": digest}


def _subset_record(chosen: Subset, suite: str) -> dict[str, Any]:
    return {"prompts": len(chosen.specs), "of": chosen.whole, "suite": suite, "seed": chosen.seed}


def _announce(messages: Any, chosen: Subset | None, images_per_prompt: int, rewritten: int) -> None:
    if chosen is not None:
        error = 100 * chosen.standard_error(images_per_prompt)
        messages.print(
            f"a stratified subset of {len(chosen.specs)} of {chosen.whole} prompts: expect a standard error of about "
            f"{error:.1f} points of the overall score (95 % interval +-{1.96 * error:.1f}); not the full suite"
        )
    if rewritten:
        messages.print(
            f"{rewritten} prompts are rewritten: the score will be another measurement than on the prompts themselves"
        )


def _check_folder(out: Path) -> None:
    """A new folder, an empty one, or one of this command."""
    from geneval_reward.results.layout import GENERATE_LOCK, GENERATE_SETUP

    ours = {GENERATE_SETUP, GENERATE_LOCK}
    if out.exists() and not any((out / name).exists() for name in ours) and any(out.iterdir()):
        raise typer.BadParameter(
            f"expected a new or empty folder, or one of this command, got {out}; choose another", param_hint="--out"
        )


def _check_setup(out: Path, setup: dict[str, Any]) -> None:
    """One folder holds one run: images of two seeds or models must not be mixed. Several processes may come at once."""
    from filelock import FileLock

    from geneval_reward.generate.write import write_json
    from geneval_reward.results.layout import GENERATE_LOCK, GENERATE_SETUP

    path, lock = out / GENERATE_SETUP, out / GENERATE_LOCK
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        if path.exists():
            before = read_json(path)
            if not isinstance(before, dict):
                raise FileError(
                    f"{path}: expected a JSON object, got a JSON {type(before).__name__}; choose another folder"
                )
            _check_forms(path, before)
            # Folders of older versions do not say what had its default, nor which weights they were made with.
            default = {"arguments": {}, "lora_scale": 1.0, "identity": setup["identity"]}
            different = [
                name
                for name in setup
                if name not in _NOT_OF_THE_RUN and before.get(name, default.get(name)) != setup[name]
            ]
            if different:
                name = different[0]
                if name == "identity":
                    changed = [what for what, value in setup[name].items() if before[name].get(what) != value]
                    raise UsageError(
                        f"--out: {out} holds images that were made with other weights: expected the {changed[0]} "
                        f"{setup[changed[0]]!r} as it was, got one whose files have changed; choose another folder"
                    )
                raise UsageError(
                    f"--out: {out} holds images of another run: expected {name} {before.get(name)!r}, got {setup[name]!r}; "
                    "choose another folder"
                )
            setup = setup | {
                "subset": _larger(before.get("subset"), setup["subset"]),
                "images_per_prompt": max(setup["images_per_prompt"], before.get("images_per_prompt") or 0),
            }
            if setup == before:
                return
        write_json(path, setup)


def _check_forms(path: Path, before: dict[str, Any]) -> None:
    """Refuse a file whose values are not of the kinds that this command writes."""
    subset, images, identity = (before.get(name) for name in ("subset", "images_per_prompt", "identity"))
    for name, good in (
        ("subset", subset is None or (isinstance(subset, dict) and isinstance(subset.get("prompts"), int))),
        ("images_per_prompt", images is None or isinstance(images, int)),
        ("identity", isinstance(identity, dict) or "identity" not in before),
    ):
        if not good:
            raise FileError(
                f"{path}: expected {name} as this command writes it, got something else; choose another folder"
            )


def _larger(before: dict[str, Any] | None, now: dict[str, Any] | None) -> dict[str, Any] | None:
    """What the folder holds in the end; a smaller subset of the same seed is part of a larger one."""
    if before is None or now is None:
        return None
    return before if before["prompts"] > now["prompts"] else now
