"""`geneval-reward recipes`: files to be read, copied and changed, which train a model or run one in a Python of its own."""

from __future__ import annotations

import importlib.util
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from geneval_reward.cli.shared.help import Command, Group
from geneval_reward.errors import UsageError

app = typer.Typer(
    no_args_is_help=True,
    help="List and copy training recipes; export what they trained.",
    cls=Group,
)


class Weights(StrEnum):
    """Which weights of a checkpoint are exported."""

    average = "average"
    trained = "trained"


@app.command("list", cls=Command)
def list_command() -> None:
    """Print every recipe with the lines that start it.

    Below them stand the models that run in a Python of their own.

    Examples:
        geneval-reward recipes list
    """
    from geneval_reward.generate.packaged import list_generators

    missing = _missing_extras()
    if missing:
        typer.echo(f"Training recipes are not listed: {missing}\n", err=True)
    else:
        from geneval_reward.train.recipes import list_recipes

        for recipe in list_recipes().values():
            typer.echo(f"{recipe.name}: {recipe.title}")
            for line in recipe.launch_lines:
                typer.echo(f"    {line}")
        typer.echo()
    typer.echo("Models in a Python of their own, for `generate NAME --generator-python PYTHON`:")
    for model in list_generators().values():
        typer.echo(f"{model.name}: {model.title}")
    typer.echo("\nTo read or change one: geneval-reward recipes copy NAME", err=True)


@app.command(cls=Command)
def copy(
    name: Annotated[str, typer.Argument(help="Name of the recipe or model, as `list` prints it.")],
    folder: Annotated[Path, typer.Argument(help="Where to write recipes/ and configs/.")] = Path("."),
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there and differ.")] = False,
) -> None:
    """Copy a recipe and its configurations, or the file of a model.

    The lines that it prints start them as they are.

    Examples:
        geneval-reward recipes copy diffusion_nft mine
    """
    from geneval_reward.generate.packaged import list_generators
    from geneval_reward.support.shipped import copy_shipped

    model = list_generators().get(name)
    if model is not None:
        (path,) = copy_shipped([model.path], folder, force=force)
        typer.echo(f"{path}", err=True)
        typer.echo(f"geneval-reward generate {path}:{model.kind} --generator-python PYTHON --out samples")
        return
    _require_training()
    from geneval_reward.train.recipes import copy_recipe, find_recipe

    for path in copy_recipe(name, folder, force=force):
        typer.echo(f"{path}", err=True)
    prefix = "" if folder.resolve() == Path.cwd() else f"cd {folder} && "
    for line in find_recipe(name).launch_lines:
        typer.echo(f"{prefix}{line}")


@app.command(cls=Command)
def export(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint of a recipe, such as last.ckpt.")],
    folder: Annotated[Path, typer.Argument(help="Where to write the LoRA.")],
    weights: Annotated[
        Weights, typer.Option("--weights", help="The average, which is what is evaluated, or the last step.")
    ] = Weights.average,
) -> None:
    """Write the adapters of a checkpoint as a LoRA folder of PEFT.

    `generate --lora` reads it, and so does whatever reads PEFT.

    Examples:
        geneval-reward recipes export last.ckpt lora
    """
    _require_training()
    from geneval_reward.train.lora import export_lora

    typer.echo(export_lora(checkpoint, folder, weights=weights.value))


def _require_training() -> None:
    missing = _missing_extras()
    if missing:
        raise UsageError(f"recipes: {missing}")


def _missing_extras() -> str:
    missing = [name for name in ("lightning", "diffusers", "peft") if importlib.util.find_spec(name) is None]
    if not missing:
        return ""
    return (
        f"expected {', '.join(missing)} to be installed, which training needs; "
        "pip install 'geneval-reward[lightning,diffusers]'"
    )
