from pathlib import Path

import pytest
from typer.testing import CliRunner

from geneval_reward.cli import app
from geneval_reward.cli import recipes as commands
from geneval_reward.generate.packaged import find_generator

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
        RUN.invoke(app, ["recipes", "copy", "flow_grpo"], catch_exceptions=False)
    listed = RUN.invoke(app, ["recipes", "list"])
    assert listed.exit_code == 0
    assert "pip install 'geneval-reward[lightning,diffusers]'" in listed.stderr
    assert "flow_grpo" not in listed.stdout
    assert "show_o2: Show-o2" in listed.stdout  # needs no training


def test_the_file_of_a_foreign_model_is_listed_and_copied(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    listed = RUN.invoke(app, ["recipes", "list"])
    assert "unilip: UniLIP (1B and 3B, 448 px" in listed.stdout
    copied = RUN.invoke(app, ["recipes", "copy", "unilip", "mine"])
    assert copied.exit_code == 0, copied.output
    assert "geneval-reward generate mine/recipes/generators/unilip.py:UniLIP " in copied.stdout
    file = tmp_path / "mine" / "recipes" / "generators" / "unilip.py"
    assert file.read_bytes() == find_generator("unilip").path.read_bytes()
    file.write_text("mine")
    assert RUN.invoke(app, ["recipes", "copy", "unilip", "mine"]).exit_code == 1
    assert file.read_text() == "mine"
