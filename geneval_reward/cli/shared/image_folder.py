"""The folder that `generate` and `search` fill: its set-up, what it may be continued with, and its records."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import typer

from geneval_reward.cli.shared.options import check_choice
from geneval_reward.cli.shared.suites import check_suite, choose_subset, read_suite
from geneval_reward.errors import FileError, UsageError
from geneval_reward.prompts import Vocabulary
from geneval_reward.support.counts import counted
from geneval_reward.support.files import read_json

if TYPE_CHECKING:
    from geneval_reward.generate import ImageJob, Subset
    from geneval_reward.prompts import PromptSpec
    from geneval_reward.support.prompt_shards import Shard

# What may change between calls on one folder: more images and more prompts of the same run can be added.
_NOT_OF_THE_RUN: Final = ("subset", "images_per_prompt")

T = TypeVar("T")


@dataclass(frozen=True)
class ImageFolderPlan:
    """What one folder of images holds: the options of `generate` and `search` that decide it.

    Attributes:
        out: The folder.
        model: Name of the model.
        suite: Name of the suite.
        subset: Size of the subset, or None.
        rewrites: File of rewritten prompts, or None.
        images_per_prompt: Images per prompt.
        seed: Seed of the whole set.
        precision: Precision of the generator.
        settings: Arguments of the generator's calls.
        lora: LoRA weights, or None.
        lora_scale: Their strength.
        trained_on_template: Whether the user says that the training data held GenEval's own wording.
        search: What `search` adds; None for plain images.
    """

    out: Path
    model: str
    suite: str
    subset: str | None
    rewrites: Path | None
    images_per_prompt: int
    seed: int
    precision: str
    settings: dict[str, Any]
    lora: str | None
    lora_scale: float
    trained_on_template: bool = False
    search: dict[str, Any] | None = None

    def check(self) -> None:
        """Refuse a folder or an argument that cannot be used, before torch is imported."""
        check_choice("precision", self.precision, ("auto", "fp32", "fp16", "bf16"))
        check_suite(self.suite, self.subset)
        if self.rewrites is not None and not self.rewrites.is_file():
            raise UsageError(f"--rewrites: expected a file, got {self.rewrites}, which is none")
        _check_folder(self.out)

    def open(self, part: Shard, load: Callable[[], T], messages: Any) -> tuple[list[ImageJob], T | None]:
        """Check the folder, write its set-up and the records of this part's prompts.

        Args:
            part: Which prompts this process makes.
            load: Loads the generator. It is called before anything is written, because a model that cannot be loaded should
                leave nothing behind in a new folder, and only if an image is missing.
            messages: Console for messages.

        Returns:
            One job per image of this part, and the generator; None if all images are there.
        """
        from rich.text import Text

        from geneval_reward.generate import ForeignGenerator, plan_images, read_rewrites
        from geneval_reward.generate.generator import notes_of
        from geneval_reward.generate.identity import identify
        from geneval_reward.generate.write import image_path
        from geneval_reward.results import GeneratorNotes

        whole = read_suite(self.suite)
        new_texts = {} if self.rewrites is None else read_rewrites(self.rewrites, whole)
        if self.rewrites is not None and not new_texts:
            raise UsageError(
                f"{self.rewrites}: expected at least one text that is not the record's own, got none; leave --rewrites out"
            )
        chosen = choose_subset(whole, self.subset)
        _check_folder(self.out)
        specs = whole if chosen is None else chosen.specs
        numbers = part.of(range(len(whole)) if chosen is None else chosen.numbers)
        before = _read_setup(self.out)
        missing = any(
            not image_path(self.out, number, index).exists()
            for number in numbers
            for index in range(self.images_per_prompt)
        )
        generator, notes, process = None, before.get("generator", {}), before.get("process")
        if missing or not before:
            with messages.status(Text(f"loading {self.model}")):
                generator = load()
                notes = notes_of(generator).to_dict()
                process = generator.about.to_dict() if isinstance(generator, ForeignGenerator) else None
        notes |= {"trained_on_template": True} if self.trained_on_template else {}
        with messages.status("reading the weights' identity"):
            identity = {
                "model": identify(self.model),
                "lora": None if self.lora is None else identify(self.lora),
            }
        named = ("num_inference_steps", "guidance_scale")
        setup = {
            "model": self.model,
            "suite": self.suite,
            "seed": self.seed,
            "steps": self.settings.get(named[0], self.settings.get("steps")),
            "guidance": self.settings.get(named[1], self.settings.get("guidance")),
            "precision": self.precision,
            "arguments": {name: self.settings[name] for name in sorted(self.settings) if name not in named},
            "lora": self.lora,
            "lora_scale": self.lora_scale,
            "identity": identity,
            "process": process,
            "generator": notes,
            "rewrites": _rewrites_record(self.rewrites, whole, new_texts),
            "subset": None if chosen is None else _subset_record(chosen, self.suite),
            "images_per_prompt": self.images_per_prompt,
            "search": self.search,
        }
        _check_setup(self.out, setup)
        if part.index == 0:
            _announce(messages, chosen, self.images_per_prompt, len(new_texts))
            _announce_unknown_words(messages, specs)
        jobs = plan_images(
            self.out,
            part.of(specs),
            self.images_per_prompt,
            self.seed,
            numbers=numbers,
            rewrites=new_texts,
            notes=GeneratorNotes.from_dict(notes, "generator"),
        )
        there = sum(job.path.exists() for job in jobs)
        if there:
            messages.print(f"{there} of {len(jobs)} images are there already")
        return jobs, generator


def _announce_unknown_words(messages: Any, specs: Sequence[PromptSpec]) -> None:
    """Say before images are made which prompts only a scorer of the user's own can judge; most often it is a misspelling."""
    problems = [problem for spec in specs if (problem := Vocabulary().problem(spec)) is not None]
    if problems:
        messages.print(
            f"{len(problems)} of {len(specs)} prompts have words that the package's own backends do not know, such as "
            f"{problems[0]}; a scorer of your own may"
        )


