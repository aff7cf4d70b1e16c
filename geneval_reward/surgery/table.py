"""Changed models beside the dense one: images from the same noise, scores, differences with intervals, bytes, FLOPs, seconds."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from geneval_reward.errors import UsageError
from geneval_reward.generate import DiffusersGenerator, load_generator, plan_images, write_images
from geneval_reward.generate.identity import identify
from geneval_reward.generate.write import write_json
from geneval_reward.prompts import PromptSpec
from geneval_reward.results import ResultWriter, RunIdentity, read_results
from geneval_reward.results.layout import read_folder
from geneval_reward.results.notation import (
    DASH,
    bare_p,
    detectable_text,
    difference_text,
    judge_text,
    percent_text,
    points_text,
    rounded,
    score_text,
)
from geneval_reward.results.scoring import score_files
from geneval_reward.results.tables import Document, Table
from geneval_reward.scorer import Scorer, fingerprint_id
from geneval_reward.stats import Difference
from geneval_reward.study.compare import Comparison, compare_results
from geneval_reward.study.compare.render import document as compare_document
from geneval_reward.study.sweep.timing import note_batch, read_batches, timing
from geneval_reward.support.counts import counted
from geneval_reward.support.files import read_json
from geneval_reward.surgery.plan import Applied, Plan, load_plan
from geneval_reward.surgery.quantize import QuantizePlan
from geneval_reward.surgery.sizes import count_operations, part_sizes

DENSE: Final = "dense"
Progress = Callable[[str, str, int], None]
"""Called with the row, what was done (`generate` or `score`), and to how many images."""


@dataclass(frozen=True)
class Row:
    """A changed model.

    Attributes:
        name: Its name in the table.
        plans: Applied in order.
    """

    name: str
    plans: tuple[Plan, ...] = ()

    @property
    def folder(self) -> str:
        """The name as a folder's name."""
        return re.sub(r"[^\w.+-]+", "_", self.name)


@dataclass(frozen=True)
class Settings:
    """What all rows share.

    Attributes:
        model: What `geneval-reward generate` takes.
        specs: The prompts.
        numbers: Their numbers in the whole prompt set, which name their folders.
        images_per_prompt: Images per prompt.
        seed: Seed of the whole table; image i of a prompt starts from the same noise in every row.
        arguments: Further keyword arguments of every pipeline call, such as `num_inference_steps`.
        device: A torch device, or `auto`.
        precision: What the pipeline computes in.
        batch_size: Images per call; None takes what suits the model.
    """

    model: str
    specs: tuple[PromptSpec, ...]
    numbers: tuple[int, ...]
    images_per_prompt: int = 1
    seed: int = 0
    arguments: Mapping[str, Any] = field(default_factory=dict)
    device: str = "auto"
    precision: str = "auto"
    batch_size: int | None = None


def parse_rows(texts: Sequence[str]) -> list[Row]:
    """Read rows as the command line names them: `NAME=FILE+FILE`, `FILE+FILE` or `FILE`.

    Raises:
        UsageError: If a name is missing, stands twice, or is `dense`.
        FileError: If a file is not a plan.
        OSError: If a file cannot be read.
    """
    rows = []
    for text in texts:
        name, equals, files = text.partition("=")
        files = files if equals else text
        paths = [Path(part) for part in files.split("+") if part]
        if not paths or (equals and not name.strip()):
            raise UsageError(f"--row: expected NAME=FILE or NAME=FILE+FILE, got {text!r}")
        plans = tuple(load_plan(path) for path in paths)
        rows.append(Row(name.strip() if equals else " + ".join(path.stem for path in paths), plans))
    folders = [DENSE, *(row.folder for row in rows)]
    for row in rows:
        if folders.count(row.folder) > 1:
            raise UsageError(f"--row: expected different names, and none called {DENSE}, got {row.name!r} twice")
    return rows


