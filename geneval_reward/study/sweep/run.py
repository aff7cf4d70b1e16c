"""Make and score the images of every cell of a sweep, resuming image by image."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from geneval_reward.errors import UsageError
from geneval_reward.generate import DiffusersGenerator, Generator, ImageJob, load_generator, plan_images, write_images
from geneval_reward.generate.foreign import ForeignGenerator
from geneval_reward.generate.generator import notes_of
from geneval_reward.generate.identity import identify
from geneval_reward.generate.load import own_arguments
from geneval_reward.generate.write import write_json
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.results import GeneratorNotes, ResultRow, ResultWriter, RunIdentity, read_results
from geneval_reward.results.layout import read_folder
from geneval_reward.results.scoring import score_files
from geneval_reward.study.sweep.grid import Cell
from geneval_reward.study.sweep.timing import note_batch
from geneval_reward.support.files import read_json

if TYPE_CHECKING:
    from geneval_reward.scorer import GenEvalScorer

RESULTS: Final = "results.jsonl"
TIMES: Final = "times.jsonl"

Progress = Callable[[str, int], None]
"""Function that is called with what was done (`generate` or `score`) and to how many images."""


@dataclass(frozen=True)
class Sweep:
    """A grid of settings, the prompts, and a folder.

    Attributes:
        root: Folder of the sweep.
        model: Model for cells that name none, as `geneval_reward.generate.load_generator` takes it.
        cells: The settings; the others are compared with the first.
        specs: The prompts.
        numbers: Numbers of the prompts in the whole prompt set, which name their folders.
        images_per_prompt: Number of scored images per prompt, >= 1.
        seed: Seed of the whole sweep. Image i of a prompt starts from the same noise in every cell.
        fixed: Arguments of every cell.
        device: The device to generate on.
        batch_size: Images per call; None takes what suits the model.
        process: For a model that runs in another Python: see `geneval_reward.generate.load_generator`.
    """

    root: Path
    model: str
    cells: tuple[Cell, ...]
    specs: tuple[PromptSpec, ...]
    numbers: tuple[int, ...]
    images_per_prompt: int
    seed: int = 0
    fixed: tuple[tuple[str, Any], ...] = ()
    device: str = "auto"
    batch_size: int | None = None
    process: Mapping[str, Any] | None = None

    def folder(self, cell: Cell) -> Path:
        """Return the folder of a cell's images and scores; cells that only differ in `best_of` share it."""
        return self.root / "cells" / cell.folder

    def candidates(self, cell: Cell) -> int:
        """Count the images of each prompt that the cell's folder needs."""
        shared = (other.best_of for other in self.cells if other.rendering == cell.rendering)
        return self.images_per_prompt * max(shared)

    def renderings(self) -> list[Cell]:
        """List the cells that have images of their own, with the same model and precision next to one another."""
        found = list(dict.fromkeys(cell.rendering for cell in self.cells))
        order = {key: i for i, key in enumerate(dict.fromkeys(_loading_key(cell) for cell in found))}
        return sorted(found, key=lambda cell: order[_loading_key(cell)])


