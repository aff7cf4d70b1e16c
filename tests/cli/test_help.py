"""Help texts: groups, whole summaries, examples that parse, exit codes, and words in the place of Python types."""

import re
import shlex

import pytest
import typer
from typer.testing import CliRunner

from geneval_reward.cli import app
from geneval_reward.cli.shared.help import examples, summary

ROOT = typer.main.get_command(app)
COMMANDS = {
    (name, *sub): command
    for name, one in ROOT.commands.items()
    for sub, command in (
        [((inner,), found) for inner, found in one.commands.items()] if hasattr(one, "commands") else [((), one)]
    )
}


def shown(*words):
    result = CliRunner(env={"COLUMNS": "80"}).invoke(app, [*words, "--help"])
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80
    return result.stdout


def test_the_main_help_has_groups_and_whole_summaries():
    text = shown()
    for heading in ("Measure:", "Make images:", "Train:", "Serve:", "Check:", "Exit codes:"):
        assert f"\n{heading}\n" in text
    assert "..." not in text.partition("Measure:")[2]
    assert text.index("\n  score ") < text.index("\n  generate ") < text.index("\n  demo ") < text.index("\n  serve ")
    for name, command in ROOT.commands.items():
        assert re.search(rf"\n  {name} ", text)
        assert summary(command.help) in " ".join(text.split())


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_examples_exit_codes_and_plain_words(words):
    text = shown(*words)
    assert not re.search(r"<(int|str|float|list|path|bool)|x>=|<=x|\(\d+\)\]", text)
    flat = " ".join(text.split())
    assert " 0 done" in flat
    assert " 2 wrong usage" in flat
    lines = examples(COMMANDS[words].help)
    assert lines, "no example"
    for line in lines:
        assert line in " ".join(text.replace("\\\n", " ").split())
    # Every option says what it is for.
    for param in COMMANDS[words].params:
        assert param.help, param.name


@pytest.mark.parametrize(
    ("words", "line"), [(words, line) for words, command in COMMANDS.items() for line in examples(command.help)]
)
def test_examples_are_what_the_command_takes(words, line):
    parts = shlex.split(line.partition(" > ")[0])
    assert parts[: 1 + len(words)] == ["geneval-reward", *words]
    COMMANDS[words].make_context(" ".join(words), parts[1 + len(words) :])
