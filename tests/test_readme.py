"""README's commands exist, its links lead somewhere, and its tested Python runs."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from geneval_reward.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_first_two_commands_are_single_lines():
    block = re.search(r"```sh\n(.*?)```", README, re.S).group(1).splitlines()
    assert block == [
        "pip install uv && uv run geneval-reward demo",
        "pip install uv && uv run pytest",
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


def test_commands_and_options_exist():
    commands = get_command(app).commands
    lines = re.findall(r"^(?:uv run )?geneval-reward ([^#\n]+)", README, re.M)
    assert len(lines) >= 4
    for line in lines:
        name, *words = shlex.split(line)
        assert name in commands, name
        known = {option for parameter in commands[name].params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= known, line


def test_the_tested_block_runs(capsys):
    code = re.search(r"<!-- tested.*?-->\n```python\n(.*?)```", README, re.S).group(1)
    with pytest.warns(UserWarning, match="no images for"):
        exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("tensor(0.5000)")
