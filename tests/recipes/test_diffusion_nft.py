"""DiffusionNFT as a recipe, and what both recipes share: groups, rewards, checkpoints, errors, processes."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def weights_of(module):
    return {name: p.detach().clone() for name, p in module.weights.trained().items()}


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_two_steps_change_the_policy_and_log_what_the_communities_know(worker, tmp_path, family):
    module = worker.module("nft", family)
    before = weights_of(module)
    rows = worker.run(module, worker.data(), tmp_path)
    assert len(rows) == 2
    known = "policy_loss unweighted_policy_loss kl_div kl_div_loss old_kl_div old_deviate old_deviate_max x0_norm"
    known += " x0_norm_max total_loss zero_std_ratio reward_std_mean group_size groups_with_spread reward/mean"
    known += " mean_reward_100 mean_reward_10"
    assert set(known.split()) <= set(rows[0])
    assert rows[0]["old_deviate"] == 0.0  # the first step starts at the old policy
    assert rows[0]["group_size"] == 8
    after = weights_of(module)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert module.images_sampled == 48


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_full_fine_tuning_keeps_an_old_copy(worker, tmp_path, family):
    module = worker.module("nft", family, lora_rank=0)
    worker.run(module, worker.data(), tmp_path, epochs=1)
    reference = dict(module.weights.reference.named_parameters())
    trained, old = module.weights.trained(), module.weights.old_parameters()
    assert any(not torch.equal(trained[name], reference[name]) for name in trained)
    # decay .001 after the first step: nearly all of the way, but not all
    for name in trained:
        torch.testing.assert_close(old[name], torch.lerp(reference[name], trained[name], 0.999))


def test_batch_size_changes_nothing(worker, tmp_path):
    rows = [worker.run(worker.module(), worker.data(batch_size=size), tmp_path) for size in (4, 12)]
    for one, other in zip(*rows, strict=True):
        assert one["total_loss"] == pytest.approx(other["total_loss"], rel=1e-5)
        assert one["reward_mean"] == pytest.approx(other["reward_mean"], rel=1e-5)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_half_precision(worker, tmp_path, precision):
    module = worker.module("nft", "sd3")
    if precision == "16-mixed":
        # Lightning has fp16 for GPUs alone; weights in half precision are there for both.
        module.policy.transformer.to(torch.float16)
        for p in module.weights.trained().values():
            p.data = p.data.float()
        precision = "32-true"
    rows = worker.run(module, worker.data(), tmp_path, precision=precision)
    assert all(math.isfinite(row["total_loss"]) for row in rows)
    assert all(p.dtype == torch.float32 for p in module.weights.trained().values())


@pytest.mark.slow
def test_checkpoint_holds_what_is_trained_and_resume_is_exact(worker, tmp_path):
    whole = worker.module()
    worker.run(whole, worker.data(), tmp_path, epochs=4)

    from geneval_reward.train.cli import EpochCheckpoint

    half = worker.module()
    worker.run(
        half, worker.data(), tmp_path, epochs=2, callbacks=[EpochCheckpoint(str(tmp_path))], enable_checkpointing=True
    )
    saved = torch.load(tmp_path / "last.ckpt", weights_only=False)
    assert not saved["state_dict"]
    assert all("lora_" in name for name in saved["flow_rl"]["trained"])
    torch.randn(7)  # what was drawn in between must not matter
    resumed = worker.module()
    rows = worker.run(
        resumed,
        worker.data(),
        tmp_path,
        epochs=4,
        ckpt_path=tmp_path / "last.ckpt",
        callbacks=[EpochCheckpoint(str(tmp_path))],
        enable_checkpointing=True,
    )
    assert len(rows) == 2
    for own, other in ((whole, resumed),):
        for part in (lambda m: weights_of(m), lambda m: m.weights.old_parameters(), lambda m: m.ema.averages):
            for name, tensor in part(own).items():
                assert torch.equal(tensor, part(other)[name]), name
    assert resumed.images_sampled == whole.images_sampled == 96


def test_checkpoint_of_another_model_or_method_is_refused(worker, tmp_path):
    module = worker.module("nft", "sd3")
    fit = worker.trainer(tmp_path, 1)
    fit.fit(module, worker.data())
    fit.save_checkpoint(tmp_path / "a.ckpt")
    for other, message in (
        (worker.module("nft", "flux"), "of this model, got one of another"),
        (worker.module("nft", "sd3", lora_rank=2), "of shape"),
        (worker.module("grpo", "sd3"), "expected one of flow-grpo, got one of diffusion-nft"),
    ):
        with pytest.raises(ValueError, match=message):
            worker.run(other, worker.data(), tmp_path, ckpt_path=tmp_path / "a.ckpt")


def test_samples_without_reward_are_left_out(worker, tmp_path):
    def reward(images, prompts, metadata):
        return [None if index == 0 else math.nan if index == 1 else float(index % 2) for index in range(len(images))]

    rows = worker.run(worker.module(reward=reward), worker.data(), tmp_path, epochs=1)
    assert rows[0]["unscored"] == 6  # two of each batch of eight
    assert math.isfinite(rows[0]["total_loss"])


def test_nan_latents_have_no_reward_and_no_gradient(worker, tmp_path):
    module = worker.module()
    sample = module.sample

    def broken(*args):
        latents, kept = sample(*args)
        latents[0] = math.nan
        return latents, kept

    module.sample = broken
    rows = worker.run(module, worker.data(), tmp_path, epochs=2)
    assert rows[0]["unscored"] == 3
    assert all(bool(p.isfinite().all()) for p in module.weights.trained().values())


def test_a_policy_that_has_diverged_ends_the_run(worker, tmp_path):
    module = worker.module()
    module.sample = lambda noise, *_: (noise * math.nan, None)
    with pytest.raises(RuntimeError, match="diverged"):
        worker.run(module, worker.data(), tmp_path, epochs=1)


def test_equal_rewards_teach_next_to_nothing(worker, tmp_path):
    module = worker.module(reward=lambda images, prompts, metadata: [1.0] * len(images), kl_weight=0.0)
    rows = worker.run(module, worker.data(), tmp_path, epochs=1)
    assert rows[0]["zero_std_ratio"] == 1.0
    assert rows[0]["grad_norm"] == 0.0  # r = 1/2 at the old policy


def test_a_reward_that_raises_in_its_thread_ends_the_run_with_its_message(worker, tmp_path):
    def reward(images, prompts, metadata):
        raise OSError("the detector's socket is gone")

    with pytest.raises(RuntimeError, match="OSError: the detector's socket is gone"):
        worker.run(worker.module(reward=reward), worker.data(), tmp_path, epochs=1)


@pytest.mark.parametrize("rewards", [[1.0], None])
def test_a_reward_of_another_length_is_refused(worker, tmp_path, rewards):
    with pytest.raises(RuntimeError, match="rewards, one per image"):
        worker.run(worker.module(reward=lambda **_: rewards), worker.data(), tmp_path, epochs=1)


@pytest.mark.slow
def test_scoring_overlaps_sampling(worker, tmp_path):
    def module(reward):
        made = worker.module(reward=reward)
        sample = made.sample

        def slower(*args):
            time.sleep(0.3)  # sampling takes longer than scoring, as on real models
            return sample(*args)

        made.sample = slower
        return made

    shown = worker.run(module(worker.InTheWay(worker.slow_redness)), worker.data(), tmp_path, epochs=1)[0]
    hidden = worker.run(module(worker.slow_redness), worker.data(), tmp_path, epochs=1)[0]
    assert (
        shown["time/sampling"] - hidden["time/sampling"] >= 0.3
    )  # three batches at 0.2 s, one of which has nothing beside it
    assert hidden["time/reward_wait"] < 0.5
    assert hidden["time/reward_busy"] >= 0.55
    assert hidden["reward_mean"] == shown["reward_mean"]


def test_sizes_that_do_not_divide_are_refused_with_ones_that_do(worker, tmp_path):
    with pytest.raises(ValueError, match="choose batch_size"):
        worker.run(worker.module(), worker.data(batch_size=7), tmp_path)
    with pytest.raises(ValueError, match="updates_per_epoch: expected a divisor of the 3 batches"):
        worker.run(worker.module(updates_per_epoch=2), worker.data(), tmp_path)


def test_a_group_may_be_larger_than_a_batch(worker, tmp_path):
    rows = worker.run(worker.module(), worker.data(batch_size=4, groups=2, group_size=10), tmp_path, epochs=1)
    assert rows[0]["group_size"] == 10


def test_wrong_use_is_refused(worker, tmp_path):
    import diffusers
    from torch.utils.data import DataLoader

    from geneval_reward.train import FlowPolicy

    with pytest.raises(ValueError, match="expected a DistributedKRepeatSampler"):
        worker.trainer(tmp_path, 1).fit(worker.module(), DataLoader([1, 2]))
    with pytest.raises(ValueError, match="reward: expected lite"):
        worker.run(worker.module(reward="heavy"), worker.data(), tmp_path)
    with pytest.raises(ValueError, match="to define tiny_sd4"):
        FlowPolicy("geneval_reward.train.tiny:tiny_sd4")
    with pytest.raises(ValueError, match="resolution: expected a multiple"):
        worker.module(resolution=33)
    pipeline = worker.module().policy.pipeline
    pipeline.scheduler = diffusers.DDIMScheduler()
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler"):
        FlowPolicy(pipeline)
    with pytest.raises(ValueError, match="role: expected"), worker.module(kl_weight=0.0).weights.role("reference"):
        pass


def test_generate_uses_the_average_and_gives_weights_back(worker, tmp_path):
    module = worker.module(eval_steps=3)
    worker.run(module, worker.data(), tmp_path)
    before = weights_of(module)
    images = module.generate(["a", "b"], [1, 2])
    alone = module.generate(["b"], [2])
    assert [tuple(image.shape) for image in images] == [(3, 32, 32)] * 2
    assert int((images[1].int() - alone[0].int()).abs().max()) <= 1
    for name, tensor in weights_of(module).items():
        assert torch.equal(tensor, before[name])


def test_command_line(worker, recipe, tmp_path, monkeypatch):
    """The recipe file as it is launched, with a configuration."""
    monkeypatch.setattr(sys, "argv", ["diffusion_nft.py"])
    config = tmp_path / "config.yaml"
    config.write_text(
        f"""
