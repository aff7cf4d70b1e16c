from pathlib import Path

import pytest
from typer.testing import CliRunner

from geneval_reward.cli import app
from geneval_reward.cli import recipes as commands

RUN = CliRunner()


def test_list_prints_lines_that_work_after_copy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    listed = RUN.invoke(app, ["recipes", "list"])
    assert listed.exit_code == 0, listed.output
    copied = RUN.invoke(app, ["recipes", "copy", "flow_grpo"])
    assert copied.exit_code == 0, copied.output
    lines = [line for line in copied.stdout.splitlines() if line.startswith("python ")]
    assert lines
    assert all(line in listed.stdout for line in lines)
    for line in lines:
        assert all(Path(word).is_file() for word in line.split() if "/" in word)


def test_another_folder_is_named_in_the_lines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copied = RUN.invoke(app, ["recipes", "copy", "flow_grpo", "mine"])
    assert "cd mine && python recipes/flow_grpo.py fit --config configs/flow_grpo_pocket.yaml" in copied.stdout


def test_missing_extras_come_with_a_remedy(monkeypatch):
    monkeypatch.setattr(commands.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'geneval-reward\[lightning,diffusers\]'"):
        RUN.invoke(app, ["recipes", "list"], catch_exceptions=False)