class SweepRunner:
    """Makes and scores the missing images.

    Args:
        sweep: The sweep.
        make_scorer: Function that returns the scorer; called when it is first needed.
    """

    def __init__(self, sweep: Sweep, make_scorer: Callable[[], GenEvalScorer]) -> None:
        self.sweep = sweep
        self._make_scorer = make_scorer
        self._scorer: GenEvalScorer | None = None
        self._loaded: tuple[str, Generator] | None = None

    @property
    def scorer(self) -> GenEvalScorer:
        """The scorer, which is made on first use."""
        if self._scorer is None:
            self._scorer = self._make_scorer()
        return self._scorer

    def run(self, cell: Cell, progress: Progress | None = None) -> dict[str, str]:
        """Make and score the images of a cell.

        Args:
            cell: One of the sweep's renderings.
            progress: Function to call after every batch.

        Returns:
            Images that could not be scored, with the reason.

        Raises:
            UsageError: If the generator cannot be loaded with the cell's arguments.
            ResultsError: If the folder's results come from another scorer.
        """
        report = progress or (lambda what, images: None)
        root = self.sweep.folder(cell)
        jobs = plan_images(
            root, self.sweep.specs, self.sweep.candidates(cell), self.sweep.seed, numbers=self.sweep.numbers
        )
        identity = self._identity(cell)
        described: dict[str, Any] = {}
        if (root / "cell.json").exists():
            found = read_json(root / "cell.json")
            described = found.get("generator", {})
            before = found.get("identity", identity)
            changed = [name for name in identity if before.get(name) != identity[name]]
            if changed:
                raise UsageError(
                    f"{root}: expected images of the {changed[0]} as it is now, got some that were made before its files "
                    "changed; choose another folder, or delete this one"
                )
        todo = [job for job in jobs if not job.path.exists()]
        report("generate", len(jobs) - len(todo))
        generator = self._generator(cell) if todo else None
        if generator is not None:
            described = notes_of(generator).to_dict()
        record = {
            "model": self.sweep.model,
            "fixed": dict(self.sweep.fixed),
            "identity": identity,
            "generator": described,
        }
        write_json(root / "cell.json", record | dict(cell.values))
        if generator is not None:
            # The first call of a setting also pays for kernels and caches, so its images are discarded.
            generator.generate([todo[0].text], [todo[0].seed])
            for batch in write_images(generator, todo):
                note_batch(root / TIMES, len(batch.jobs), batch.seconds)
                report("generate", len(batch.jobs))
        return self._score(root, jobs, report, GeneratorNotes.from_dict(described, f"{root / 'cell.json'}: generator"))

    def _identity(self, cell: Cell) -> dict[str, str]:
        """Digests of the weights that a cell's names stand for."""
        loading = Cell(self.sweep.fixed).arguments()[0] | cell.arguments()[0]
        names = {"model": loading.get("model", self.sweep.model), "lora": loading.get("lora")}
        return {kind: identify(str(name)) for kind, name in names.items() if name is not None}

    def _generator(self, cell: Cell) -> Generator:
        # A model in another Python has its own names for options.
        aliases = self.sweep.process is None
        loading, calling = cell.arguments(aliases=aliases)
        fixed_loading, fixed_calling = Cell(self.sweep.fixed).arguments(aliases=aliases)
        loading, calling = fixed_loading | loading, fixed_calling | calling
        model = loading.pop("model", self.sweep.model)
        if aliases:
            # What a function makes depends on these, so a generator made with others must not be used again.
            own = own_arguments(str(model), calling)
            loading, calling = loading | own, {name: value for name, value in calling.items() if name not in own}
        key = json.dumps([model, loading], sort_keys=True, default=str)
        if self._loaded is not None and self._loaded[0] == key and isinstance(self._loaded[1], DiffusersGenerator):
            old = self._loaded[1]
            made: Generator = DiffusersGenerator(old.pipe, batch_size=old.batch_size, **calling)
        else:
            if self._loaded is not None and isinstance(self._loaded[1], ForeignGenerator):
                self._loaded[1].close()
            self._loaded = None  # two models at once may not fit
            made = load_generator(
                str(model),
                device=self.sweep.device,
                batch_size=self.sweep.batch_size,
                process=self.sweep.process,
                **loading,
                **calling,
            )
        self._loaded = (key, made)
        return made

    def _score(self, root: Path, jobs: Sequence[ImageJob], report: Progress, notes: GeneratorNotes) -> dict[str, str]:
        path = root / RESULTS
        names = {job.path.relative_to(root).as_posix() for job in jobs}
        if path.exists() and self._scorer is None:
            known = read_results(path)
            if known.cut is None and not known.failed and names <= set(known.filenames):
                report("score", len(jobs))
                return {}
        scorer = self.scorer
        identity = RunIdentity.of(scorer.rules, scorer.name, scorer.fingerprint_id)
        with ResultWriter(path, resume=path.exists(), identity=identity) as writer:
            items = [item for item in read_folder(root).items if item.filename in names - writer.done]
            done = len(jobs) - len(items)
            report("score", done)
            for _ in score_files(scorer, [replace(item, generator=notes) for item in items], writer):
                now = len(writer.done & names) + len(writer.failed)
                report("score", now - done)
                done = now
            return dict(writer.failed)


def choose_best_of(source: Path, target: Path, best_of: int, images_per_prompt: int) -> int:
    """Write the rows of the images that the metric would choose: the best of every `best_of` candidates.

    Candidates `k * best_of .. (k + 1) * best_of - 1` of a prompt give its image `k`. The rows record `best_of`, so that every
    table made from them says that the images were chosen.

    Args:
        source: Results of all candidates.
        target: Results file to write; an existing one is replaced.
        best_of: Number of candidates for each image, >= 2.
        images_per_prompt: Number of images per prompt.

    Returns:
        Number of rows written. An image whose candidates are not all scored has none.
    """
    groups: dict[tuple[str, int], list[ResultRow]] = {}
    for row in read_results(source).rows():
        if row.index is not None and row.index < best_of * images_per_prompt:
            groups.setdefault((row.metadata, row.index // best_of), []).append(row)
    written = 0
    with ResultWriter(target, overwrite=True) as writer:
        for (_, number), rows in groups.items():
            if len(rows) == best_of:
                # The dense credit decides between candidates that are all correct, or all wrong.
                winner = max(rows, key=lambda row: (row.correct, row.credits["dense"], -(row.index or 0)))
                writer.write([replace(winner, index=number, best_of=best_of)])
                written += 1
    return written


def _loading_key(cell: Cell) -> str:
    return json.dumps(cell.arguments()[0], sort_keys=True, default=str)
