"""What both recipes share: equal text where the methods agree, no reads of the GPU in inner loops, one judge per rank."""

import inspect

import pytest
import torch

from geneval_reward.callback import GenEvalCallback
from geneval_reward.prompts import official_suite
from geneval_reward.testing import FakeDetector, scorer_for
from geneval_reward.train import load_recipe

SHARED = (
    "on_train_start configure_optimizers rollout advantages update on_before_optimizer_step generate on_load_checkpoint"
)


@pytest.mark.parametrize("name", SHARED.split())
def test_the_recipes_agree_word_for_word(name):
    texts = {
        inspect.getsource(getattr(kind, name))
        for kind in (load_recipe("diffusion_nft").DiffusionNFT, load_recipe("flow_grpo").FlowGRPO)
    }
    assert len(texts) == 1


@pytest.mark.parametrize("name", ["diffusion_nft", "flow_grpo"])
def test_a_recipe_is_one_file_of_readable_length(name):
    text = inspect.getsource(load_recipe(name))
    assert 150 <= len(text.splitlines()) <= 400
    for part in ("| | paper | released code", "python recipes/", "arXiv"):
        assert part in inspect.getdoc(load_recipe(name))


def on_meta(module, batches):
    """The batches on a device whose tensors cannot be read, as reading one of a GPU would wait for it."""
    from geneval_reward.train import Conditions

    module.to("meta")
    module.policy.device = torch.device("meta")
    for batch in batches:
        batch.latents = batch.latents.to("meta")
        batch.conditions = Conditions(batch.conditions.embeds.to("meta"), batch.conditions.pooled.to("meta"))
        if batch.kept is not None:
            kept = {
                name: value.to("meta") for name, value in vars(batch.kept).items() if isinstance(value, torch.Tensor)
            }
            batch.kept = type(batch.kept)(**{"means": None, "window": batch.kept.window, **kept})


@pytest.mark.parametrize(
    ("method", "options"),
    [("nft", {}), ("grpo", {}), ("grpo", {"variant": "guard"}), ("grpo", {"variant": "cps"})],
    ids=["nft", "grpo", "guard", "cps"],
)
def test_losses_read_nothing_back(worker, tmp_path, method, options):
    from geneval_reward.train import MetricSums, deal_advantages

    module = worker.module(method, **options)
    module._trainer = worker.trainer(tmp_path)
    module.reward = worker.InTheWay(worker.redness)
    [batch] = worker.data().train_dataloader()
    samples, _ = module.rollout(batch)
    deal_advantages(samples, torch.randn(24), torch.arange(24) % 3 > 0)
    on_meta(module, samples)
    sums = MetricSums()
    for loss, numbers in module.losses(samples[0], 24):
        loss.backward()
        sums.add(numbers)
    assert all(p.grad is not None and p.grad.device.type == "meta" for p in module.weights.trained().values())


def test_the_epochs_autocast_caches_no_casts(worker, tmp_path):
    """A cast that was made without gradients, or before an optimizer step, would be used again: all passes are in one."""
    seen = []
    module = worker.module("nft", "sd3")
    module.sample = lambda *args, inner=module.sample: (
        seen.append((torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled())) or inner(*args)
    )
    worker.run(module, worker.data(), tmp_path, epochs=1, precision="bf16-mixed")
    assert set(seen) == {(True, False)}


@pytest.mark.parametrize("method", ["nft", "grpo"])
def test_the_judge_of_the_callback_gives_the_rewards_and_is_loaded_once(worker, tmp_path, monkeypatch, method):
    from geneval_reward.scorer import GenEvalScorer

    loads = []

    def from_pretrained(name, **_):
        loads.append(name)
        return scorer_for(FakeDetector({"bench": [[1, 1, 9, 9, 0.9]]}))

    monkeypatch.setattr(GenEvalScorer, "from_pretrained", from_pretrained)
    suite = list(official_suite()[:2])
    callback = GenEvalCallback("lite", prompts=suite, every_n_epochs=1, sample_kwargs={"num_inference_steps": 2})
    from geneval_reward.train import PromptGroups

    data = PromptGroups(suite, groups=2, group_size=4, batch_size=4, seed=1)
    module = worker.module(method, reward=None, credit="flow_grpo")
    rows = worker.run(module, data, tmp_path, callbacks=[callback])
    assert loads == ["lite"]
    assert module.reward.scorer is callback.scorer
    assert rows[0]["reward_mean"] == rows[0]["reward/flow_grpo"]
    assert callback.last_metrics["geneval/overall"] == 0.5


def test_a_clip_range_below_the_noise_of_bfloat16_is_warned_of(worker, tmp_path):
    with pytest.warns(UserWarning, match="clip_range: expected a range above the noise of bfloat16"):
        worker.run(worker.module("grpo", clip_range=1e-4), worker.data(), tmp_path, epochs=1, precision="bf16-mixed")


def test_the_kl_is_logged_without_its_weight(worker, tmp_path):
    """As in the released code: `kl_loss` and `kl_div_loss` are distances."""
    nft = worker.run(worker.module("nft", kl_weight=0.5), worker.data(), tmp_path)[1]
    assert nft["kl_div_loss"] == nft["kl_div"] > 0
    assert nft["total_loss"] == pytest.approx(nft["policy_loss"] + 0.5 * nft["kl_div_loss"], rel=1e-5)
    grpo = worker.run(worker.module("grpo", kl_weight=0.5), worker.data(), tmp_path)[1]
    assert grpo["loss"] == pytest.approx(grpo["policy_loss"] + 0.5 * grpo["kl_loss"], rel=1e-5, abs=1e-7)
    assert grpo["kl_loss"] > 0


@pytest.mark.parametrize(("name", "released"), [("nft", "1.0e-4"), ("flow_grpo", "0.04")])
def test_configurations_train_on_the_released_reward(name, released):
    from pathlib import Path

    for path in Path(__file__).parents[2].glob(f"configs/{name}_sd35*.yaml"):
        text = path.read_text()
        assert "credit: flow_grpo " in text, path
        assert f"kl_weight: {released}" in text, path
        assert "bf16" not in text or "clip_range" not in text, path
