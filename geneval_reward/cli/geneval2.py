"""`geneval-reward geneval2`: Soft-TIFA by GenEval 2's own file, with skills and atomicity."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geneval_reward.cli.shared.options import Checkpoint, Device, Precision
from geneval_reward.cli.shared.tables import Format, print_document, print_notes
from geneval_reward.errors import FileError, UsageError
from geneval_reward.support.files import read_json


def geneval2(
    data: Annotated[
        Path, typer.Argument(help="geneval2_data.jsonl of facebookresearch/GenEval2 (CC BY-NC, not bundled).")
    ],
    images: Annotated[
        Path, typer.Argument(help="JSON: the path of an image for each prompt, as GenEval 2's script takes it.")
    ],
    checkpoint: Checkpoint = None,
    device: Device = "auto",
    precision: Precision = "auto",
    released: Annotated[
        bool,
        typer.Option(
            "--released", help="Sum token forms as the published script does, the blank before a digit included."
        ),
    ] = False,
    format: Annotated[Format, typer.Option("--format", "-f", help="How to print the scores.")] = Format.table,
) -> None:
    """Score images by GenEval 2's questions.

    It prints Soft-TIFA with both means, by skill and by number of atoms.

    Examples:
        geneval-reward geneval2 data.jsonl images.json --checkpoint owner/name

    Exit code 1: printed, but some prompts have no image, or an image that could not be judged; they are named and left out.
    """
    from geneval_reward.judges import open_model
    from geneval_reward.judges.geneval2 import read_geneval2, score_geneval2
    from geneval_reward.results.notation import rounded, share_text
    from geneval_reward.results.tables import Document, Table

    if checkpoint is None:
        raise UsageError(
            "--checkpoint: expected an image-text model (a folder, a hub name or a server's address), got none"
        )
    local = not checkpoint.startswith(("http://", "https://"))
    if released and not local:
        raise UsageError("--released: expected a model in this process, got a server, which does not show its tokens")
    options = (
        {"device": device, "precision": precision, "forms": "released" if released else "corrected"} if local else {}
    )
    where = read_json(images)
    if not isinstance(where, dict) or not all(isinstance(path, str) for path in where.values()):
        raise FileError(f"{images}: expected a JSON object of a path for each prompt, got something else")
    prompts = read_geneval2(data)
    found = score_geneval2(
        open_model(checkpoint, **options), prompts, {text: images.parent / path for text, path in where.items()}
    )
    scores = {
        "Soft-TIFA, geometric": found.geometric,
        "Soft-TIFA, arithmetic": found.arithmetic,
        "answers right": found.hard,
    }
    scores |= {f"skill {name}": value for name, value in found.skills.items()}
    scores |= {f"{count} atoms": value for count, value in found.atomicity.items()}
    # GenEval 2's own script prints them in per cent.
    scores = {name: value / 100 for name, value in scores.items()}
    problems = [f"{text!r}: {why}" for text, why in found.failed.items()]
    table = Table(
        f"GenEval 2, {found.prompts} of {len(prompts)} prompts",
        ["", "score"],
        [[name, share_text(value)] for name, value in scores.items()],
    )
    values = Table("", ["figure", "value"], [[name, rounded(value)] for name, value in scores.items()])
    print_document(
        Document(
            [table],
            values,
            {
                **{name: rounded(value) for name, value in scores.items()},
                "prompts": found.prompts,
                "problems": problems,
            },
        ),
        format,
    )
    print_notes(problems[:20] + ([f"and {len(problems) - 20} more"] if len(problems) > 20 else []))
    if problems:
        raise typer.Exit(1)
