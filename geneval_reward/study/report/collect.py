"""Everything that a report says, from results files. Pictures and layout are added by other files of this folder."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geneval_reward.errors import FileError, ResultsError, UsageError, name_some
from geneval_reward.judge.boxes import Box, boxes
from geneval_reward.prompts.vocabulary import TAGS, sort_tags
from geneval_reward.results import ResultRow, Results, read_results
from geneval_reward.results.layout import GENERATE_SETUP
from geneval_reward.study.compare import Comparison, compare_results
from geneval_reward.study.compare.table import short_names
from geneval_reward.study.published import PublishedScore
from geneval_reward.study.report.calibration import Flip, Threshold, calibrate, flip
from geneval_reward.study.report.locate import locate
from geneval_reward.study.report.published_rows import nearest_published
from geneval_reward.study.report.reasons import FailureGroup, causes, group_failures
from geneval_reward.study.summary import Summary, summarize
from geneval_reward.support.counts import counted
from geneval_reward.support.files import read_json

_UNKNOWN_FLIP = Flip(None, None)


@dataclass(frozen=True)
class Shown:
    """One image of a run as the gallery shows it.

    Attributes:
        filename: Name of the image in the results.
        path: Where the image is now; None if it was not found.
        prompt_id: Index into the run's records; -1 if the image could not be scored, so that its prompt is not recorded.
        index: Number of the image within its prompt; -1 if unknown.
        seed: Seed of the image, if known.
        correct: The official verdict; None if the image could not be scored.
        reasons: The failures in the official wording, or why the image could not be scored.
        causes: Keys of `geneval_reward.study.report.reasons.CAUSES`.
        boxes: The boxes that the judge looked at.
        size: `(width, height)` of the judged image in pixels; None if the file does not record it.
        flip: What a moved threshold would change.
        rewritten: The text that the generator got, if it was not the prompt.
        best_of: Number of candidates among which this metric chose the image; 0 if it was not chosen.
    """

    filename: str
    path: Path | None
    prompt_id: int
    index: int
    seed: int | None
    correct: bool | None
    reasons: tuple[str, ...]
    causes: tuple[str, ...]
    boxes: tuple[Box, ...]
    size: tuple[int, int] | None
    flip: Flip
    rewritten: str | None
    best_of: int


@dataclass(frozen=True, eq=False)
class RunReport:
    """One results file.

    Attributes:
        name: Name of the run.
        results: The columns of the file.
        summary: The scores with intervals.
        images: All images; those that could not be scored come last.
        groups: Failures by cause; rows are indices into `images`.
        thresholds: The detections around each threshold; empty if no detections are stored or judges are mixed.
        published: Scores that others published, to be shown beside the run; empty unless the suite is the official one.
        problems: One sentence for everything that a reader must know before believing a figure.
        setup: How the images were generated, as `generate.json` beside them says; empty if there is none.
        sha256: Hash of the results file.
    """

    name: str
    results: Results
    summary: Summary
    images: tuple[Shown, ...]
    groups: tuple[FailureGroup, ...]
    thresholds: tuple[Threshold, ...]
    published: tuple[PublishedScore, ...]
    problems: tuple[str, ...]
    setup: dict[str, Any]
    sha256: str

    @property
    def missing(self) -> int:
        """Number of images that were not found."""
        return sum(image.path is None for image in self.images)

    @property
    def fragile(self) -> int:
        """Number of verdicts that a threshold moved by .05 would change."""
        return sum(image.flip.fragile for image in self.images)


@dataclass(frozen=True)
class Item:
    """One place in the gallery: an image, or the same image of several runs.

    Attributes:
        record: The prompt's record as JSON; empty for an image that could not be scored.
        index: Number of the image within its prompt; -1 if unknown.
        sides: For each run, the index into its `images`; None if it has no such image.
    """

    record: str
    index: int
    sides: tuple[int | None, ...]


@dataclass(frozen=True, eq=False)
class Report:
    """Everything a report says.

    Attributes:
        title: The heading.
        runs: The results files; the others are compared with the first.
        comparison: The comparison of the others with the first; None for a single run.
        items: The places of the gallery.
        command: The command that made the report; empty if it was made from Python.
    """

    title: str
    runs: tuple[RunReport, ...]
    comparison: Comparison | None
    items: tuple[Item, ...]
    command: str = ""

    @property
    def complete(self) -> bool:
        """Whether nothing is missing from any run, and nothing serious weakens the comparison."""
        serious = self.comparison is not None and any(problem.serious for problem in self.comparison.problems)
        return all(run.summary.complete and not run.missing for run in self.runs) and not serious

    @property
    def tags(self) -> tuple[str, ...]:
        """The benchmark's six tasks, whether or not a run has them, then those of one's own."""
        return sort_tags([*TAGS, *(tag for run in self.runs for tag in run.summary.scores.tags)])

    @property
    def published(self) -> tuple[PublishedScore, ...]:
        """The published scores to show: those of the run with the highest score."""
        return max(self.runs, key=lambda run: run.summary.scores.overall.value).published

    @property
    def problems(self) -> list[str]:
        """Everything that a reader must know. What the comparison says already is not repeated for each run."""
        said = [] if self.comparison is None else [problem.text for problem in self.comparison.problems]
        for run in self.runs:
            prefix = "" if len(self.runs) == 1 else f"{run.name}: "
            said += [prefix + text for text in run.problems]
        return list(dict.fromkeys(said))

    def changed(self, other: int) -> tuple[list[Item], list[Item]]:
        """Return the items that run number `other` has newly right, and newly wrong, against the first run."""
        right, wrong = [], []
        for item in self.items:
            a, b = item.sides[0], item.sides[other]
            if a is not None and b is not None:
                before, after = self.runs[0].images[a].correct, self.runs[other].images[b].correct
                if before is False and after is True:
                    right.append(item)
                elif before is True and after is False:
                    wrong.append(item)
        return right, wrong


def collect(
    paths: Sequence[str | Path],
    images: Sequence[str | Path | None] = (),
    *,
    names: Sequence[str] | None = None,
    title: str | None = None,
    allow: Collection[str] = (),
    published: int = 5,
    models: Sequence[str] = (),
    draws: int = 10_000,
    command: str = "",
) -> Report:
    """Read results files and work out what a report says of them.

    Args:
        paths: One results file, or several to compare with the first; ours or the official script's own.
        images: Folder with the images of each file; without any, they are looked for beside the files.
        names: Names of the runs; None takes the shortest ends of the paths that tell them apart.
        title: The heading; None makes one from the names.
        allow: Differences to report instead of refusing them, as `geneval_reward.study.compare.compare_files` takes them.
        published: Number of published scores to show, >= 0.
        models: Texts, one of which must be part of a published model's name; empty for any model.
        draws: Bootstrap draws of the intervals.
        command: The command that makes the report again.

    Raises:
        ResultsError: If a file cannot be read or holds no scored image, a folder is not there, or files are not
            comparable.
        UsageError: If the numbers of files, folders and names differ, or an argument is out of range.
    """
    if not paths:
        raise UsageError("paths: expected at least one results file, got none")
    if images and len(images) != len(paths):
        raise UsageError(
            f"images: expected a folder for each of the {len(paths)} results files, got {len(images)}; "
            "they hold the same names, so one folder cannot serve two runs"
        )
    files = [Path(path) for path in paths]
    labels = short_names(files) if names is None else list(names)
    if len(labels) != len(files) or len(set(labels)) != len(labels):
        raise UsageError(f"names: expected {len(files)} different names, got {labels}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a cut last line is among the problems
        results = [read_results(file) for file in files]
    comparison = None
    if len(results) > 1:
        comparison = compare_results(results, names=labels, allow=allow, draws=draws)
    folders = [None if folder is None else Path(folder) for folder in images] or [None] * len(files)
    runs = tuple(
        _run(one, name, folder, published, tuple(models), draws)
        for one, name, folder in zip(results, labels, folders, strict=True)
    )
    heading = title or (" against ".join(reversed(labels)) if len(labels) == 2 else ", ".join(labels))
    return Report(heading, runs, comparison, _items(runs, comparison), command)


def _run(
    results: Results, name: str, folder: Path | None, published: int, models: tuple[str, ...], draws: int
) -> RunReport:
    summary = summarize(results, draws=draws)
    failed = sorted(results.failed.items())
    paths = locate([*results.filenames, *(file for file, _ in failed)], results.path, folder)
    images, verdicts, flips, differ = [], [], [], []
    for i, (row, path) in enumerate(zip(results.rows(), paths, strict=False)):
        found, size, verdict = _seen(row)
        moved = _UNKNOWN_FLIP
        if verdict is not None:
            moved = flip(row, verdict)
            verdicts.append(verdict)
            flips.append(moved)
            if verdict.correct != row.correct:
                differ.append(row.filename)
        reasons = tuple(line for line in row.reason.split("\n") if line.strip())
        kinds = tuple(dict.fromkeys(key for key, _ in causes(row.reason))) if not row.correct else ()
        images.append(
            Shown(
                filename=row.filename,
                path=path,
                prompt_id=int(results.prompt_ids[i]),
                index=int(results.index[i]),
                seed=row.seed,
                correct=row.correct,
                reasons=reasons,
                causes=kinds or (() if row.correct else ("other",)),
                boxes=found,
                size=size,
                flip=moved,
                rewritten=row.rewritten,
                best_of=row.best_of or 0,
            )
        )
    for (file, error), path in zip(failed, paths[len(images) :], strict=True):
        images.append(Shown(file, path, -1, -1, None, None, (error,), (), (), None, _UNKNOWN_FLIP, None, 0))
    groups = group_failures(results.reasons, results.correct.tolist(), results.tags.tolist())
    one_judge = len(results.identities) == 1
    return RunReport(
        name=name,
        results=results,
        summary=summary,
        images=tuple(images),
        groups=tuple(groups),
        thresholds=tuple(calibrate(verdicts, flips)) if one_judge and verdicts else (),
        published=_published_rows(summary, published, models, rewritten=bool(results.rewritten.any())),
        problems=tuple(_problems(summary, results, images, differ, folder)),
        setup=_setup(results.path, folder),
        sha256=hashlib.sha256(results.path.read_bytes()).hexdigest(),
    )


def _seen(row: ResultRow) -> tuple[tuple[Box, ...], tuple[int, int] | None, Any]:
    """Return the boxes, the judged size and the verdict of a row; an official file has only the boxes that counted."""
    if row.detections is not None:
        try:
            verdict = row.verdict()
            return tuple(boxes(verdict)), row.image_size, verdict
        except ValueError:
            pass  # The rules ask for less confident detections than the file keeps, so only `details` has the boxes.
    names = {name: order for order, name in enumerate(row.spec.class_names)}
    found = []
    for name, rows in row.counted().items():
        for row_number, box in enumerate(rows if name in names else ()):
            if len(box) < 4:
                raise ResultsError(f"{row.filename}: details: expected boxes of 4 or 5 numbers, got {len(box)}")
            corners = (box[0], box[1], box[2], box[3])
            share = box[4] if len(box) > 4 else float("nan")
            found.append(Box(row_number, names[name], name, corners, share, True, None, float("nan")))
    return tuple(found), row.image_size, None


def _published_rows(
    summary: Summary, count: int, models: tuple[str, ...], *, rewritten: bool
) -> tuple[PublishedScore, ...]:
    if summary.completeness.suite != "official":
        return ()
    scores = {tag: estimate.value for tag, estimate in summary.scores.tags.items()}
    return tuple(nearest_published(scores, rewritten=rewritten, count=count, models=models))


def _problems(
    summary: Summary, results: Results, images: Sequence[Shown], differ: Sequence[str], folder: Path | None
) -> list[str]:
    found = list(summary.problems)
    if results.official:
        found.append("written by the official script: the file does not say by what rules and weights it was judged")
    missing = [image.filename for image in images if image.path is None]
    if missing:
        where = f"below {folder}" if folder is not None else "beside the results; name their folder with --images"
        found.append(f"{len(missing)} of {len(images)} images were not found {where}: {name_some(missing, shown=3)}")
    if differ:
        found.append(
            f"{counted(len(differ), 'verdict', 'are')} not what the stored detections give, such as {differ[0]}: the file was "
            "changed, or written by another version"
        )
    return found


def _setup(results: Path, folder: Path | None) -> dict[str, Any]:
    for place in [folder] if folder is not None else [results.parent, results.parent / "images"]:
        file = place / GENERATE_SETUP
        if file.is_file():
            try:
                setup = read_json(file)
            except FileError:
                return {GENERATE_SETUP: "is not JSON"}
            return setup if isinstance(setup, dict) else {GENERATE_SETUP: setup}
    return {}


def _items(runs: Sequence[RunReport], comparison: Comparison | None) -> tuple[Item, ...]:
    """Give each image a place; in a comparison, images with the same prompt and index share one."""
    if comparison is None:
        records = runs[0].results.records
        return tuple(
            Item(records[image.prompt_id] if image.prompt_id >= 0 else "", image.index, (i,))
            for i, image in enumerate(runs[0].images)
        )
    indexed = all((run.results.index >= 0).all() for run in runs)
    places: dict[tuple[str, int, str], list[int | None]] = {}
    for number, run in enumerate(runs):
        seen: Counter[int] = Counter()
        for i, image in enumerate(run.images):
            if image.prompt_id < 0:
                key = ("", -1, image.filename)
            else:
                # If the files do not number their images, the first of a prompt is shown beside the first.
                index = image.index if indexed else seen[image.prompt_id]
                seen[image.prompt_id] += 1
                key = (run.results.records[image.prompt_id], index, "")
            places.setdefault(key, [None] * len(runs))[number] = i
    return tuple(Item(record, index, tuple(sides)) for (record, index, _), sides in places.items())
