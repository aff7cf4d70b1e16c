"""The command line: `geneval-reward COMMAND`.

Data goes to stdout, progress and messages to stderr. Exit codes: 0 all done; 1 done, but something was skipped, incomplete or
found wanting (it is named); 2 wrong usage or nothing done.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from typing import Any

import typer

from geneval_reward.cli import recipes, surgery, weights
from geneval_reward.cli.annotate import annotate
from geneval_reward.cli.audit import audit
from geneval_reward.cli.compare import compare
from geneval_reward.cli.demo import demo
from geneval_reward.cli.doctor import doctor
from geneval_reward.cli.generate import generate
from geneval_reward.cli.geneval2 import geneval2
from geneval_reward.cli.human_agreement import agreement_with_people
from geneval_reward.cli.mt_geneval import mt_geneval
from geneval_reward.cli.parity import parity
from geneval_reward.cli.prompts import prompts
from geneval_reward.cli.report import report
from geneval_reward.cli.score import score
from geneval_reward.cli.search import search
from geneval_reward.cli.serve import serve
from geneval_reward.cli.shared.help import Command, Group
from geneval_reward.cli.summary import summary
from geneval_reward.cli.sweep import sweep
from geneval_reward.errors import GenEvalError
from geneval_reward.version import __version__

app = typer.Typer(
    name="geneval-reward",
    help="The GenEval score of images: measure it, explain it, train with it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    cls=Group,
)

_COMMANDS: dict[str, dict[str, Callable[..., Any] | typer.Typer]] = {
    "Measure": {
        "score": score,
        "summary": summary,
        "compare": compare,
        "report": report,
        "audit": audit,
        "human-agreement": agreement_with_people,
        "geneval2": geneval2,
        "mt-geneval": mt_geneval,
        "annotate": annotate,
    },
    "Make images": {"generate": generate, "search": search, "sweep": sweep},
    "Train": {"demo": demo, "prompts": prompts, "recipes": recipes.app},
    "Change a model": {"surgery": surgery.app},
    "Serve": {"serve": serve},
    "Check": {"doctor": doctor, "weights": weights.app, "parity": parity},
}
for heading, commands in _COMMANDS.items():
    for name, command in commands.items():
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, rich_help_panel=heading)
        else:
            app.command(name, cls=Command, rich_help_panel=heading)(command)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    """The GenEval score of images: measure it, explain it, train with it."""


def main() -> None:
    """Run the command line. The package's own errors and those of the file system become one sentence and exit code 2.

    Any other exception is a bug, and keeps its traceback.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of files that are not UTF-8 cannot be printed as they are; standard error is like this already.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except (GenEvalError, OSError) as error:
        if os.environ.get("GENEVAL_REWARD_DEBUG"):
            raise
        print(f"geneval-reward: {error}", file=sys.stderr)
        sys.exit(2)
