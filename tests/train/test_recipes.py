import ast
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from geneval_reward.train.recipes import copy_recipe, find_recipe, list_recipes, load_recipe

ROOT = Path(__file__).parents[2]


def test_every_recipe_has_a_title_and_every_configuration_a_recipe():
    recipes = list_recipes()
    assert {"diffusion_nft", "flow_grpo", "finetune_with_callback"} <= set(recipes)
    assert all(len(recipe.title) > 20 for recipe in recipes.values())
    launched = {path.name for recipe in recipes.values() for path in recipe.configs}
    everything = {path.name for path in (ROOT / "configs").glob("*.yaml")} - {"pocket_train.yaml"}  # of tools/pocket
    assert everything <= launched
    assert all(recipe.launch_lines for recipe in recipes.values())
    assert "python recipes/tts_var.py --model pocket-tokens --n 2 --out runs/tts_var" in recipes["tts_var"].launch_lines


def test_a_copy_has_everything_that_its_launch_lines_name(tmp_path):
    files = copy_recipe("diffusion_nft", tmp_path)
    assert tmp_path / "configs" / "pocket_held_out.jsonl" in files  # named by a configuration
    lines = find_recipe("diffusion_nft").launch_lines
    assert "python recipes/diffusion_nft.py fit --config configs/nft_pocket.yaml" in lines
    for line in lines:
        assert all((tmp_path / word).is_file() for word in line.split() if "/" in word)


def test_launch_lines_in_files_work_in_a_copy(tmp_path):
    for name in ("diffusion_nft", "flow_grpo"):
        copy_recipe(name, tmp_path)
        doc = ast.get_docstring(ast.parse((tmp_path / "recipes" / f"{name}.py").read_text()))
        lines = [line.split() for line in doc.splitlines() if line.strip().startswith("python recipes/")]
        assert len(lines) >= 3
        for words in lines:
            assert (tmp_path / words[1]).is_file()
            assert (tmp_path / words[words.index("--config") + 1]).is_file()


def test_files_that_were_changed_are_not_replaced(tmp_path):
    copy_recipe("flow_grpo", tmp_path)
    mine = tmp_path / "recipes" / "flow_grpo.py"
    mine.write_text("mine")
    (tmp_path / "configs" / "flow_grpo_pocket.yaml").unlink()
    with pytest.raises(ValueError, match=r"expected no other files in the way, got .*flow_grpo.py"):
        copy_recipe("flow_grpo", tmp_path)
    assert mine.read_text() == "mine"
    assert not (tmp_path / "configs" / "flow_grpo_pocket.yaml").exists()  # nothing is copied then
    copy_recipe("flow_grpo", tmp_path, force=True)
    assert mine.read_bytes() == find_recipe("flow_grpo").path.read_bytes()
    copy_recipe("flow_grpo", tmp_path)  # equal files are no obstacle


def test_a_recipe_is_loaded_once_and_its_classes_pickle():
    import pickle

    module = load_recipe("diffusion_nft")
    assert load_recipe("diffusion_nft") is module
    assert pickle.loads(pickle.dumps(module.DiffusionNFT)) is module.DiffusionNFT
    with pytest.raises(ValueError, match=r"recipe: expected one of .*flow_grpo.*, got 'grpo'"):
        load_recipe("grpo")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_has_the_recipes_and_a_copy_of_one_trains(tmp_path):
    subprocess.run(["uv", "build", "--wheel", "--offline", "-o", tmp_path, ROOT], check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"}

    def run(*words):
        done = subprocess.run([sys.executable, *words], cwd=work, env=env, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    where = run("-c", "import geneval_reward; print(geneval_reward.__file__)")
    assert Path(where.strip()).is_relative_to(site)
    listed = run("-m", "geneval_reward", "recipes", "list")
    assert "python recipes/flow_grpo.py fit --config configs/flow_grpo_pocket.yaml" in listed
    assert "unilip: UniLIP" in listed
    printed = run("-m", "geneval_reward", "recipes", "copy", "flow_grpo")
    [line] = [line for line in printed.splitlines() if "flow_grpo_pocket.yaml" in line]
    # The line as it is printed, but for a smaller epoch.
    small = "--trainer.max_epochs 1 --data.groups 2 --data.group_size 2 --data.batch_size 4 --model.num_steps 2 --model.passes 1"
    run(*line.split()[1:], *small.split())
    assert (work / "runs" / "flow_grpo_pocket" / "last.ckpt").is_file()
    run(
        "-c",
        "from geneval_reward.train import FlowPolicy, load_recipe; load_recipe('diffusion_nft').DiffusionNFT(FlowPolicy())",
    )