class TableRun:
    """Makes and scores the missing images of a table, row by row.

    Args:
        out: Folder of the table.
        rows: The changed models; the dense one is added in front.
        settings: What all rows share.
        make_scorer: Returns the judge; called when it is first needed.
    """

    def __init__(self, out: Path, rows: Sequence[Row], settings: Settings, make_scorer: Callable[[], Scorer]) -> None:
        self.out, self.settings = out, settings
        self.rows = [Row(DENSE), *rows]
        self._make_scorer = make_scorer
        self._scorer: Scorer | None = None
        self._generator: DiffusersGenerator | None = None

    def path(self, row: Row) -> Path:
        """The folder of a row, in the benchmark's layout, with `results.jsonl` and `row.json`."""
        return self.out / "rows" / row.folder

    def check(self) -> None:
        """Try every plan on the model before any image is made.

        Raises:
            UsageError: If a plan does not fit, or a folder holds a row of something else.
        """
        for row in self.rows:
            path = self.path(row) / "row.json"
            wanted = self._record(row)
            if path.exists():
                before = read_json(path)
                different = [name for name in wanted if before.get(name) != wanted[name]]
                if different:
                    raise UsageError(
                        f"{path.parent}: expected images of this row, got some with another {different[0]}; choose another "
                        "folder or name"
                    )
        for row in self.rows:
            if not (self.path(row) / "row.json").exists():
                self._undo(self._apply(row))

    def run(self, row: Row, progress: Progress = lambda row, what, images: None) -> dict[str, str]:
        """Make and score the images of a row.

        Returns:
            Images that could not be scored, with the reason.
        """
        root, given = self.path(row), self.settings
        jobs = plan_images(root, given.specs, given.images_per_prompt, given.seed, numbers=given.numbers)
        todo = [job for job in jobs if not job.path.exists()]
        progress(row.name, "generate", len(jobs) - len(todo))
        if not (root / "row.json").exists():
            self._measure(row)
        if todo:
            applied = self._apply(row)
            try:
                generator = self.generator
                # The first call also pays for kernels and caches.
                generator.generate([todo[0].text], [todo[0].seed])
                for batch in write_images(generator, todo):
                    note_batch(root / "times.jsonl", len(batch.jobs), batch.seconds)
                    progress(row.name, "generate", len(batch.jobs))
            finally:
                self._undo(applied)
        return self._score(row, {job.path.relative_to(root).as_posix() for job in jobs}, progress)

    @property
    def generator(self) -> DiffusersGenerator:
        """The generator, which is loaded on first use and shared by all rows."""
        if self._generator is None:
            given = self.settings
            found = load_generator(
                given.model,
                device=given.device,
                precision=given.precision,
                batch_size=given.batch_size,
                **dict(given.arguments),
            )
            if not isinstance(found, DiffusersGenerator):
                raise UsageError(f"model: expected a diffusers pipeline, got {given.model!r}, which is none")
            self._generator = found
        return self._generator

    def _apply(self, row: Row, *, quantized: bool = True) -> list[Applied]:
        applied: list[Applied] = []
        plans = [plan for plan in row.plans if quantized or not isinstance(plan, QuantizePlan)]
        try:
            for plan in plans:
                applied.append(plan.apply(self.generator.pipe))  # noqa: PERF401  # those before an error are undone
        except BaseException as error:
            self._undo(applied)
            if isinstance(error, UsageError):
                raise UsageError(f"{row.name}: {error}") from error
            raise
        return applied

    @staticmethod
    def _undo(applied: list[Applied]) -> None:
        for one in reversed(applied):
            one.undo()

    def _record(self, row: Row) -> dict[str, Any]:
        given = self.settings
        shared = {
            "model": given.model,
            "identity": identify(given.model),
            "seed": given.seed,
            "precision": given.precision,
        }
        plans = [json.loads(plan.to_json()) for plan in row.plans]
        arguments: dict[str, Any] = json.loads(json.dumps(dict(given.arguments)))
        return shared | {"arguments": arguments, "plans": plans}

    def _measure(self, row: Row) -> None:
        """Write bytes and operations of a row."""
        generator = self.generator
        spec = self.settings.specs[0]
        applied = self._apply(row, quantized=False)
        try:
            operations = count_operations(generator.pipe, lambda: generator.generate([spec.prompt], [0]))
        finally:
            self._undo(applied)
        applied = self._apply(row)
        try:
            parts = [asdict(part) for part in part_sizes(generator.pipe)]
        finally:
            self._undo(applied)
        root = self.path(row)
        root.mkdir(parents=True, exist_ok=True)
        write_json(root / "row.json", self._record(row) | {"parts": parts, "operations": operations})

    def _score(self, row: Row, names: set[str], progress: Progress) -> dict[str, str]:
        root = self.path(row)
        path = root / "results.jsonl"
        if path.exists() and self._scorer is None:
            known = read_results(path)
            if known.cut is None and not known.failed and names <= set(known.filenames):
                progress(row.name, "score", len(names))
                return {}
        if self._scorer is None:
            self._scorer = self._make_scorer()
        scorer = self._scorer
        identity = RunIdentity.of(scorer.rules, scorer.name, fingerprint_id(scorer))
        with ResultWriter(path, resume=path.exists(), identity=identity) as writer:
            items = [item for item in read_folder(root).items if item.filename in names - writer.done]
            done = len(names) - len(items)
            progress(row.name, "score", done)
            for _ in score_files(scorer, items, writer):
                now = len(writer.done & names) + len(writer.failed)
                progress(row.name, "score", now - done)
                done = now
            return dict(writer.failed)


