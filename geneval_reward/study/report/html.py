"""A report as one HTML file that needs nothing else, with pictures as large as its size allows."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from geneval_reward.errors import UsageError
from geneval_reward.judge.boxes import PALETTE
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.prompts.vocabulary import COLORS
from geneval_reward.study.report.collect import Report, Shown
from geneval_reward.study.report.reasons import CAUSES
from geneval_reward.study.report.templates import data_address, embed_json, environment, script_hash, source
from geneval_reward.study.report.thumbnails import Thumbnail, thumbnails
from geneval_reward.study.report.view import view
from geneval_reward.support.files import write_whole
from geneval_reward.version import __version__

MAX_BYTES: Final = 5_000_000
"""Default size limit of a page in bytes."""

_KIND: Final = "image/webp"
_CHANGED_SHARE: Final = 3
"""How many times more bytes an image gets if its verdict differs between the runs."""

Pictures = dict[tuple[int, int], Thumbnail]
Key = tuple[int, int]


def write_html(
    report: Report,
    path: str | Path,
    *,
    max_bytes: int = MAX_BYTES,
    workers: int | None = None,
    now: float | None = None,
) -> Path:
    """Write a report as HTML.

    Args:
        report: What `geneval_reward.study.report.collect.collect` returns.
        path: The file. It is replaced at the end, so that a full disk leaves an old report whole.
        max_bytes: Largest size of the file. Thumbnails are as large as it allows; a page can exceed it even without any.
        workers: Number of decoding threads; None takes one per processor.
        now: The date on the page, in seconds since 1970; None takes `SOURCE_DATE_EPOCH` or the clock.

    Returns:
        The path.

    Raises:
        UsageError: If `max_bytes` is not positive.
        OSError: If the file cannot be written.
    """
    if max_bytes <= 0:
        raise UsageError(f"max_bytes: expected a number of bytes > 0, got {max_bytes}")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    when = float(os.environ.get("SOURCE_DATE_EPOCH", time.time())) if now is None else now
    html = render_html(report, path.parent.resolve(), max_bytes=max_bytes, workers=workers, now=when)
    # Names of files that are not UTF-8 hold lone surrogates, which no text file can.
    write_whole(path, html.encode("utf-8", "replace"))
    return path


def render_html(report: Report, folder: Path, *, max_bytes: int, workers: int | None, now: float) -> str:
    """Render a report as HTML whose links to the images are relative to `folder`."""
    paths = {image.path for run in report.runs for image in run.images if image.path is not None}
    addresses = {path: _relative(path, folder) for path in paths}
    empty = _page(report, {}, addresses, now)
    # Base64 writes three bytes as four characters.
    room = int((max_bytes - len(empty.encode("utf-8", "replace"))) * 3 / 4 * 0.97)
    return _page(report, _pictures(report, max(room, 1), workers), addresses, now)


def _relative(path: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(os.path.realpath(path), folder)).as_posix()
    except ValueError:  # on another drive
        return path.resolve().as_posix()


def _pictures(report: Report, budget: int, workers: int | None) -> Pictures:
    changed: list[Key] = []
    same: list[Key] = []
    for item in report.items:
        keys = [(run, side) for run, side in enumerate(item.sides) if side is not None]
        differs = len({report.runs[run].images[side].correct for run, side in keys}) > 1
        (changed if differs else same).extend(keys)
    weights = dict.fromkeys(changed, _CHANGED_SHARE) | dict.fromkeys(same, 1)
    # Examples are stored twice: in the gallery's data and on the page itself.
    share = sum(weights.values()) + sum(weights[key] for key in _examples(report))
    found: Pictures = {}
    for keys, weight in ((changed, _CHANGED_SHARE), (same, 1)):
        if keys:
            paths = [report.runs[run].images[side].path for run, side in keys]
            made = thumbnails(paths, max(1, budget * weight * len(keys) // share), workers)
            found |= dict(zip(keys, made, strict=True))
    return found


def _examples(report: Report) -> list[Key]:
    """List the images that the page shows without a script."""
    keys: list[Key] = []

    def card(run: int, side: int) -> dict[str, Any]:
        keys.append((run, side))
        return {}

    view(report, card)
    return keys


def _page(report: Report, pictures: Pictures, addresses: Mapping[Path, str], now: float) -> str:
    script = source("report.js")
    return (
        environment()
        .get_template("report.html.jinja")
        .render(
            report=report,
            data=embed_json(_data(report, pictures, addresses)),
            script=script,
            script_hash=script_hash(script),
            version=__version__,
            made=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now)),
            **view(report, _card(report, pictures)),
        )
    )


def _data(report: Report, pictures: Pictures, addresses: Mapping[Path, str]) -> dict[str, Any]:
    """Collect what the gallery is drawn from. Keys are short because, after the pictures, this is most of the page."""
    prompts: dict[str, int] = {}
    table: list[list[Any]] = []
    reasons: dict[str, int] = {}
    roots: dict[str, int] = {}
    colors = {name: number for number, name in enumerate([*COLORS, "no colour"])}
    items = []
    for item in report.items:
        number = prompts.setdefault(item.record, len(prompts))
        if number == len(table):
            table.append(_prompt(item.record, report.tags))
        sides = [
            None
            if side is None
            else _side(report.runs[run].images[side], pictures.get((run, side)), reasons, roots, colors, addresses)
            for run, side in enumerate(item.sides)
        ]
        items.append([number, item.index, sides])
    pairs = [] if report.comparison is None else [pair.comparison.pairing for pair in report.comparison.pairs]
    return {
        "runs": [run.name for run in report.runs],
        "pairing": pairs,
        "tags": list(report.tags),
        "causes": [cause.title for cause in CAUSES],
        "causeKeys": [cause.key for cause in CAUSES],
        "colors": list(colors),
        "palette": list(PALETTE),
        "kind": _KIND,
        "prompts": table,
        "reasons": list(reasons),
        "roots": list(roots),
        "items": items,
    }


def _prompt(record: str, tags: Sequence[str]) -> list[Any]:
    if not record:
        return ["(prompt not recorded: the image could not be scored)", -1, []]
    spec = PromptSpec.parse(record)
    return [spec.prompt, tags.index(spec.tag), list(spec.class_names)]


def _side(
    image: Shown,
    picture: Thumbnail | None,
    reasons: dict[str, int],
    roots: dict[str, int],
    colors: dict[str, int],
    addresses: Mapping[Path, str],
) -> dict[str, Any]:
    size = frame(image, picture)
    side: dict[str, Any] = {
        "v": 2 if image.correct is None else int(image.correct),
        "n": image.filename,
        "z": list(size),
        "b": [_box(box, size, colors) for box in image.boxes],
    }
    if image.reasons:
        side["r"] = [reasons.setdefault(text, len(reasons)) for text in image.reasons]
    if image.causes:
        keys = [cause.key for cause in CAUSES]
        side["c"] = [keys.index(key) for key in image.causes]
    if image.seed is not None:
        side["s"] = str(image.seed)  # JavaScript's numbers would round a large one
    if image.flip.fragile:
        side["f"] = bool(image.flip.lower) + 2 * bool(image.flip.higher)
    if image.rewritten is not None:
        side["w"] = image.rewritten
    if image.best_of:
        side["o"] = image.best_of
    if picture is not None and picture.data is not None:
        side["p"] = base64.b64encode(picture.data).decode()
    if note := picture_note(image, picture):
        side["m"] = note
    if image.path is not None:
        side["u"] = _address(image.filename, addresses[image.path], roots)
    return side


def _address(name: str, here: str, roots: dict[str, int]) -> list[Any]:
    """Return the way to an image: the number of the part it shares with others, and the rest unless that is its name."""
    root, rest = (here.removesuffix(name), name) if here.endswith(name) else ("", here)
    number = roots.setdefault(root, len(roots))
    return [number] if rest == name else [number, rest]


def _box(box: Any, size: tuple[int, int], colors: dict[str, int]) -> list[int]:
    """List class, corners in thousandths of the image, confidence in per cent (-1 if unknown), whether it counts, and colour."""
    scale = (size[0], size[1], size[0], size[1])
    corners = [round(1000 * min(1.0, max(0.0, value / side))) for value, side in zip(box.xyxy, scale, strict=True)]
    numbers = [-1 if value != value else round(100 * value) for value in (box.confidence, box.color_probability)]
    row = [box.order, *corners, numbers[0], int(box.counts)]
    return row if box.color is None else [*row, colors.setdefault(box.color, len(colors)), numbers[1]]


def frame(image: Shown, picture: Thumbnail | None) -> tuple[int, int]:
    """Return the size that boxes refer to: that of the judged image, else that of the file, else a square that holds them."""
    if image.size is not None and min(image.size) > 0:
        return image.size
    if picture is not None and picture.size is not None:
        return picture.size
    side = max([1.0, *(value for box in image.boxes for value in box.xyxy)])
    return round(side), round(side)


def picture_note(image: Shown, picture: Thumbnail | None) -> str:
    """Say what is wrong with the picture, if anything."""
    if picture is None:
        return "image not found" if image.path is None else ""
    if picture.problem:
        return picture.problem
    if image.size is not None and picture.size is not None and image.size != picture.size:
        now, then = (f"{width} x {height}" for width, height in (picture.size, image.size))
        return f"the file is {now} pixels now and was {then} when it was judged: another image?"
    return ""


def _card(report: Report, pictures: Pictures) -> Callable[[int, int], dict[str, Any]]:
    """Make the function that builds the cards of the examples, which need no script."""

    def card(run: int, side: int) -> dict[str, Any]:
        image = report.runs[run].images[side]
        picture = pictures.get((run, side))
        width, height = frame(image, picture)
        record = report.runs[run].results.records[image.prompt_id] if image.prompt_id >= 0 else ""
        return {
            "run": report.runs[run].name,
            "picture": data_address(picture.data, _KIND) if picture and picture.data else "",
            "note": picture_note(image, picture),
            "width": width,
            "height": height,
            "boxes": [(box, PALETTE[box.order % len(PALETTE)]) for box in image.boxes],
            "prompt": _prompt(record, report.tags)[0],
            "correct": image.correct,
            "reasons": image.reasons,
        }

    return card
