"""How well the `lite` colour verifier names colours. Prints the tables of docs/lite_colors.md.

    python benchmarks/lite_colors.py                    # the tables: a minute on one core
    python benchmarks/lite_colors.py --failures DIR     # and the crops that it gets wrong, with the pixels it looked at
    python benchmarks/lite_colors.py --tune 200         # try 200 random settings on the other half

All four photographs of the package are used, and more where scikit-image and scikit-learn are installed.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import color_objects
import numpy as np
import torch
from color_objects import Case
from PIL import Image, ImageDraw

from geneval_reward.pocket import artwork
from geneval_reward.prompts import COLORS
from geneval_reward.vision.colors.foreground import ForegroundOptions, cut_patch, foreground_weights
from geneval_reward.vision.colors.lite import CountingOptions, LiteVerifier, count_names
from geneval_reward.vision.colors.naming import NAMES, ColorNaming, named_colors

PURE = {
    "red": (255, 0, 0),
    "orange": (255, 128, 0),
    "yellow": (255, 255, 0),
    "green": (0, 128, 0),
    "blue": (0, 0, 255),
    "purple": (128, 0, 128),
    "pink": (255, 192, 203),
    "brown": (139, 69, 19),
    "black": (0, 0, 0),
    "white": (255, 255, 255),
}


def answer(rows: np.ndarray) -> list[str]:
    """The name of each row; `grey` where the rest is larger than every colour."""
    full = np.column_stack([rows, 1 - rows.sum(1)])
    return [NAMES[index] for index in full.argmax(1)]


def table(title: str, head: list[str], rows: list[list[object]]) -> None:
    print(f"\n**{title}**\n")
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row) + " |")


def by(cases: list[Case], right: np.ndarray, key: str) -> list[list[object]]:
    values = [getattr(case, key) for case in cases]
    order = [name for name in NAMES if name in values] if key == "label" else sorted(set(values))
    picked = [np.array([value == name for value in values]) for name in order]
    return [[name, int(pick.sum()), float(right[pick].mean())] for name, pick in zip(order, picked, strict=True)]


def names_tables(naming: ColorNaming) -> None:
    label, named = naming.leave_one_out()
    known = named_colors()
    source = np.array([name for name in known.source if name != "nbs-test"])
    right = label == named
    groups = {
        "survey names that end in one of the eleven words": source == "xkcd",
        "survey names that end in a synonym": source == "xkcd-synonym",
        "all survey names": source != "nbs",
        "ISCC-NBS blacks, whites, greys": source == "nbs",
        "all": source != "",
    }
    table(
        "Names, leave-one-out",
        ["names", "count", "right"],
        [[title, int(pick.sum()), float(right[pick].mean())] for title, pick in groups.items()],
    )
    table(
        "The same, by colour",
        ["colour", "count", "right", "most often taken for"],
        [
            [
                name,
                int((label == index).sum()),
                float(right[label == index].mean()),
                ", ".join(
                    f"{NAMES[other]} {times}"
                    for other, times in Counter(named[(label == index) & ~right]).most_common(2)
                ),
            ]
            for index, name in enumerate(NAMES)
        ],
    )
    held = np.array([name == "nbs-test" for name in known.source])
    other = naming.posterior(known.rgb[held]).argmax(1) == known.label[held]
    pure = [NAMES[index] for index in naming.posterior(list(PURE.values())).argmax(1)]
    palette = [NAMES[index] for index in naming.posterior(list(artwork.PALETTE.values())).argmax(1)]
    table(
        "Colours that were not used for the model",
        ["colours", "count", "right"],
        [
            ["pure tints", len(PURE), float(np.mean([a == b for a, b in zip(pure, PURE, strict=True)]))],
            [
                "palette of the artwork",
                len(palette),
                float(np.mean([a == b for a, b in zip(palette, artwork.PALETTE, strict=True)])),
            ],
            ["ISCC-NBS names of the ten colours", int(held.sum()), float(other.mean())],
        ],
    )


def confusion(cases: list[Case], found: list[str]) -> None:
    labels = [name for name in NAMES if any(case.label == name for case in cases)]
    count = Counter((case.label, name) for case, name in zip(cases, found, strict=True))
    rows: list[list[object]] = [[name, *(count[name, other] or "" for other in NAMES)] for name in labels]
    table("Confusions (rows: label; columns: answer)", ["", *NAMES], rows)


def middle_only(cases: list[Case], naming: ColorNaming) -> np.ndarray:
    """What the plain way gives: every pixel of the box, the middle before the edge, no estimate of the object."""
    rows = []
    for case in cases:
        patch = cut_patch(case.query.image, case.query.xyxy, margin=0.0)
        if patch is None:
            rows.append(np.zeros(len(COLORS), np.float32))
            continue
        weight = np.exp(-2 * (patch.y[:, None] ** 2 + patch.x[None] ** 2)).astype(np.float32)
        rows.append(count_names(patch.rgb, weight, naming)[: len(COLORS)])
    return np.stack(rows)


def save_failures(folder: Path, name: str, cases: list[Case], rows: np.ndarray, options: ForegroundOptions) -> None:
    """A sheet of the wrong ones: the patch, the weights, what it is and what it is called."""
    found = answer(rows)
    wrong = [index for index, case in enumerate(cases) if found[index] not in case.label.split()][:72]
    sheet = Image.new("RGB", (8 * 150, 100 * max(1, -(-len(wrong) // 8))), (60, 60, 60))
    draw = ImageDraw.Draw(sheet)
    for place, index in enumerate(wrong):
        x, y = place % 8 * 150, place // 8 * 100
        case = cases[index]
        patch = cut_patch(case.query.image, case.query.xyxy)
        if patch is not None:
            weight = foreground_weights(patch, options)
            sheet.paste(Image.fromarray(patch.rgb.astype(np.uint8)).resize((72, 72)), (x, y))
            sheet.paste(Image.fromarray((weight * 255).astype(np.uint8)).resize((72, 72)), (x + 74, y))
        best = rows[index].argsort()[::-1][:2]
        text = " ".join(f"{COLORS[i]} {rows[index][i]:.2f}" for i in best)
        draw.text((x, y + 72), f"{case.label}:\n{text}", fill=(255, 255, 255))
    folder.mkdir(parents=True, exist_ok=True)
    sheet.save(folder / f"{name}.png")


def tune(rounds: int, seed: int) -> None:
    """Random search around the defaults on the tuning half; a setting is as good as its mean over the sets."""
    sets = [
        color_objects.drawings(600, 0, seed),
        color_objects.repainted(0, seed),
        color_objects.drawings(60, 0, seed + 1, ("grey",)),
    ]
    grid = {
        "likely": (0.2, 0.3, 0.4, 0.5, 0.6),
        "radius": (0.8, 0.95, 1.1),
        "softness": (0.1, 0.2, 0.25, 0.35),
        "unseen": (0.0005, 0.001, 0.003),
        "rounds": (2, 3, 4, 5),
        "blur": (0.3, 0.5, 0.8),
        "side": (32, 48),
        "sharpness": (1.0, 1.5, 2.0, 3.0),
        "achromatic": (0.3, 0.4, 0.5, 0.6, 0.8),
        "shade": (0.0, 0.5, 1.0, 1.5),
        "pallor": (0.0, 0.5, 1.0, 2.0),
        "sheen": (0.4, 0.6, 0.8, 1.0),
    }
    rng = np.random.default_rng(seed)
    naming = ColorNaming()
    best: tuple[float, ForegroundOptions, CountingOptions] = (0.0, ForegroundOptions(), CountingOptions())
    for turn in range(rounds):
        foreground, counting = best[1], best[2]
        if turn:
            for key in rng.choice(list(grid), rng.integers(1, 4), replace=False):
                value = grid[key][rng.integers(len(grid[key]))]
                if key in {field.name for field in fields(ForegroundOptions)}:
                    foreground = replace(foreground, **{key: value})
                else:
                    counting = replace(counting, **{key: value})
        verifier = LiteVerifier(naming, foreground, counting)
        right, sure = [], []
        for cases in sets:
            rows = verifier.colors([case.query for case in cases])
            full = np.column_stack([rows, 1 - rows.sum(1)])
            label = np.array([NAMES.index(case.label) for case in cases])
            right.append((full.argmax(1) == label).mean())
            sure.append(full[np.arange(len(label)), label].mean())
        # Being right counts; how sure it is decides between settings that are equally right.
        score = float(np.dot([0.45, 0.45, 0.1], right) + 0.1 * np.mean(sure))
        if score > best[0]:
            best = (score, foreground, counting)
            print(
                f"{turn:4} {score:.4f} right {np.round(right, 3)} sure {np.round(sure, 3)}\n     {foreground}\n     {counting}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000, help="painted drawings to name (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--failures", type=Path, metavar="DIR", help="write sheets of the failures there")
    parser.add_argument("--tune", type=int, metavar="ROUNDS", help="random search on the tuning half, no tables")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.tune:
        tune(arguments.tune, arguments.seed)
        return

    verifier = LiteVerifier()
    names_tables(verifier.naming)
    seed = arguments.seed + 100
    sets = {
        "painted drawings": color_objects.drawings(arguments.count, 1, seed),
        "drawings in their own colours": color_objects.natural(350, seed),
        "repainted photographs": color_objects.repainted(1, seed),
        "grey drawings (none of the ten)": color_objects.drawings(200, 1, seed, ("grey",)),
        "photographs, labelled by eye": color_objects.labelled(),
    }
    summary: list[list[object]] = []
    kept = {}
    for title, cases in sets.items():
        start = time.process_time()
        rows = verifier.colors([case.query for case in cases])
        seconds = time.process_time() - start
        right = np.array([name in case.label.split() for name, case in zip(answer(rows), cases, strict=True)])
        plain = answer(middle_only(cases, verifier.naming))
        middle = float(np.mean([name in case.label.split() for name, case in zip(plain, cases, strict=True)]))
        summary.append([title, len(cases), float(right.mean()), middle, f"{len(cases) / seconds:.0f}"])
        kept[title] = (cases, rows, right)
        if arguments.failures:
            save_failures(arguments.failures, title.split(",")[0].replace(" ", "_"), cases, rows, verifier.foreground)
    table(
        "Objects", ["set", "count", "right", "right, middle of the box only", "objects per second on one core"], summary
    )

    cases, rows, right = kept["painted drawings"]
    table("Painted drawings by colour", ["colour", "count", "right"], by(cases, right, "label"))
    table("By background", ["background", "count", "right"], by(cases, right, "ground"))
    table("By how it was painted", ["paint", "count", "right"], by(cases, right, "kind"))
    missed = Counter(case.query.class_name for case, ok in zip(cases, right, strict=True) if not ok)
    total = Counter(case.query.class_name for case in cases)
    table(
        "Worst drawings",
        ["class", "count", "right"],
        [[n, total[n], 1 - k / total[n]] for n, k in missed.most_common(6)],
    )
    confusion(cases, answer(rows))
    cases, rows, right = kept["repainted photographs"]
    table("Repainted photographs by colour", ["colour", "count", "right"], by(cases, right, "label"))
    table("By region", ["region", "count", "right"], by(cases, right, "kind"))
    cases, rows, right = kept["photographs, labelled by eye"]
    table(
        "Photographs, labelled by eye",
        ["photograph", "object", "label", "answer", "probability", ""],
        [
            [
                case.ground,
                case.kind,
                case.label.replace(" ", " or "),
                name,
                float(row.max()),
                "right" if ok else "**wrong**",
            ]
            for case, name, row, ok in zip(cases, answer(rows), rows, right, strict=True)
        ],
    )


if __name__ == "__main__":
    main()
