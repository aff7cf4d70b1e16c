"""README and the pages of the site, cut into their snippets.

A comment directly above a snippet says how it is tested. A reader does not see it:

    <!-- setup                           Python that runs before the snippet, for names that the reader has already
    from lightning import Trainer
    -->
    <!-- not run: needs a server -->     why it cannot run in a test; it must still be valid, and its imports right
    <!-- tested: tests/x/test_y.py -->   the test that runs it
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_SNIPPET: Final = re.compile(
    r"(?P<marks>(?:^<!--(?:(?!-->).)*-->\n)*)^```(?P<kind>\w*)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Snippet:
    """A fenced block: its language, the name of the file that it shows if it has a title, and what its comments say."""

    line: int
    kind: str
    title: str | None
    code: str
    marks: tuple[str, ...]

    def mark(self, name: str) -> str | None:
        """What a comment says after `name`, or None if there is no such comment."""
        return next((text.removeprefix(name).strip(": ") for text in self.marks if text.startswith(name)), None)


def snippets(page: Path) -> list[Snippet]:
    """The snippets of a page in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _SNIPPET.finditer(text):
        marks = re.findall(r"<!--\s*(.*?)\s*-->", match["marks"], re.DOTALL)
        line = text.count("\n", 0, match.start("code")) + 1
        found.append(Snippet(line, match["kind"], match["title"], match["code"], tuple(marks)))
    return found