def table_document(run: TableRun, *, draws: int = 10_000, level: float = 0.95) -> Document:
    """Tables of all rows that are finished.

    Args:
        run: The table.
        draws: Bootstrap draws.
        level: Level of the intervals.

    Raises:
        ResultsError: If a row has no results, or they are not comparable.
    """
    results = [read_results(run.path(row) / "results.jsonl") for row in run.rows]
    comparison = compare_results(results, names=[row.name for row in run.rows], draws=draws, level=level)
    costs = {row.name: _cost(run.path(row)) for row in run.rows}
    relative = {pair.b: _relative(pair.comparison.overall) for pair in comparison.pairs}
    compared = compare_document(comparison)
    spent = [[*row, *costs[str(row[0])].values()] for row in compared.values.rows]
    return Document(
        [_costs(comparison, costs, relative), _tasks(comparison)],
        Table("", [*compared.values.header, *costs[DENSE]], spent),
        {"costs": costs, "relative": relative, **compared.record},
        problems=compared.problems,
        conclusions=compared.conclusions,
    )


def _cost(root: Path) -> dict[str, Any]:
    record = read_json(root / "row.json")
    return {
        "parameters": sum(part["parameters"] for part in record["parts"]),
        "bytes": sum(part["bytes"] for part in record["parts"]),
        "flop": record["operations"]["all"],
        "seconds": rounded(timing(read_batches(root / "times.jsonl")).seconds),
    }


def _relative(difference: Difference) -> float | None:
    """The difference as a share of the dense score, which papers confuse with points."""
    return rounded(difference.value / difference.a) if difference.a else None


def _costs(
    comparison: Comparison, costs: Mapping[str, Mapping[str, Any]], relative: Mapping[str, float | None]
) -> Table:
    header = ["row", "parameters", "bytes", "change of bytes", "GFLOP/image", "s/image", "score"]
    header += ["difference", "relative", "p (corrected)", "smallest visible difference"]
    pairs = {pair.b: pair.comparison.overall for pair in comparison.pairs}
    rows: list[list[object]] = []
    for one in comparison.runs:
        cost, found = costs[one.name], pairs.get(one.name)
        seconds = DASH if cost["seconds"] is None else f"{cost['seconds']:.3g}"
        cells: list[object] = [one.name, f"{cost['parameters']:,}", f"{cost['bytes']:,}", ""]
        cells += [f"{cost['flop'] / 1e9:.4g}", seconds, score_text(one.scores.overall)]
        if found is None:
            cells += [""] * 4
        else:
            cells[3] = f"{points_text(cost['bytes'] / costs[DENSE]['bytes'] - 1)} %"
            share = relative[one.name]
            cells += [difference_text(found) + (" *" if found.shown else "")]
            cells += [
                DASH if share is None else f"{points_text(share)} %",
                bare_p(found.p_holm),
                detectable_text(found),
            ]
        rows.append(cells)
    images = f"{counted(comparison.runs[0].images, 'image')} of {counted(comparison.runs[0].prompts, 'prompt')}"
    return Table(
        f"the pipeline and its score, {images} per row from the same noise",
        header,
        rows,
        [
            f"difference and smallest visible difference (80 % power) in points, with {percent_text(comparison.level)} intervals "
            "paired image by image; relative: the difference in percent of the dense score. A star marks differences that are "
            "shown after correction over the rows.",
            "bytes: weights and buffers of all parts as they are stored; GFLOP: one image, counted before quantisation; s/image: "
            "of this machine while it made the images.",
            f"judged by {judge_text([comparison.runs[0].identity])}",
        ],
    )


def _tasks(comparison: Comparison) -> Table:
    tags = list(comparison.pairs[0].comparison.tags)
    rows = []
    for pair in comparison.pairs:
        found = [pair.comparison.tags[tag] for tag in tags]
        rows.append([pair.b, *(difference_text(one) + (" *" if one.shown else "") for one in found)])
    return Table(
        "differences by task, in points",
        ["row", *tags],
        rows,
        ["A star marks differences that are shown after correction over the tasks."],
    )
