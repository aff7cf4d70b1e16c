"""The page of images on which two judges differ, and of pairs on which a pairwise judge says the opposite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from PIL import Image

from geneval_reward.results import Results
from geneval_reward.results.tables import Document
from geneval_reward.study.report.page import Card, Part, Section, judged_page
from geneval_reward.study.second import RecordedVerdict, SecondOpinion
from geneval_reward.study.second_pairs import PairOpinion
from geneval_reward.support.counts import counted
from geneval_reward.vision.images import load_rgb

MOST: Final = 48
"""The most images, or pairs, of a section."""


def opinion_page(
    opinion: SecondOpinion, first: Results, second: Results, paths: Sequence[Path | None], title: str
) -> str:
    """Write the images on which two judges differ, each with both verdicts, as one HTML page.

    Args:
        opinion: What `compare_judges` found.
        first: The first judge's file.
        second: The second judge's file.
        paths: `(n,)` images of the first file; None for one that was not found, which the page leaves out and counts.
        title: The heading.
    """
    sections = []
    for right, text in (
        (True, "Only the first judge finds these right"),
        (False, "Only the second judge finds these right"),
    ):
        pairs = [pair for pair in opinion.differ if bool(first.correct[pair[0]]) is right]
        there = [pair for pair in pairs if paths[pair[0]] is not None]
        cards = []
        for a, b in there[:MOST]:
            image = _picture(paths[a])
            mine, theirs = (
                RecordedVerdict.of(row) for results, i in ((first, a), (second, b)) for row in results.rows([i])
            )
            cards += [Card(image, mine, "first judge"), Card(image, theirs, "second judge")]
        if pairs:
            sections.append(Section(text, _shown(pairs, there, "image"), cards, paired=True))
    return _page(title, opinion.document(), sections, counted(len(opinion.differ), "image"), len(opinion.rows))


def pairs_page(opinion: PairOpinion, first: Results, paths: Sequence[Path | None], title: str) -> str:
    """Write the pairs on which the pairwise judge prefers the image that the first judge finds wrong; arguments as above."""
    cards = []
    for pair in opinion.differ[:MOST]:
        for i, row in zip((pair.a, pair.b), first.rows([pair.a, pair.b]), strict=True):
            preferred = (pair.found.preference == 1) == (i == pair.a)
            verdict = RecordedVerdict.of(row)
            cards.append(
                Card(_picture(paths[i]), verdict, "preferred by the pairwise judge" if preferred else "the other image")
            )
    text = _shown(opinion.differ, opinion.differ, "pair")
    sections = [
        Section("The pairwise judge prefers the image that the first judge finds wrong", text, cards, paired=True)
    ]
    return _page(
        title, opinion.document(), sections if cards else [], counted(len(opinion.differ), "pair"), len(opinion.pairs)
    )


def _page(title: str, document: Document, sections: Sequence[Section], differ: str, compared: int) -> str:
    table = document.tables[0]
    rows = [[str(cell) for cell in row] for row in table.rows]
    return judged_page(
        title,
        "Neither judge is the truth. Where they differ, look at the image: the benchmark's detector and a second judge are wrong "
        "about different things. " + " ".join(f"{text}." for text in document.problems),
        [("compared", str(compared)), ("differ", differ)],
        sections,
        [Part("Agreement", "; ".join([table.title, *table.notes]), table=(table.header, rows))],
    )


def _shown(all_of_them: Sequence[object], there: Sequence[object], noun: str) -> str:
    text = counted(len(all_of_them), noun)
    if len(there) > MOST:
        text += f", of which the first {MOST} are shown"
    if len(there) < len(all_of_them):
        text += f"; {len(all_of_them) - len(there)} were not found"
    return text + "."


def _picture(path: Path | None) -> Image.Image:
    assert path is not None
    return load_rgb(path)
