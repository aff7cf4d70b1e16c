import importlib.util
import json
from pathlib import Path

import pytest
import torch

from geneval_reward.pocket import PocketPipeline
from geneval_reward.pocket import load as load_module
from geneval_reward.pocket.prompts import pocket_suite, training_specs
from geneval_reward.prompts import TAGS
from geneval_reward.prompts.training import meaning

lightning = pytest.importorskip("lightning")

ROOT = Path(__file__).parents[2]
QUIET = {
    "accelerator": "cpu",
    "devices": 1,
    "max_epochs": -1,
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
# Lightning tells of modules in eval mode, few workers and the like; none of it is about the recipe.
pytestmark = [pytest.mark.filterwarnings("ignore:.*:UserWarning"), pytest.mark.filterwarnings("ignore::FutureWarning")]


@pytest.fixture(scope="module")
def recipe():
    path = ROOT / "tools" / "pocket" / "train.py"
    spec = importlib.util.spec_from_file_location("pocket_train", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(recipe, folder, steps, *, stop=None, resume=None, out=None, seed=0):
    model = recipe.PocketFlow(seed=seed, lr=2e-3, warmup=5, ema=0.8, out=out and str(out))
    keep = lightning.pytorch.callbacks.ModelCheckpoint(
        folder, save_last=True, save_top_k=0, every_n_train_steps=stop or steps
    )
    callbacks = [keep]
    if stop:

        class Interrupt(lightning.Callback):
            def on_train_batch_start(self, trainer, *_):
                if trainer.global_step == stop:
                    raise ConnectionAbortedError

        callbacks.append(Interrupt())
    trainer = lightning.Trainer(max_steps=steps, callbacks=callbacks, default_root_dir=folder, **QUIET)
    trainer.fit(model, recipe.Scenes(seed=seed, batch_size=12), ckpt_path=resume)
    return model


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("twenty")
    return run(recipe, folder, 20, out=folder / "pipeline"), folder


@pytest.mark.slow
def test_twenty_steps_make_the_loss_fall(trained) -> None:
    model, _ = trained
    assert len(model.curve) == 20
    assert sum(model.curve[-5:]) < 0.85 * sum(model.curve[:5])


@pytest.mark.slow
def test_export_is_a_pipeline_with_its_provenance(trained) -> None:
    model, folder = trained
    load_module.check_files(folder / "pipeline")
    about = json.loads((folder / "pipeline" / "PROVENANCE.json").read_text())
    assert about["steps"] == 20
    assert about["seed"] == {"weights": 0, "data": 0}
    assert about["loss_curve"][-1]["to_step"] == 20
    pipe = PocketPipeline.from_pretrained(folder / "pipeline")
    averaged = model.averaged.module["transformer"].state_dict()
    for name, value in pipe.transformer.state_dict().items():
        torch.testing.assert_close(value.float(), averaged[name], rtol=1e-3, atol=1e-3)
    assert not torch.equal(averaged["proj_out.weight"], model.live["transformer"].state_dict()["proj_out.weight"])
    assert len(model.generate(["a photo of a clock"], [1])) == 1


@pytest.mark.slow
def test_one_seed_one_run_also_when_interrupted(trained, recipe, tmp_path) -> None:
    whole, _ = trained
    with pytest.raises(ConnectionAbortedError):
        run(recipe, tmp_path, 20, stop=8)
    again = run(recipe, tmp_path / "again", 20, resume=tmp_path / "last.ckpt")
    assert len(again.curve) == 20
    assert again.curve == pytest.approx(whole.curve, rel=1e-4)
    for name, value in whole.averaged.state_dict().items():
        torch.testing.assert_close(again.averaged.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_batches_depend_on_seed_and_step_alone_and_hold_nothing_of_the_suite(recipe) -> None:
    mix = dict.fromkeys(TAGS, 1)
    data = recipe.CaptionedScenes(3, 0, 5, 16, mix, recipe.Noise())
    later = recipe.CaptionedScenes(3, 4, 5, 64, mix, recipe.Noise())
    assert all(torch.equal(a, b) for a, b in zip(data.batch(2).values(), data.batch(2).values(), strict=True))
    assert not torch.equal(data.batch(2)["latents"], data.batch(3)["latents"])
    assert len(list(data)) == 5
    assert len(list(later)) == 1
    held_out = {meaning(spec) for spec in pocket_suite() if spec.tag != "single_object"}
    assert not held_out & {meaning(spec) for pool in training_specs().values() for spec in pool}


def test_shipped_weights_come_from_this_recipe(recipe) -> None:
    import yaml

    about = load_module.provenance()
    config = yaml.safe_load((ROOT / "configs" / "pocket_train.yaml").read_text())
    assert about["steps"] == config["trainer"]["max_steps"]
    assert about["seed"] == {"weights": config["model"]["seed"], "data": config["data"]["seed"]}
    assert about["noise"] == config["data"]["noise"]
    assert about["mix"] == config["data"]["mix"]
    options = {name: value for name, value in config["model"].items() if name != "out"}
    assert {name: about["options"][name] for name in options} == options
