"""Flow-GRPO as a recipe."""

import sys

import pytest
import torch


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_two_steps_change_the_policy_and_log_what_the_communities_know(worker, tmp_path, family):
    module = worker.module("grpo", family)
    before = {name: p.detach().clone() for name, p in module.weights.trained().items()}
    rows = worker.run(module, worker.data(), tmp_path)
    known = "policy_loss approx_kl clipfrac clipfrac_gt_one clipfrac_lt_one kl_loss loss trained_images"
    known += " zero_std_ratio reward/mean"
    assert set(known.split()) <= set(rows[0])
    assert rows[0]["kl_loss"] == 0.0  # the first step starts at the reference
    assert any(not torch.equal(p, before[name]) for name, p in module.weights.trained().items())


@pytest.mark.parametrize("family", ["sd3", "flux"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_ratio_is_exactly_one_at_the_first_inner_step(worker, tmp_path, family, precision):
    """Nothing is left out here, so the recompute has the batch composition of the rollout."""
    module = worker.module("grpo", family, reward=lambda images, **_: [float(image.sum()) for image in images])
    rows = worker.run(module, worker.data(), tmp_path, precision=precision, epochs=1)
    assert rows[0]["trained_images"] == 24
    assert rows[0]["ratio_deviation"] == 0.0


def test_second_pass_moves_the_ratio(worker, tmp_path):
    rows = worker.run(worker.module("grpo", passes=2), worker.data(), tmp_path, epochs=1)
    assert rows[0]["ratio_deviation"] > 0
    assert rows[0]["updates"] == 2


@pytest.mark.parametrize(
    "options",
    [
        {"variant": "fast", "noise_level": 0.8, "kl_weight": 0.0},
        {"variant": "mix"},
        {"variant": "guard", "clip_range": 2e-3},
        {"guidance_scale": 4.5},
        {"lora_rank": 0},
    ],
    ids=["fast", "mix", "guard", "cfg", "full"],
)
def test_variants_run(worker, tmp_path, options):
    rows = worker.run(worker.module("grpo", **options), worker.data(), tmp_path)
    assert all(torch.isfinite(torch.tensor(row["loss"])) for row in rows)


def test_all_equal_groups_leave_the_weights_alone(worker, tmp_path):
    module = worker.module("grpo", reward=lambda images, prompts, metadata: [0.5] * len(images))
    before = {name: p.detach().clone() for name, p in module.weights.trained().items()}
    rows = worker.run(module, worker.data(), tmp_path, epochs=1)
    assert rows[0]["trained_images"] == 0
    assert rows[0]["zero_std_ratio"] == 1.0
    assert all(torch.equal(p, before[name]) for name, p in module.weights.trained().items())


@pytest.mark.slow
def test_reward_rises_on_a_tiny_pipeline(worker, tmp_path):
    module = worker.module("grpo", "flux", lora_rank=0, learning_rate=3e-3, kl_weight=0.0)
    rows = worker.run(module, worker.data(groups=2, group_size=16, batch_size=16), tmp_path, epochs=25)
    first, last = (sum(row["reward_mean"] for row in part) / 5 for part in (rows[:5], rows[-5:]))
    assert last > first + 0.005


def test_wrong_use_is_refused(worker):
    with pytest.raises(ValueError, match="variant: expected 'plain'"):
        worker.module("grpo", variant="sliding")


def test_command_line(recipe, worker, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["flow_grpo.py"])
    cli = recipe("flow_grpo").main(
        [
            "fit",
            "--trainer.max_epochs=1",
            "--trainer.accelerator=cpu",
            "--trainer.logger=false",
            "--trainer.enable_progress_bar=false",
            "--trainer.enable_model_summary=false",
            "--trainer.enable_checkpointing=false",
            f"--trainer.default_root_dir={tmp_path}",
            "--model.policy.pipeline=geneval_reward.train.tiny:tiny_flux",
            "--model.reward=recipes_worker:redness",
            "--model.lora_rank=2",
            "--model.num_steps=2",
            "--data.prompts=8",
            "--data.groups=2",
            "--data.group_size=4",
            "--data.batch_size=4",
        ]
    )
    assert cli.trainer.global_step == 1