trainer:
  max_epochs: 1
  accelerator: cpu
  default_root_dir: {tmp_path}
  logger: false
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    - class_path: geneval_reward.train.cli.EpochCheckpoint
      init_args: {{dirpath: {tmp_path}}}
model:
  policy: {{pipeline: geneval_reward.train.tiny:tiny_sd3}}
  reward: recipes_worker:redness
  lora_rank: 2
  num_steps: 2
data: {{prompts: 8, groups: 2, group_size: 4, batch_size: 4, seed: 3}}
"""
    )
    cli = recipe("diffusion_nft").main(["fit", "--config", str(config)])
    assert cli.trainer.current_epoch == 1
    assert (tmp_path / "last.ckpt").is_file()


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "configs").glob("nft_*.yaml")) + sorted((ROOT / "configs").glob("flow_grpo_*.yaml")),
    ids=lambda p: p.stem,
)
def test_configurations_parse_and_open_with_their_launch_line(path):
    from lightning.pytorch.cli import LightningArgumentParser

    from geneval_reward.train import PromptGroups, load_recipe

    text = path.read_text()
    name = "diffusion_nft" if path.stem.startswith("nft") else "flow_grpo"
    head = text.split("\n\n")[0]
    assert head.startswith("# ")
    assert f"recipes/{name}.py fit --config configs/{path.name}" in head
    parser = LightningArgumentParser()
    recipe = load_recipe(name)
    parser.add_lightning_class_args(recipe.DiffusionNFT if name == "diffusion_nft" else recipe.FlowGRPO, "model")
    parser.add_lightning_class_args(PromptGroups, "data")
    import yaml

    wanted = yaml.safe_load(text)
    from geneval_reward.rl import check_split

    parsed = parser.parse_object({"model": wanted["model"], "data": wanted["data"]})
    check_split(
        parsed.data.groups, parsed.data.group_size, parsed.data.batch_size, int(wanted["trainer"].get("devices", 1))
    )


@pytest.mark.parametrize(("method", "path"), [("nft", "nft_pocket"), ("flow-grpo", "flow_grpo_pocket")])
def test_the_demo_trains_as_the_pocket_configurations_say(method, path):
    import yaml

    from geneval_reward.demo.training import settings_for

    config = yaml.safe_load((ROOT / "configs" / f"{path}.yaml").read_text())
    settings = settings_for(method)
    assert settings.module.items() <= config["model"].items()
    assert (settings.groups, settings.group_size) == (config["data"]["groups"], config["data"]["group_size"])
    assert config["data"]["batch_size"] * 2 == settings.groups * settings.group_size
    callbacks = {item["class_path"].rpartition(".")[2]: item["init_args"] for item in config["trainer"]["callbacks"]}
    assert callbacks["GenEvalCallback"]["every_n_epochs"] == settings.check_every
    assert callbacks["AuditCallback"]["every_n_epochs"] == settings.audit_every


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_one_and_two_processes_have_equal_losses(worker, two_processes, assert_rows_equal, tmp_path):
    out = tmp_path / "losses.json"
    with two_processes(out):
        singles = {f"{m}-{f}": worker.run(worker.module(m, f), worker.data(), tmp_path) for m, f in worker.CASES}
    pairs = json.loads(out.read_text())
    assert set(pairs) == set(singles)
    for case, rows in singles.items():
        assert_rows_equal(rows, pairs[case], case)


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_kill_in_the_middle_of_a_step_loses_that_step_alone(worker, tmp_path):
    script = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
import worker
from geneval_reward.train.cli import EpochCheckpoint
from pathlib import Path
calls = 0
def reward(images, prompts, metadata):
    global calls
    calls += 1
    if calls == 3 * 3 + 2:  # the second batch of the fourth epoch
        Path({str(tmp_path)!r}, "reached").touch()
        import time
        time.sleep(600)
    return worker.redness(images, prompts, metadata)
worker.run(worker.module(reward=reward), worker.data(), {str(tmp_path)!r}, epochs=6,
           callbacks=[EpochCheckpoint({str(tmp_path)!r})], enable_checkpointing=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # as many as this process has: sums depend on it in their last bits
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 600
    try:
        while not (tmp_path / "reached").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    resumed = worker.module()
    from geneval_reward.train.cli import EpochCheckpoint

    rows = worker.run(
        resumed,
        worker.data(),
        tmp_path,
        epochs=6,
        ckpt_path=tmp_path / "last.ckpt",
        callbacks=[EpochCheckpoint(str(tmp_path))],
        enable_checkpointing=True,
    )
    assert [row["epoch_number"] for row in rows] == [3, 4, 5]
    whole = worker.module()
    worker.run(whole, worker.data(), tmp_path, epochs=6)
    for name, tensor in weights_of(whole).items():
        assert torch.equal(tensor, resumed.weights.trained()[name])


def test_callback_scores_the_policy_and_changes_nothing(worker, tmp_path):
    from geneval_reward.callback import GenEvalCallback
    from geneval_reward.prompts import official_suite
    from geneval_reward.testing import FakeDetector, scorer_for

    callback = GenEvalCallback(
        scorer_for(FakeDetector({"bench": [[1, 1, 9, 9, 0.9]]})),
        prompts=list(official_suite()[:2]),
        every_n_epochs=1,
        sample_kwargs={"num_inference_steps": 2},
    )
    plain, watched = worker.module(), worker.module()
    worker.run(plain, worker.data(), tmp_path)
    worker.run(watched, worker.data(), tmp_path, callbacks=[callback])
    assert callback.last_metrics["geneval/overall"] == 0.5
    for name, tensor in weights_of(plain).items():
        assert torch.equal(tensor, watched.weights.trained()[name])
