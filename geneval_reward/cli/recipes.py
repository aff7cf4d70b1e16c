"""`geneval-reward recipes`: the files that raise a score by reinforcement learning, to be read, copied and changed."""

from __future__ import annotations

import importlib.util
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from geneval_reward.errors import UsageError

app = typer.Typer(no_args_is_help=True, help="List and copy the training recipes; export what they trained.")


class Weights(StrEnum):
    """Which weights of a checkpoint are exported."""

    average = "average"
    trained = "trained"


@app.command("list")
def list_command() -> None:
    """Print every recipe with the lines that start it."""
    _require_training()
    from geneval_reward.train.recipes import list_recipes

    for recipe in list_recipes().values():
        typer.echo(f"{recipe.name}: {recipe.title}")
        for line in recipe.launch_lines:
            typer.echo(f"    {line}")
    typer.echo("\nTo read or change one: geneval-reward recipes copy NAME", err=True)


@app.command()
def copy(
    name: Annotated[str, typer.Argument(help="Name of the recipe, as `list` prints it.")],
    folder: Annotated[Path, typer.Argument(help="Where to write recipes/ and configs/.")] = Path("."),
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there and differ.")] = False,
) -> None:
    """Copy a recipe and its configurations; the lines that it prints start them as they are."""
    _require_training()
    from geneval_reward.train.recipes import copy_recipe, find_recipe

    for path in copy_recipe(name, folder, force=force):
        typer.echo(f"{path}", err=True)
    prefix = "" if folder.resolve() == Path.cwd() else f"cd {folder} && "
    for line in find_recipe(name).launch_lines:
        typer.echo(f"{prefix}{line}")


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint of a recipe, such as last.ckpt.")],
    folder: Annotated[Path, typer.Argument(help="Where to write the LoRA.")],
    weights: Annotated[
        Weights, typer.Option("--weights", help="The average, which is what is evaluated, or the last step.")
    ] = Weights.average,
) -> None:
    """Write the adapters of a checkpoint as a LoRA folder of PEFT, for `generate --lora` and whatever reads PEFT."""
    _require_training()
    from geneval_reward.train.lora import export_lora

    typer.echo(export_lora(checkpoint, folder, weights=weights.value))


def _require_training() -> None:
    missing = [name for name in ("lightning", "diffusers", "peft") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"recipes: expected {', '.join(missing)} to be installed, which training needs; "
            "pip install 'geneval-reward[lightning,diffusers]'"
        )
