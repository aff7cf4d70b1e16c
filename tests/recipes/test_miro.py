"""MIRO: the data set, one run on pocket and on tiny models of the real classes, guidance, resumption."""

import io
import json
import tarfile
import warnings

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from PIL import Image

from geneval_reward.errors import UsageError
from geneval_reward.pocket.dataset import write_captioned_images
from geneval_reward.train import AnnotatedImages, FlowPolicy
from geneval_reward.train.recipes import load_recipe
from geneval_reward.train.tiny import tiny_flux, tiny_sd3

LOOKS = ("colorfulness", "brightness")


@pytest.fixture(scope="module")
def miro():
    return load_recipe("miro")


@pytest.fixture(scope="module")
def looks(miro):
    """The two rewards that need no detector, by the path of the file."""
    return tuple(f"{name}={miro.__file__}:{name}" for name in LOOKS)


@pytest.fixture(scope="module")
def pocket_data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pocket")
    write_captioned_images(folder, 24)
    return folder


@pytest.fixture(scope="module")
def photo_data(tmp_path_factory):
    """Images with captions and without latents, as one's own data set would have."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    with tarfile.open(folder / "00.tar", "w") as tar:
        for number in range(6):
            picture = io.BytesIO()
            Image.fromarray(rng.integers(0, 40 * (number + 1), (40, 48, 3), dtype=np.uint8)).save(picture, "PNG")
            caption = json.dumps({"prompt": f"a photo of {number + 1} things"}).encode()
            for suffix, data in (("png", picture.getvalue()), ("json", caption)):
                member = tarfile.TarInfo(f"{number:03d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return folder


def fit(module, data, steps=2, callbacks=(), root=None, ckpt_path=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(
            max_steps=steps, max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=bool(callbacks),
            callbacks=list(callbacks), enable_progress_bar=False, enable_model_summary=False, default_root_dir=root,
        )  # fmt: skip
        trainer.fit(module, data, ckpt_path=ckpt_path)
    return trainer


def weights(module):
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def test_pocket_from_nothing_with_targets(miro, looks, pocket_data, tmp_path):
    data = AnnotatedImages(str(pocket_data), rewards=looks, batch_size=8, bins=4)
    model = miro.Miro(
        FlowPolicy("pocket"),
        rewards=looks,
        place="append",
        from_nothing=True,
        muon_rate=3e-3,
        warmup=1,
        out=str(tmp_path),
    )
    before = weights(model)
    trainer = fit(model, data, steps=3)
    after = weights(model)
    assert trainer.callback_metrics["loss"].isfinite()
    assert any(not torch.equal(before[name], after[name]) for name in before if name.startswith("tokens.mlps"))
    assert not torch.equal(before["transformer.proj_out.weight"], after["transformer.proj_out.weight"])
    assert data.bins.names == ("colorfulness", "brightness")
    assert {data.bins.count(name) for name in data.bins.names} == {4}

    prompts, seeds = ["a photo of a red clock", "a photo of two vases"], [1, 2]
    high = model.sample_latents(prompts, seeds, num_inference_steps=2)
    assert not torch.equal(
        high, model.sample_latents(prompts, seeds, target={"brightness": 0.0}, num_inference_steps=2)
    )
    for options in ({"scale": 2.0}, {"scale": 2.0, "negative": "empty"}):
        assert not torch.equal(high, model.sample_latents(prompts, seeds, num_inference_steps=2, **options))
    alone = model.sample_latents(prompts[1:], seeds[1:], num_inference_steps=2)
    torch.testing.assert_close(alone, high[1:], rtol=1e-4, atol=1e-4)

    loaded = miro.load(tmp_path)
    assert torch.equal(loaded.sample_latents(prompts, seeds, num_inference_steps=2), high)
    images = miro.trained(str(tmp_path), steps=2, scale=0.0).generate(prompts, seeds)
    assert torch.equal(images, model.generate(prompts, seeds, num_inference_steps=2))
    assert json.loads((tmp_path / "bins.json").read_text())["brightness"]["kind"] == "quantile"


def test_the_baseline_has_no_tokens_and_is_guided_by_text(miro, pocket_data, tmp_path):
    data = AnnotatedImages(str(pocket_data), rewards=(), batch_size=8)
    model = miro.Miro(FlowPolicy("pocket"), rewards=(), place="append", warmup=1, out=str(tmp_path))
    fit(model, data)
    assert model.tokens is None
    plain = model.sample_latents(["a photo of a vase"], [0], num_inference_steps=2)
    assert not torch.equal(plain, model.sample_latents(["a photo of a vase"], [0], scale=1.0, num_inference_steps=2))
    assert torch.equal(plain, model.sample_latents(["a photo of a vase"], [0], num_inference_steps=2))
    assert miro.load(tmp_path).tokens is None


def test_arms_start_alike(miro, looks):
    models = [
        weights(miro.Miro(FlowPolicy("pocket"), rewards=rewards, place="append", from_nothing=True, seed=3))
        for rewards in ((), looks)
    ]
    assert all(torch.equal(tensor, models[1][name]) for name, tensor in models[0].items())


@pytest.mark.parametrize("make", [tiny_sd3, tiny_flux])
def test_models_of_the_real_classes_encode_their_images(miro, looks, photo_data, make, tmp_path):
    data = AnnotatedImages(str(photo_data), rewards=looks, batch_size=4, bins=3)
    model = miro.Miro(FlowPolicy(make(), max_sequence_length=32), rewards=looks, warmup=1, out=str(tmp_path))
    prompts, seeds = ["a photo of a bench"], [0]
    base = miro.Miro(FlowPolicy(make(), max_sequence_length=32), rewards=())
    call = {"num_inference_steps": 2}
    torch.testing.assert_close(
        model.sample_latents(prompts, seeds, **call), base.sample_latents(prompts, seeds, **call)
    )
    assert fit(model, data).callback_metrics["loss"].isfinite()
    images = model.generate(prompts, seeds, scale=1.0, **call)
    assert images.dtype == torch.uint8
    assert images.shape[1] == 3


@pytest.mark.slow
def test_a_resumed_run_ends_as_one_that_was_not_stopped(miro, looks, pocket_data, tmp_path):
    class StopAt(Callback):
        def __init__(self, step):
            self.step = step

        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = trainer.global_step == self.step

    def run(folder, stops):
        for stop in stops:
            data = AnnotatedImages(str(pocket_data), rewards=looks, batch_size=8, bins=4)
            model = miro.Miro(
                FlowPolicy("pocket"), rewards=looks, place="append", from_nothing=True, muon_rate=3e-3, warmup=1
            )
            kept, last = (
                ModelCheckpoint(folder, every_n_train_steps=1, save_last=True, save_top_k=0),
                folder / "last.ckpt",
            )
            callbacks = [kept, EMAWeightAveraging(decay=0.9), StopAt(stop)]
            trainer = fit(model, data, 4, callbacks, folder, str(last) if last.exists() else None)
            assert trainer.global_step == stop
        return weights(model)

    whole, parts = run(tmp_path / "whole", [4]), run(tmp_path / "parts", [2, 4])
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())


def test_chances_are_shares(miro):
    with pytest.raises(UsageError, match="drop_caption: expected a chance in"):
        miro.Miro(FlowPolicy("pocket"), drop_caption=1.5)


def test_rewards_of_the_look(miro):
    grey, red = np.full((8, 8, 3), 128, np.uint8), np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    half = red.copy()
    half[:, 4:] = (0, 0, 255)
    found = miro.colorfulness([grey, red, half])
    assert found[0] == 0
    assert found[1] == pytest.approx(0.3 * np.hypot(255, 127.5))
    assert found[2] > found[1]
    assert miro.brightness([grey, red]) == pytest.approx([128, 0.299 * 255])
    for kind in (Image.fromarray(red), torch.from_numpy(red).permute(2, 0, 1)):
        assert miro.colorfulness([kind]) == pytest.approx([found[1]])
