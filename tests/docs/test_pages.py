"""Every snippet of README and docs runs, or says why it cannot; commands, files and links exist."""

import ast
import asyncio
import importlib.util
import inspect
import json
import re
import shlex
import tomllib
import warnings

import pytest
import yaml
from pages import PAGES, ROOT, snippets
from typer.main import get_command

from geneval_reward.cli import app

SNIPPETS = [(page, one) for page in PAGES for one in snippets(page)]


def named(pairs):
    return [pytest.param(page, one, id=f"{page.stem}:{one.line}") for page, one in pairs]


def test_the_first_commands_are_single_lines():
    block = next(one for one in snippets(ROOT / "README.md") if one.kind == "sh").code.splitlines()
    assert block[:2] == ["pip install uv && uv run geneval-reward demo", "pip install uv && uv run pytest"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_fence_has_a_language(page):
    found = snippets(page)
    assert [one.line for one in found if not one.kind] == []
    assert 2 * len(found) == len(re.findall(r"^ *```", page.read_text(), re.MULTILINE)), "a fence is not understood"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


def commands(code):
    """The simple commands of a shell snippet, without comments, variables and `uv run`."""
    for line in code.replace("\\\n", " ").splitlines():
        words = [word for word in shlex.split(line, comments=True) if not re.fullmatch(r"[A-Z_]+=.*", word)]
        while words:
            end = next((i for i, word in enumerate(words) if word in ("&&", "|", ";", "&", ">", "<")), len(words))
            command, words = words[:end], words[end + 1 :]
            yield command[2:] if command[:2] == ["uv", "run"] else command


@pytest.mark.parametrize(("page", "one"), named([pair for pair in SNIPPETS if pair[1].kind in ("sh", "bash")]))
def test_commands_options_and_files_exist(page, one):
    for name, *words in filter(None, commands(one.code)):
        if name == "geneval-reward":
            command = get_command(app)
            while words and words[0] in getattr(command, "commands", {}):
                command = command.commands[words.pop(0)]
            assert not hasattr(command, "commands"), f"{page.name} line {one.line}: no command {words[:1]}"
            known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
            used = {word.partition("=")[0] for word in words if re.match(r"-{1,2}[a-z]", word)}
            assert used <= known, f"{page.name} line {one.line}"
        for word in words:
            if re.match(r"(recipes|configs|benchmarks|tools|tests)/[\w/.]+$", word):
                assert (ROOT / word).exists(), f"{page.name} line {one.line}: {word}"


@pytest.mark.parametrize(("page", "one"), named([pair for pair in SNIPPETS if pair[1].kind in ("json", "yaml")]))
def test_data_can_be_parsed(page, one):
    lines = [one.code] if one.kind == "yaml" or one.code.startswith("{\n") else one.code.splitlines()
    assert [json.loads(line) if one.kind == "json" else yaml.safe_load(line) for line in lines]


@pytest.mark.parametrize(("page", "one"), named([pair for pair in SNIPPETS if pair[1].kind == "python"]))
def test_python_is_valid_and_its_imports_exist(page, one):
    """Of every snippet, also of those that cannot run here."""
    tree = compile(one.code, page.name, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("geneval_reward"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                there = hasattr(module, alias.name) or importlib.util.find_spec(f"{node.module}.{alias.name}")
                assert there, f"{page.name} line {one.line}: {node.module}.{alias.name}"
    if (reason := one.mark("not run")) is not None:
        assert len(reason.split()) > 2, f"{page.name} line {one.line}: why is it not run?"
    if (where := one.mark("tested")) is not None:
        assert (ROOT / where.split()[0]).exists(), f"{page.name} line {one.line}: {where}"


def runs(one):
    return one.kind == "python" and one.title is None and one.mark("not run") is None and one.mark("tested") is None


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if any(map(runs, snippets(page)))], ids=lambda page: page.stem)
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    """From top to bottom in one namespace, in a folder that has the files that the page shows with a title."""
    monkeypatch.chdir(tmp_path)
    for one in snippets(page):
        if one.title is not None:
            (tmp_path / one.title).write_text(one.code)
    space = {"__name__": f"{page.stem}_md"}
    for one in filter(runs, snippets(page)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(one.mark("setup") or "", space)
            # Tracebacks show the page's own line.
            padded = "\n" * (one.line - 1) + one.code
            waiting = eval(compile(padded, str(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), space)
            if inspect.iscoroutine(waiting):
                asyncio.run(waiting)


def test_the_table_of_extras_is_whole_and_the_same_on_both_pages():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pages = (ROOT / "README.md", ROOT / "docs" / "quick_start.md")
    tables = [page.read_text().partition("| extra |")[2].partition("\n\n")[0] for page in pages]
    assert tables[0] == tables[1]
    assert set(re.findall(r"^\| `([\w-]+)` \|", tables[0], re.MULTILINE)) == set(extras)
