"""`Results`: a results file in memory, as columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from geneval_reward.errors import DependencyError, ResultsError
from geneval_reward.judge.credits import own_credit, value_of
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.prompts.vocabulary import TAGS
from geneval_reward.results.generator_notes import GeneratorNotes
from geneval_reward.results.notation import score_text
from geneval_reward.results.row import ResultRow, RunIdentity
from geneval_reward.results.tables import Document, Table, html
from geneval_reward.stats import clustered_bootstrap
from geneval_reward.stats.sums import counts_in_overall
from geneval_reward.support.counts import counted
from geneval_reward.support.imports import is_import_path

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class CutLine:
    """An unfinished last line, which a writer that was stopped leaves behind.

    Attributes:
        number: Line number, from 1.
        offset: The byte at which the line begins.
        text: The beginning of the line.
    """

    number: int
    offset: int
    text: str


@dataclass(frozen=True, eq=False, repr=False)
class Results:
    """A results file as columns; row i of every column is one image.

    Attributes:
        path: The file.
        filenames: `(n,)` names of the images.
        tags: `(n,)` task names.
        prompt_ids: `(n,)` int64, indices into `records`.
        records: The records of the prompts as JSON, without further keys, in order of appearance.
        correct: `(n,)` bool, the official verdicts.
        reasons: `(n,)` failures in the official wording.
        index: `(n,)` int64, numbers of the images within their prompts; -1 if the file does not say.
        seeds: `(n,)` seeds, or None.
        credits: `(n,)` float64 by name of the credit; only `official` in an official file.
        identities: What judged, each once. If there is more than one, the file is mixed.
        identity_ids: `(n,)` int64, indices into `identities`.
        rewritten: `(n,)` bool, whether the generator got another text than the record's.
        best_of: `(n,)` int64, the number of candidates from which this metric chose the image; 0 if it did not.
        selected_by: `(n,)` names of the rewards by which a search selected the images, or None.
        generators: What must be known of the generators, each once; empty if there is nothing to say.
        failed: Images that could not be scored, with the reason. They have no row.
        cut: The unfinished last line, if there is one. It has no row.
        official: Whether some lines have only the official script's keys.
        line_numbers: `(n,)` int64, from 1.
        offsets: `(n,)` int64, the byte at which each line begins.
    """

    path: Path
    filenames: list[str]
    tags: npt.NDArray[np.str_]
    prompt_ids: npt.NDArray[np.int64]
    records: list[str]
    correct: npt.NDArray[np.bool_]
    reasons: list[str]
    index: npt.NDArray[np.int64]
    seeds: list[int | None]
    credits: dict[str, npt.NDArray[np.float64]]
    identities: list[RunIdentity]
    identity_ids: npt.NDArray[np.int64]
    rewritten: npt.NDArray[np.bool_]
    best_of: npt.NDArray[np.int64]
    selected_by: list[str | None]
    generators: list[GeneratorNotes]
    failed: dict[str, str]
    cut: CutLine | None
    official: bool
    line_numbers: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.filenames)

    def __repr__(self) -> str:
        judges = ", ".join(dict.fromkeys(one.backend or "unknown backend" for one in self.identities))
        return (
            f"Results({self.path.name!r}: {counted(len(self), 'image')} of {counted(len(self.records), 'prompt')}, "
            f"{int(self.correct.sum())} correct, {len(self.failed)} failed; judged by {judges or 'nobody'})"
        )

    def _repr_html_(self) -> str:
        return html(self._document())

    def _document(self) -> Document:
        rows: list[list[object]] = []
        if len(self):
            scores = clustered_bootstrap(self.correct, self.prompt_ids, self.tags, draws=2000)
            there = sum(counts_in_overall(list(scores.tags)))
            overall = (
                "overall"
                if len(TAGS) in (there, sum(tag in TAGS for tag in scores.tags))
                else f"overall of {there} tasks"
            )
            for name, one in {**scores.tags, overall: scores.overall}.items():
                rows.append([name, score_text(one), one.images, one.prompts])
        table = Table("", ["task", "score", "images", "prompts"], rows, [repr(self)], strong=(len(rows) - 1,))
        return Document([table], table)

    def to_pandas(self) -> pd.DataFrame:
        """Make a data frame with one row per image.

        Returns:
            The columns `filename`, `task`, `prompt`, `index` (number within the prompt, -1 if unknown), `seed`, `correct`,
            `reason`, `backend`, and one per graded credit.

        Raises:
            DependencyError: If pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise DependencyError(f"to_pandas: expected the package pandas, got {error}; pip install pandas") from error
        texts = [spec.prompt for spec in self.specs()]
        return pd.DataFrame(
            {
                "filename": self.filenames,
                "task": self.tags,
                "prompt": [texts[number] for number in self.prompt_ids],
                "index": self.index,
                "seed": pd.array(self.seeds, dtype="Int64"),
                "correct": self.correct,
                "reason": self.reasons,
                "backend": [self.identities[number].backend for number in self.identity_ids],
                **{name: values for name, values in self.credits.items() if name != "official"},
            }
        )

    def selecting_rewards(self) -> tuple[str, ...]:
        """Names of the rewards by which a search selected images, each once."""
        return tuple(dict.fromkeys(name for name in self.selected_by if name is not None))

    @property
    def identity(self) -> RunIdentity:
        """What judged all images.

        Raises:
            ResultsError: If the file is mixed; the message names two lines and what differs.
        """
        if len(self.identities) > 1:
            first = [int(self.line_numbers[np.argmax(self.identity_ids == i)]) for i in (0, 1)]
            parts = "; ".join(self.identities[0].differences(self.identities[1]))
            raise ResultsError(
                f"{self.path}: expected one judge for all lines, got line {first[0]} and line {first[1]} that differ: "
                f"{parts}; score them again by one"
            )
        return self.identities[0] if self.identities else RunIdentity()

    def credit(self, name: str) -> npt.NDArray[np.float64]:
        """Look up a credit of all images, `(n,)` float64.

        Args:
            name: A credit of the file, or the import path of one of your own, which is computed from the stored detections.

        Raises:
            ResultsError: If the file does not hold it for every image.
            UsageError: If an import path names no credit.
        """
        values = self.credits.get(name)
        if values is None and is_import_path(name):
            function = own_credit(name)
            return np.array([value_of(function, row.verdict()) for row in self.rows()], np.float64)
        if values is None or np.isnan(values).any():
            raise ResultsError(
                f"{self.path}: expected the credit {name!r} in every line, got {', '.join(self.credits)}; "
                "the official script's own files hold the official verdict only"
            )
        return values

    def specs(self) -> list[PromptSpec]:
        """Parse all `records`."""
        return [PromptSpec.parse(record) for record in self.records]

    def prompt(self, prompt_id: int) -> str:
        """The text of a prompt, for messages."""
        return PromptSpec.parse(self.records[prompt_id]).prompt

    def rows(self, which: Iterable[int] | None = None) -> Iterator[ResultRow]:
        """Read the rows in full, one after another, from the file: all, or those that `which` numbers."""
        with self.path.open("rb") as file:
            for i in range(len(self)) if which is None else which:
                file.seek(int(self.offsets[i]))
                yield ResultRow.from_json(file.readline().decode(), f"{self.path} line {self.line_numbers[i]}")

    def duplicates(self) -> list[str]:
        """Describe each image name, and each number of a prompt, that occurs more than once, in a sentence."""
        found = []
        if len(set(self.filenames)) < len(self):
            counts = Counter(self.filenames)
            found = [f"{name}: {count} lines" for name, count in counts.items() if count > 1]
        known = np.flatnonzero(self.index >= 0)
        keys = self.prompt_ids[known] + len(self.records) * self.index[known]
        _, inverse, times = np.unique(keys, return_inverse=True, return_counts=True)
        pairs: dict[tuple[int, int], list[str]] = {}
        for row in known[times[inverse] > 1].tolist():
            pairs.setdefault((int(self.prompt_ids[row]), int(self.index[row])), []).append(self.filenames[row])
        for (prompt_id, index), names in pairs.items():
            if len(set(names)) > 1:
                found.append(f"image {index} of {self.prompt(prompt_id)!r}: {', '.join(names[:3])}")
        return found
