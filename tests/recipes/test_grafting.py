import json
import warnings

import pytest
import torch
from lightning.pytorch import Trainer
from safetensors.torch import load_file

from geneval_reward.errors import UsageError
from geneval_reward.surgery import BlockPlan, fingerprint, load_plan, plan_graft
from geneval_reward.surgery.seams import run_once
from geneval_reward.surgery.sizes import count_operations
from geneval_reward.train import Captions, FlowPolicy
from geneval_reward.train.recipes import load_recipe
from tests.surgery.tiny import tiny


@pytest.fixture(scope="module")
def graft():
    return load_recipe("grafting")


def captions(family):
    return Captions("pocket" if family == "pocket" else ["a photo of a bench"], batch_size=4)


def fit(module, data, steps=1):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(
            max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, gradient_clip_val=10.0,
        )  # fmt: skip
        trainer.fit(module, data)
    return trainer.callback_metrics


@pytest.mark.parametrize("family", ["sd3", "flux", "pocket"])
def test_both_stages(graft, family, tmp_path):
    pipeline = tiny(family)
    plan = plan_graft(pipeline, "ff", "mlp", options={"ratio": 0.5})
    module = graft.Grafting(FlowPolicy(pipeline), plan=plan, learning_rate=1e-2, out=str(tmp_path))
    before = module.measure_errors(captions(family))
    fit(module, captions(family), steps=20)
    assert set(module.errors) == set(plan.units)
    assert all(module.errors[unit] < before[unit] for unit in plan.units)
    assert json.loads((tmp_path / "errors.json").read_text()) == module.errors
    assert load_plan(tmp_path / "plan.json") == plan
    written = load_file(tmp_path / "operators.safetensors")
    assert {name.rsplit(".net", 1)[0] for name in written} == set(plan.units)

    tuned = tiny(family)
    second = graft.Grafting(
        FlowPolicy(tuned),
        stage="tune",
        plan=plan,
        weights=str(tmp_path / "operators.safetensors"),
        learning_rate=1e-3,
        warmup=2,
    )
    state = {name: tensor.clone() for name, tensor in tuned.transformer.state_dict().items()}
    assert all(torch.equal(state[name], tensor) for name, tensor in written.items())
    assert "task" in fit(second, captions(family), steps=2)
    moved = {name for name, tensor in tuned.transformer.state_dict().items() if not torch.equal(tensor, state[name])}
    assert any(name in written for name in moved)
    assert any(name not in written for name in moved)


def test_the_dense_model_is_not_changed_by_stage_1(graft):
    pipeline = tiny("pocket")
    before = {name: tensor.clone() for name, tensor in pipeline.transformer.state_dict().items()}
    module = graft.Grafting(FlowPolicy(pipeline), plan=plan_graft(pipeline, "attn", "renew", layers=(1,)))
    fit(module, captions("pocket"), steps=2)
    after = pipeline.transformer.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all(name.startswith("transformer_blocks.1.attn.") for name in moved)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.dense[0].state_dict().items())


def test_operators_are_regressed_on_the_dense_models_activations_not_on_one_anothers(graft):
    """One unit's loss is the same whether other units are grafted beside it."""
    pipeline = tiny("pocket")

    def loss(layers):
        torch.manual_seed(0)
        module = graft.Grafting(
            FlowPolicy(tiny("pocket")), plan=plan_graft(pipeline, "attn", "linear_attention", layers=layers)
        )
        return fit(module, captions("pocket"))["transformer_blocks.2.attn"]

    assert loss((2,)) == loss((0, 1, 2))


def test_errors_are_relative_to_leaving_the_part_out(graft):
    pipeline = tiny("pocket")
    for unit, operator in (("ff", "renew"), ("pair", "parallel")):
        plan = plan_graft(pipeline, unit, operator)
        policy = FlowPolicy(tiny("pocket"))
        module = graft.Grafting(policy, plan=plan)
        for operator in module.trained.children():
            linear = operator.merges if unit == "pair" else [operator.net[-1]]
            for layer in linear:
                torch.nn.init.zeros_(layer.weight)
                torch.nn.init.zeros_(layer.bias)
        assert list(module.measure_errors(captions("pocket")).values()) == pytest.approx([1.0] * len(plan.units))


def test_a_pair_is_regressed_from_its_first_input_to_its_last_output(graft):
    pipeline = tiny("sd3")
    plan = plan_graft(pipeline, "pair", "parallel")
    module = graft.Grafting(FlowPolicy(pipeline), plan=plan, learning_rate=1e-2)
    for merge in module.trained[0].merges:
        torch.nn.init.zeros_(merge.weight)
    fit(module, captions("sd3"), steps=20)
    assert module.errors[plan.units[0]] < 0.9


def test_controls_of_stage_2(graft):
    pipeline = tiny("pocket")
    cut = BlockPlan(part="transformer", model=fingerprint(pipeline.transformer), removed=("transformer_blocks.1.ff",))
    for plan in (None, cut):
        module = graft.Grafting(FlowPolicy(tiny("pocket")), stage="tune", plan=plan, teacher_weight=1.0)
        metrics = fit(module, captions("pocket"))
        assert (metrics["teacher"] == 0) == (plan is None)


def test_flops_fall_with_the_width_of_the_mlp():
    pipeline = tiny("pocket")
    dense = count_operations(pipeline, lambda: run_once(pipeline))["transformer"]
    with plan_graft(pipeline, "ff", "mlp", options={"ratio": 0.5}).apply(pipeline):
        # Two linear layers of 96 x 384 at four image tokens, in three blocks, lose half.
        assert (
            dense - count_operations(pipeline, lambda: run_once(pipeline))["transformer"]
            == 3 * 2 * 2 * 4 * 96 * 384 // 2
        )


def test_bad_input(graft, tmp_path):
    pipeline = tiny("pocket")
    with pytest.raises(UsageError, match="plan: expected a GraftPlan"):
        graft.Grafting(FlowPolicy(pipeline))
    plan = plan_graft(pipeline, "ff", "mlp")
    module = graft.Grafting(FlowPolicy(pipeline), plan=plan, out=str(tmp_path))
    fit(module, captions("pocket"))
    other = tiny("pocket")
    attention = plan_graft(other, "attn", "linear_attention")
    with pytest.raises(UsageError, match="weights: expected operators of this plan"):
        graft.Grafting(FlowPolicy(other), stage="tune", plan=attention, weights=str(tmp_path / "operators.safetensors"))


def test_the_command_plans(graft, tmp_path, capsys):
    errors = tmp_path / "errors.json"
    errors.write_text(json.dumps({f"transformer_blocks.{index}.ff": index / 10 for index in range(8)}))
    words = ["plan", "--options", '{"ratio": 0.5}', "--errors", str(errors), "--out", str(tmp_path / "plan.json")]
    graft.main([*words, "--layers", "top:2"])
    assert load_plan(tmp_path / "plan.json").units == ("transformer_blocks.0.ff", "transformer_blocks.1.ff")
    graft.main([*words, "--layers", "1,3"])
    assert load_plan(tmp_path / "plan.json").units == ("transformer_blocks.1.ff", "transformer_blocks.3.ff")
    assert "mlp in" in capsys.readouterr().out
