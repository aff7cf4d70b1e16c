"""Two judges on the same images: how far they agree, per task, and where they do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from geneval_reward.errors import ResultsError, name_some
from geneval_reward.judge import Detections, Finding, Rules, Verdict
from geneval_reward.judge.credits import Credit
from geneval_reward.prompts.vocabulary import sort_tags
from geneval_reward.results import ResultRow, Results
from geneval_reward.results.notation import estimate_cells, judge_text, kappa_text, rounded, score_text
from geneval_reward.results.tables import Document, Table
from geneval_reward.stats import Estimate, clustered_bootstrap, cohen_kappa
from geneval_reward.support.counts import counted


@dataclass(frozen=True)
class Agreement:
    """Agreement on the images of one task, or of all.

    Attributes:
        agreement: Share of images on which both say the same, with its interval.
        kappa: Cohen's kappa and the ends of its interval; NaN where it is not known.
        both: Images that both find correct.
        first: Images that only the first does.
        second: Images that only the second does.
        neither: Images that neither does.
    """

    agreement: Estimate
    kappa: tuple[float, float, float]
    both: int
    first: int
    second: int
    neither: int

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        kappa = map(rounded, self.kappa)
        counts = {name: getattr(self, name) for name in ("both", "first", "second", "neither")}
        return {
            "agreement": self.agreement.to_dict(),
            **dict(zip(("kappa", "kappa_low", "kappa_high"), kappa, strict=True)),
            **counts,
        }


@dataclass(frozen=True)
class SecondOpinion:
    """What a second judge says of the images of a results file.

    Attributes:
        overall: Agreement on all images.
        tags: Agreement per task.
        rows: For each image that both judged, the row of the first and of the second file.
        differ: The entries of `rows` on which they disagree.
        judges: What judged each file.
        problems: What was left out, and what looks wrong.
    """

    overall: Agreement
    tags: dict[str, Agreement]
    rows: list[tuple[int, int]]
    differ: list[tuple[int, int]]
    judges: tuple[str, str]
    problems: list[str]

    def document(self) -> Document:
        """The table in every format."""
        found = {**self.tags, "all": self.overall}
        cells = [
            [name, score_text(one.agreement), kappa_text(*one.kappa), one.both, one.first, one.second, one.neither]
            for name, one in found.items()
        ]
        header = ["task", "agreement", "kappa", "both right", "only first", "only second", "both wrong"]
        table = Table(
            "Two judges on the same images: share on which they agree, and kappa, with 95 % intervals, clustered by prompt",
            header,
            cells,
            [f"first: {self.judges[0]}", f"second: {self.judges[1]}"],
            strong=(len(cells) - 1,),
        )
        record = {name: one.to_dict() for name, one in found.items()}
        ends = ["agreement", "agreement_low", "agreement_high", "kappa", "kappa_low", "kappa_high"]
        names = ["task", *ends, "both", "first", "second", "neither"]
        values = [
            [name, *estimate_cells(one.agreement)[:3], *list(one.to_dict().values())[1:]] for name, one in found.items()
        ]
        return Document(
            [table], Table("", names, values), {**record, "problems": self.problems}, problems=self.problems
        )


def compare_judges(first: Results, second: Results, *, draws: int = 10_000) -> SecondOpinion:
    """Compare the verdicts of two judges on the same images.

    Images belong together by file name and record. An image with another record in the two files, or another size, is not the
    same image to both and is named.

    Args:
        first: What one judge said.
        second: What another judge said of the same images.
        draws: Bootstrap draws; prompts are drawn within tasks.

    Raises:
        ResultsError: If they have no image in common, or one file holds an image twice.
    """
    for one in (first, second):
        if double := one.duplicates():
            raise ResultsError(f"{one.path}: expected every image once, got {name_some(double, separator='; ')}")
    place = {name: row for row, name in enumerate(second.filenames)}
    rows: list[tuple[int, int]] = []
    other_record: list[tuple[int, int]] = []
    for row, name in enumerate(first.filenames):
        at = place.get(name)
        if at is None:
            continue
        same = first.records[first.prompt_ids[row]] == second.records[second.prompt_ids[at]]
        (rows if same else other_record).append((row, at))
    if not rows:
        raise ResultsError(f"{second.path}: expected images of {first.path}, got none with the same name and record")
    problems = []
    lacking = len(first) - len(rows) - len(other_record)
    if lacking:
        problems.append(f"{counted(lacking, 'image')} of {first.path.name} without a second verdict, left out")
    if other_record:
        names = name_some([first.filenames[a] for a, _ in other_record], shown=3)
        problems.append(
            f"{counted(len(other_record), 'image')} have another record in the two files and are left out: {names}"
        )
    if second.failed:
        name, why = next(iter(second.failed.items()))
        problems.append(f"{counted(len(second.failed), 'image')} could not be judged again, such as {name}: {why}")
    mine, theirs = (results.correct[[pair[side] for pair in rows]] for side, results in enumerate((first, second)))
    tags = np.array([first.tags[a] for a, _ in rows])
    prompts = np.array([int(first.prompt_ids[a]) for a, _ in rows])

    def part(mask: np.ndarray[Any, Any]) -> Agreement:
        a, b, keys, kinds = mine[mask], theirs[mask], prompts[mask], tags[mask]
        return Agreement(
            clustered_bootstrap((a == b).astype(float), keys, kinds, draws=draws).micro,
            cohen_kappa(a, b, keys.tolist(), kinds.tolist(), draws=draws),
            int((a & b).sum()),
            int((a & ~b).sum()),
            int((~a & b).sum()),
            int((~a & ~b).sum()),
        )

    return SecondOpinion(
        part(np.ones(len(rows), bool)),
        {tag: part(tags == tag) for tag in sort_tags(tags.tolist())},
        rows,
        [pair for pair, a, b in zip(rows, mine.tolist(), theirs.tolist(), strict=True) if a != b],
        (judge_text(first.identities), judge_text(second.identities)),
        problems,
    )


class RecordedVerdict(Verdict):
    """A verdict as a results file records it, for rows without detections: official files, and judges that answer questions."""

    @classmethod
    def of(cls, row: ResultRow) -> Verdict:
        """The verdict of a row: judged from its detections if it has any, else as it is recorded."""
        if row.detections is not None:
            return row.verdict()
        reasons: Sequence[str] = [] if row.correct else row.reason.splitlines() or ["not correct"]
        findings = tuple(Finding("count", 0, False, 0, 1, text) for text in reasons)
        made = cls(row.spec, Detections.empty(row.image_size or (1, 1)), Rules.parse(row.rules), findings)
        made.__dict__["recorded"] = dict(row.credits)
        return made

    def credit(self, name: Credit) -> float:
        """The recorded credit; NaN where the file has none."""
        return float(self.__dict__["recorded"].get(name, float("nan")))
