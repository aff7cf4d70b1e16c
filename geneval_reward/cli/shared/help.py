"""Help texts: whole summaries in groups, the kinds of values in plain words, an example and the exit codes of every command.

A command's docstring is its help. Its first sentence is the summary. A section `Examples:` is printed as it stands, and a
paragraph `Exit code 1: ...` says when a command that did its work ends with 1.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import Any

from typer.core import TyperArgument, TyperCommand, TyperGroup

_ENDS = {"0": "done", "2": "wrong usage, or nothing could be done"}
_DONE_IN_PART = "done, but something was skipped, incomplete or found wanting; it is named"


class Command(TyperCommand):
    """A command whose help says everything."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for param in self.params:
            if param.metavar is None:
                param.metavar = _kind_of_value(param)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return `[OPTIONS] IMAGES [METADATA]`."""
        return ["[OPTIONS]", *(_usage(param) for param in self.get_params(ctx) if isinstance(param, TyperArgument))]

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write the description without its examples and its exit code."""
        text = re.sub(r"Exit code 1: .*", "", _without_examples(self.help), flags=re.DOTALL)
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(text.strip())

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments by their names alone, then the options."""
        arguments = [param for param in self.get_params(ctx) if isinstance(param, TyperArgument)]
        rows = [(_usage(param).strip("[]"), _help(param, ctx)) for param in arguments]
        if rows:
            with formatter.section("Arguments"):
                formatter.write_dl(rows)
        options = [param for param in self.get_params(ctx) if param not in arguments]
        with formatter.section("Options"):
            formatter.write_dl([((param.get_help_record(ctx) or ("",))[0], _help(param, ctx)) for param in options])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples and the exit codes."""
        lines = examples(self.help)
        if lines:
            with formatter.section("Examples"):
                room = formatter.width - formatter.current_indent - 4
                for line in lines:
                    # A shell reads a line that ends with a backslash together with the next one.
                    pieces = textwrap.wrap(line, room, break_long_words=False, break_on_hyphens=False)
                    indent = " " * formatter.current_indent
                    formatter.write(indent + f" \\\n{indent}    ".join(pieces) + "\n")
        found = re.search(r"Exit code 1: (.*)", _without_examples(self.help), flags=re.DOTALL)
        _write_ends(formatter, " ".join(found[1].split()).rstrip(".") if found else None)


class Group(TyperGroup):
    """A group of commands that prints whole summaries, under the headings that the commands were registered with."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each heading, in the order of registration."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            if not command.hidden:
                panels.setdefault(command.rich_help_panel or "Commands", []).append((name, summary(command.help)))
        widest = max(len(name) for rows in panels.values() for name, _ in rows)
        for panel, rows in panels.items():
            with formatter.section(panel):
                formatter.write_dl([(name.ljust(widest), text) for name, text in rows])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write what exit codes mean."""
        _write_ends(formatter, _DONE_IN_PART)


def summary(help: str | None) -> str:
    """Return the first sentence of a help text, without its full stop."""
    paragraph = " ".join(inspect.cleandoc(help or "").split("\n\n")[0].split())
    return re.split(r"(?<=[a-z0-9)`])\. ", paragraph)[0].rstrip(".")


def examples(help: str | None) -> list[str]:
    """Return the lines of the section `Examples:`."""
    _, _, section = inspect.cleandoc(help or "").partition("\nExamples:\n")
    lines = [line.strip() for line in section.split("\n\n")[0].splitlines()]
    return [line for line in lines if line]


def _write_ends(formatter: Any, done_in_part: str | None) -> None:
    ends = _ENDS | ({} if done_in_part is None else {"1": done_in_part})
    with formatter.section("Exit codes"):
        formatter.write_dl(sorted(ends.items()))


def _without_examples(help: str | None) -> str:
    text, _, section = inspect.cleandoc(help or "").partition("\nExamples:\n")
    return f"{text}\n\n{section.partition(chr(10) * 2)[2]}"


def _help(param: Any, ctx: Any) -> str:
    """Return a parameter's help, with its default and its bounds in words."""
    text = (param.get_help_record(ctx) or ("", ""))[1]
    text = re.sub(r"default: \((.*)\)(?=[;\]])", r"default: \1", text)
    text = re.sub(r"(\S+)<=x<=([^;\]]+)", r"\1 to \2", text)
    return re.sub(r"x>=([^;\]]+)", r"at least \1", text)


def _usage(param: TyperArgument) -> str:
    name = f"{param.metavar}..." if param.nargs != 1 else str(param.metavar)
    return name if param.required else f"[{name}]"


def _kind_of_value(param: Any) -> str:
    """Name the kind of value that a parameter takes; an argument has its own name."""
    if isinstance(param, TyperArgument):
        return str(param.name).upper()
    kind = param.type_descriptor
    if kind.is_choice:
        return "|".join(str(getattr(choice, "value", choice)) for choice in kind.choices)
    text = str(kind.annotation)
    return "PATH" if "Path" in text else "N" if "int" in text else "X" if "float" in text else "TEXT"
