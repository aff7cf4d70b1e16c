import json
import warnings

import pytest
import torch
from lightning.pytorch import Trainer

from geneval_reward.errors import UsageError
from geneval_reward.pocket import pocket_suite
from geneval_reward.pocket.build import build_pipeline
from geneval_reward.surgery import BlockPlan, fingerprint, load_plan, removable
from geneval_reward.surgery.scores import FixedNoise
from geneval_reward.train import Captions, FlowPolicy
from tests.surgery.tiny import tiny


@pytest.fixture(scope="module")
def prune(recipe):
    return recipe("hierarchical_prune")


@pytest.fixture(scope="session")
def recipe():
    from geneval_reward.train.recipes import load_recipe

    return load_recipe


def unit(prune, name, dp, *, block=None, place=0, parameters=10, how="zero", half=0.05):
    return prune.Contribution(name, block, how, place, parameters, dp, dp - half, dp + half)


def blocks(prune, *dps):
    return [unit(prune, f"transformer_blocks.{i}", dp, place=i, parameters=334656) for i, dp in enumerate(dps)]


@pytest.fixture(scope="module")
def pocket():
    pipeline = build_pipeline(layers=4)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def fit(module, data, steps=1, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(
            max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, **options,
        )  # fmt: skip
        trainer.fit(module, data)
    return trainer


def test_contributions_are_paired_and_go_on_where_they_stopped(prune, pocket, tmp_path, capsys):
    path, calls = tmp_path / "found.jsonl", []

    class Score(FixedNoise):
        def __call__(self, pipeline):
            calls.append(1)
            return super().__call__(pipeline)

    score = Score(pocket_suite()[::4], "truth", num_inference_steps=1)
    found = prune.measure_contributions(pocket, score, path, hows=("zero", "identity"))
    units = removable(pocket)
    assert len(calls) == 1 + sum(len(unit.hows) for unit in units.values())
    assert len(found) == len(calls) - 1
    assert [one.dp for one in found] == sorted(one.dp for one in found)
    assert all(one.low <= one.dp <= one.high and one.low < one.high for one in found)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-3]) + "\n")
    assert prune.measure_contributions(pocket, score, path, hows=("zero", "identity")) == found
    assert len(calls) == len(lines) + 3
    capsys.readouterr()


def test_the_cut_takes_the_cheapest_that_fit(prune, pocket):
    total = sum(weight.numel() for weight in pocket.transformer.parameters())
    found = blocks(prune, 0.3, -0.02, 0.1, 0.05)
    plan = prune.choose_cut(pocket, found, 2 * 334656 / total + 1e-6)
    assert plan.removed == ("transformer_blocks.1", "transformer_blocks.3")
    assert plan.frozen_before == "transformer_blocks.1"
    assert plan.rates == {"transformer_blocks.2": 0.5}  # floor .05 of the half-widths, dP .1
    absolute = prune.choose_cut(pocket, blocks(prune, 0.3, -0.2, 0.1, 0.05), 0.27, order="absolute")
    assert absolute.removed == ("transformer_blocks.3",)
    with pytest.raises(
        UsageError, match=r"budget: expected at least 0\.\d+, the share of the smallest unit of blocks, got 0.01"
    ):
        prune.choose_cut(pocket, found, 0.01)
    with pytest.raises(UsageError, match=r"budget: expected a share of the weights in \(0, 1\), got 1"):
        prune.choose_cut(pocket, found, 1.0)


def test_the_published_position_factor_takes_out_early_blocks_and_the_other_late_ones(prune, pocket):
    equal = blocks(prune, 0.1, 0.1, 0.1, 0.1)
    cut = {
        position: prune.choose_cut(pocket, equal, 0.27, position=position, order="absolute")
        for position in ("published", "late_first")
    }
    assert cut["late_first"].removed == ("transformer_blocks.3",)
    with pytest.raises(UsageError, match="position: expected order absolute with late_first, got signed"):
        prune.choose_cut(pocket, equal, 0.27, position="late_first")
    # -|dP| e^((i-n)/n), highest first: the score of an early block is higher.
    scores = [-0.1 * prune.position_factor(i, 4, "published") for i in range(4)]
    assert max(range(4), key=lambda i: scores[i]) == 0
    assert cut["published"].removed == ("transformer_blocks.0",)


def test_blocks_first_then_parts_of_those_that_stay(prune, pocket):
    total = sum(weight.numel() for weight in pocket.transformer.parameters())
    found = blocks(prune, 0.4, 0.3, 0.2, 0.1)
    found += [
        unit(
            prune,
            f"transformer_blocks.{i}.ff",
            0.01 * (4 - i),
            block=f"transformer_blocks.{i}",
            place=i,
            parameters=74208,
        )
        for i in range(4)
    ]
    plan = prune.choose_cut(pocket, found, (334656 + 74208) / total + 1e-6, units="both")
    assert plan.removed == ("transformer_blocks.2.ff", "transformer_blocks.3")
    parts = prune.choose_cut(pocket, found, 2 * 74208 / total + 1e-6, units="parts")
    assert parts.removed == ("transformer_blocks.2.ff", "transformer_blocks.3.ff")