def print_images_made(out: Path, jobs: Sequence[ImageJob], part: Shard) -> None:
    """Print what a folder holds now."""
    prompts = len({job.path.parent for job in jobs})
    of = f" (shard {part.index}/{part.count})" if part.count > 1 else ""
    sys.stdout.write(f"{counted(len(jobs), 'image')} of {counted(prompts, 'prompt')}{of} in {out}\n")


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
            f"{error:.1f} points of the overall score; not the full suite"
        )
    if rewritten:
        messages.print(
            f"{counted(rewritten, 'prompt', 'are')} rewritten: the score will be another measurement than on the "
            "prompts themselves"
        )


def _check_folder(out: Path) -> None:
    """A new folder, an empty one, or one of this command."""
    from geneval_reward.results.layout import GENERATE_LOCK, GENERATE_SETUP

    ours = {GENERATE_SETUP, GENERATE_LOCK}
    if out.exists() and not out.is_dir():
        raise typer.BadParameter(f"expected a folder, got the file {out}; choose another", param_hint="--out")
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
            before = _read_setup(out)
            # Folders of older versions do not say what had its default, nor what they were made with.
            default = {"arguments": {}, "lora_scale": 1.0} | {
                name: setup[name] for name in ("identity", "process", "generator")
            }
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
                expected, got = before.get(name), setup[name]
                if isinstance(expected, dict) and isinstance(
                    got, dict
                ):  # what is alike in both would hide the difference
                    keys = [key for key in expected | got if expected.get(key) != got.get(key)]
                    expected, got = ({key: side.get(key) for key in keys} for side in (expected, got))
                raise UsageError(
                    f"--out: {out} holds images of another run: expected {name} {expected!r}, got {got!r}; "
                    "choose another folder"
                )
            setup = setup | {
                "subset": _larger(before.get("subset"), setup["subset"]),
                "images_per_prompt": max(setup["images_per_prompt"], before.get("images_per_prompt") or 0),
            }
            if setup == before:
                return
        write_json(path, setup)


def _read_setup(out: Path) -> dict[str, Any]:
    """What is recorded of the folder; empty for a new one."""
    from geneval_reward.results.layout import GENERATE_SETUP

    path = out / GENERATE_SETUP
    if not path.exists():
        return {}
    before = read_json(path)
    if not isinstance(before, dict):
        raise FileError(f"{path}: expected a JSON object, got a JSON {type(before).__name__}; choose another folder")
    _check_forms(path, before)
    return before


def _check_forms(path: Path, before: dict[str, Any]) -> None:
    """Refuse a file whose values are not of the kinds that this command writes."""
    subset, images, identity = (before.get(name) for name in ("subset", "images_per_prompt", "identity"))
    for name, good in (
        ("subset", subset is None or (isinstance(subset, dict) and isinstance(subset.get("prompts"), int))),
        ("images_per_prompt", images is None or isinstance(images, int)),
        ("identity", isinstance(identity, dict) or "identity" not in before),
        ("generator", isinstance(before.get("generator", {}), dict)),
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
