"""HTML pages in one file: without a script, without a request, with the pictures inside."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from geneval_reward.judge.verdict import Verdict
from geneval_reward.results.drawing import draw_verdict
from geneval_reward.study.report.templates import data_address, environment
from geneval_reward.version import __version__


@dataclass(frozen=True)
class Card:
    """One judged image on a page.

    Attributes:
        image: The image.
        verdict: The verdict on the image.
        note: A line of text under the image, such as what is known to be true of it.
        flagged: Whether to mark the card as misjudged, because the verdict is not true of the image.
    """

    image: Image.Image
    verdict: Verdict
    note: str = ""
    flagged: bool = False


@dataclass(frozen=True)
class Section:
    """A heading with cards.

    Attributes:
        title: The heading.
        text: A sentence under the heading.
        cards: Judged images.
        paired: Whether cards belong side by side, two by two.
    """

    title: str
    text: str
    cards: Sequence[Card]
    paired: bool = False


@dataclass(frozen=True)
class Part:
    """A table, a figure or a line for the shell under a heading; one of the three is given.

    Attributes:
        title: The heading.
        text: A sentence under the heading, which also says what a figure shows.
        table: Column names, and rows of cells; the first cell of each row names it.
        picture: A figure.
        line: A command.
    """

    title: str
    text: str
    table: tuple[Sequence[str], Sequence[Sequence[str]]] | None = None
    picture: Image.Image | None = None
    line: str = ""


def judged_page(
    title: str,
    lead: str,
    facts: Sequence[tuple[str, str]],
    sections: Sequence[Section],
    parts: Sequence[Part] = (),
) -> str:
    """Render a page of judged images.

    Args:
        title: Title of the page.
        lead: A paragraph under the title.
        facts: Figures at the top, as name and value.
        sections: Groups of cards.
        parts: Tables, figures and commands between the facts and the cards.

    Returns:
        HTML that needs no other file.
    """
    groups = []
    for group in sections:
        cards, size = [_card(card) for card in group.cards], 2 if group.paired else 1
        rows = [cards[start : start + size] for start in range(0, len(cards), size)]
        groups.append({"title": group.title, "text": group.text, "paired": group.paired, "rows": rows})
    pictures = [None if part.picture is None else embed(part.picture, 92) for part in parts]
    return (
        environment()
        .get_template("page.html.jinja")
        .render(
            title=title,
            lead=lead,
            facts=facts,
            groups=groups,
            version=__version__,
            parts=list(zip(parts, pictures, strict=True)),
        )
    )


def embed(image: Image.Image, quality: int = 85) -> str:
    """Encode an image as a JPEG data address."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=quality)
    return data_address(buffer.getvalue(), "image/jpeg")


def _card(card: Card) -> dict[str, Any]:
    verdict = card.verdict
    return {
        "picture": embed(draw_verdict(card.image, verdict)),
        "prompt": verdict.spec.prompt,
        "tag": verdict.spec.tag,
        "correct": verdict.correct,
        "reasons": verdict.reason.split("\n") if verdict.reason else [],
        # A recorded verdict has only the credits of its file.
        "credits": [
            (name, f"{value:.2f}")
            for name in ("strict", "partial", "dense")
            if math.isfinite(value := verdict.credit(name))
        ],
        "note": card.note,
        "flagged": card.flagged,
    }