def test_rates_fall_with_what_a_block_contributes_and_never_exceed_one(prune):
    rates = prune.block_rates(blocks(prune, 0.5, 0.1, 0.02, -0.3))
    assert list(rates.values()) == [0.1, 0.5, 1.0, 1.0]


@pytest.mark.parametrize("family", ["sd3", "flux", "pocket"])
def test_distillation_trains_what_comes_after_the_cut_towards_the_whole_model(prune, family, tmp_path):
    pipeline = tiny(family)
    first = "transformer_blocks.1"
    plan = BlockPlan(part="transformer", model=fingerprint(pipeline.transformer), removed=(first,), frozen_before=first)
    before = {name: tensor.clone() for name, tensor in pipeline.transformer.state_dict().items()}
    module = prune.Distillation(FlowPolicy(pipeline), plan=plan, learning_rate=3e-4, out=str(tmp_path))
    assert "transformer_blocks.0" not in module.blocks
    assert first not in module.blocks
    data = Captions("pocket" if family == "pocket" else ["a photo of a bench"], batch_size=4)
    one = data.batch(0)
    data.batch = lambda step, rank: one
    first_loss = fit(module, data).callback_metrics["output"]
    last_loss = fit(module, data, steps=15).callback_metrics["output"]
    assert 0 < last_loss < first_loss
    after = pipeline.transformer.state_dict()
    frozen = [name for name in after if name.startswith(("transformer_blocks.0.", "pos_embed", "time_text_embed"))]
    assert frozen
    assert all(torch.equal(after[name], before[name]) for name in frozen)
    assert any(not torch.equal(after[name], before[name]) for name in after if name.startswith("transformer_blocks.2."))
    assert load_plan(tmp_path / "plan.json") == plan
    fresh = tiny(family)
    plan.apply(fresh)
    from safetensors.torch import load_file

    fresh.transformer.load_state_dict(load_file(tmp_path / "transformer.safetensors"))


def test_the_losses_of_a_model_that_is_whole_are_zero(prune):
    module = prune.Distillation(FlowPolicy(tiny("pocket")), plan=None)
    metrics = fit(module, Captions(batch_size=4)).callback_metrics
    assert metrics["output"] == metrics["feature"] == 0
    assert metrics["task"] > 0


def test_learning_rates_of_blocks_reach_the_optimizer(prune):
    pipeline = tiny("pocket")
    plan = BlockPlan(
        part="transformer",
        model=fingerprint(pipeline.transformer),
        removed=("transformer_blocks.0",),
        rates={"transformer_blocks.1": 0.1},
    )
    groups = prune.Distillation(FlowPolicy(pipeline), plan=plan, learning_rate=1e-3).configure_optimizers().param_groups
    assert {group["name"]: group["lr"] for group in groups} == {"": 1e-3, "transformer_blocks.1": 1e-4}


def test_a_resumed_run_ends_as_one_that_was_not_stopped(prune, tmp_path):
    def make():
        pipeline = tiny("pocket")
        plan = BlockPlan(part="transformer", model=fingerprint(pipeline.transformer), removed=("transformer_blocks.1",))
        return prune.Distillation(FlowPolicy(pipeline), plan=plan, learning_rate=1e-3)

    whole = make()
    fit(whole, Captions(batch_size=2), steps=4)
    half = make()
    fit(half, Captions(batch_size=2), steps=2).save_checkpoint(tmp_path / "half.ckpt")
    rest = make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(
            max_steps=4,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(rest, Captions(batch_size=2), ckpt_path=tmp_path / "half.ckpt", weights_only=False)
    for name, tensor in whole.student.state_dict().items():
        assert torch.equal(tensor, rest.student.state_dict()[name]), name
    other = prune.Distillation(FlowPolicy(tiny("pocket")), plan=None)
    with pytest.raises(UsageError, match="checkpoint: expected one of the same plan"):
        other.on_load_checkpoint(torch.load(tmp_path / "half.ckpt", weights_only=False))


def test_calibration_prompts_are_not_the_suites(prune):
    specs = prune.calibration_prompts("pocket", 50)
    assert len(specs) == 50
    assert not {spec.prompt for spec in specs} & {spec.prompt for spec in pocket_suite()}


def test_the_commands_rank_and_choose(prune, tmp_path, capsys):
    found, plan = str(tmp_path / "found.jsonl"), str(tmp_path / "plan.json")
    small = ["--prompts", "10", "--steps", "1"]
    prune.main(["rank", "--out", found, *small])
    assert "dP" in capsys.readouterr().out
    prune.main(["choose", found, "--budget", "0.3", "--out", plan, *small])
    assert len(load_plan(plan).removed) == 2
    more = ["--prompts", "15", "--steps", "1"]
    lines = len((tmp_path / "found.jsonl").read_text().splitlines())
    prune.main(["rank", "--out", found, *more])  # other prompts: nothing is taken over
    assert len((tmp_path / "found.jsonl").read_text().splitlines()) == 2 * lines
    assert len(json.loads((tmp_path / "found.jsonl").read_text().splitlines()[-1])["scores"]) == 15
    assert load_plan(plan).chosen_by.endswith("truth of 10 training prompts, 1 steps")
