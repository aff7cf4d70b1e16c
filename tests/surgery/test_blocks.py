import copy

import pytest
import torch

from geneval_reward.errors import UsageError
from geneval_reward.surgery import fingerprint, load_plan, save_plan
from geneval_reward.surgery.blocks import BlockPlan, Unmodulated, names_before, removable
from geneval_reward.surgery.seams import run_once
from tests.surgery.tiny import FAMILIES, tiny

PARTS = {
    "sd3": {"norm1", "norm1_context", "attn", "ff", "ff_context"},
    "sd35": {"norm1", "norm1_context", "attn", "attn2", "ff", "ff_context"},
    "flux": {"norm1", "norm1_context", "attn", "ff", "ff_context", "norm", "proj_mlp", "proj_out"},
    "pixart": {"attn1", "attn2", "ff"},
    "sana": {"attn1", "attn2", "ff"},
    "pocket": {"norm1", "norm1_context", "attn", "ff", "ff_context"},
}


def plan(pipeline, *removed, **fields):
    return BlockPlan(part="transformer", model=fingerprint(pipeline.transformer), removed=removed, **fields)


def velocity(pipeline):
    seen = []
    hook = pipeline.transformer.register_forward_hook(lambda module, args, output: seen.append(output[0].clone()))
    run_once(pipeline)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_unit_can_be_taken_out_and_put_back(family):
    pipeline = tiny(family, layers=2)
    model = pipeline.transformer
    whole, modules = velocity(pipeline), list(model.modules())
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    units = removable(pipeline)
    assert {name.split(".")[2] for name, unit in units.items() if unit.block} == PARTS[family]
    assert sum(unit.block is None for unit in units.values()) == (4 if family == "flux" else 2)
    for name, unit in units.items():
        for how in ("zero", "identity"):
            if how == "identity" and name.endswith(("proj_mlp", "proj_out")):
                continue
            with plan(pipeline, name, how=how).apply(pipeline) as applied:
                assert applied.removed_bytes == 4 * unit.parameters > 0
                cut = velocity(pipeline)
                assert cut.isfinite().all()
                last_text = family in ("sd3", "sd35", "pocket") and name == "transformer_blocks.1.norm1_context"
                assert not torch.equal(cut, whole) or last_text, name
    assert list(model.modules()) == modules
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(velocity(pipeline), whole)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_any_block_the_streams_pass_unchanged(family):
    pipeline = tiny(family)
    units = removable(pipeline)
    blocks = [name for name, unit in units.items() if unit.block is None]
    with plan(pipeline, *blocks).apply(pipeline):
        first, last = pipeline.transformer.get_submodule(blocks[0]), pipeline.transformer.get_submodule(blocks[-1])
        seen = {}
        first.register_forward_pre_hook(lambda m, args, kwargs: seen.update(came=args, named=kwargs), with_kwargs=True)
        last.register_forward_hook(lambda m, args, output: seen.update(left=output))
        run_once(pipeline)
    came = seen["named"].get("hidden_states", *seen["came"][:1])
    left = seen["left"][-1] if isinstance(seen["left"], tuple) else seen["left"]
    assert torch.equal(came, left)


def test_zero_drops_the_branch_and_identity_hands_its_input_on():
    pipeline = tiny("sd3")
    block = pipeline.transformer.transformer_blocks[0]
    arguments = torch.randn(2, 5, 32), torch.randn(2, 4, 32), torch.randn(2, 32)
    names = [f"transformer_blocks.0.{name}" for name in ("attn", "ff", "ff_context")]
    with torch.no_grad(), plan(pipeline, *names).apply(pipeline):
        text, image = block(*arguments)
    assert torch.equal(image, arguments[0])
    assert torch.equal(text, arguments[1])
    with torch.no_grad(), plan(pipeline, *names, how="identity").apply(pipeline):
        _, image = block(*arguments)
        normed, gate, shift, scale, gate_ff = block.norm1(arguments[0], emb=arguments[2])
        after = arguments[0] + gate[:, None] * normed
        expected = after + gate_ff[:, None] * (block.norm2(after) * (1 + scale[:, None]) + shift[:, None])
    assert torch.allclose(image, expected)


@pytest.mark.parametrize("family", ["sd3", "sd35", "flux"])
def test_a_norm_without_modulation_has_open_gates_and_no_shift(family):
    pipeline = tiny(family)
    with plan(pipeline, "transformer_blocks.0.norm1").apply(pipeline):
        norm = pipeline.transformer.transformer_blocks[0].norm1
        assert isinstance(norm, Unmodulated)
        x = torch.randn(2, 5, 32)
        normed, gate, shift, scale, gate_ff, *more = norm(x, emb=torch.randn(2, 32))
    assert torch.allclose(normed, torch.nn.functional.layer_norm(x, (32,), eps=1e-6))
    assert (gate == 1).all()
    assert (gate_ff == 1).all()
    assert not shift.any()
    assert not scale.any()
    assert len(more) == (2 if family == "sd35" else 0)
    if more:
        assert torch.equal(more[0], normed)
        assert (more[1] == 1).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_what_runs_before_the_first_cut_is_frozen(family):
    pipeline = tiny(family)
    second = "transformer_blocks.1"
    cut = plan(pipeline, second, frozen_before=second, rates={"transformer_blocks.2": 0.25})
    with cut.apply(pipeline):
        groups = cut.optimizer_groups(pipeline, 0.1)
        trained = {name for name, weight in pipeline.transformer.named_parameters() if weight.requires_grad}
        assert {group["name"]: group["lr"] for group in groups} == {"": 0.1, "transformer_blocks.2": 0.025}
        assert sum(len(group["params"]) for group in groups) == len(trained)
        tops = {".".join(name.split(".")[:2]) if "blocks" in name else name.split(".")[0] for name in trained}
        heads = {"norm_out", "proj_out", "scale_shift_table"}
        singles = {f"single_transformer_blocks.{index}" for index in range(3)} if family == "flux" else set()
        assert tops - heads == {"transformer_blocks.2"} | singles
        assert tops & heads
    assert "transformer_blocks.0" in names_before(pipeline, "transformer", second)


def test_a_plan_survives_json(tmp_path):
    pipeline = tiny("pocket")
    cut = plan(
        pipeline,
        "transformer_blocks.1.ff",
        how="identity",
        frozen_before="transformer_blocks.1",
        rates={"transformer_blocks.2": 0.5},
    )
    save_plan(cut, tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json") == cut


def test_a_second_plan_goes_onto_the_first():
    pipeline = tiny("pixart")
    before = list(pipeline.transformer.modules())
    first = plan(pipeline, "transformer_blocks.1").apply(pipeline)
    second = plan(pipeline, "transformer_blocks.2.ff").apply(pipeline)
    assert velocity(pipeline).isfinite().all()
    second.undo()
    first.undo()
    assert list(pipeline.transformer.modules()) == before


@pytest.mark.parametrize(
    ("removed", "fields", "message"),
    [
        (("transformer_blocks.9",), {}, "such as transformer_blocks.0, got transformer_blocks.9"),
        (("transformer_blocks.0.norm2",), {}, "got transformer_blocks.0.norm2"),
        (("transformer_blocks.0", "transformer_blocks.0.ff"), {}, r"removed\[1\]: expected names that do not overlap"),
        (("transformer_blocks.0.ff", "transformer_blocks.0"), {}, r"removed\[1\]: expected names that do not overlap"),
        (("transformer_blocks.0", "transformer_blocks.0"), {}, "do not overlap"),
        ("transformer_blocks.0", {}, "removed: expected names of blocks"),
        ((), {"how": "none"}, "how: expected zero or identity, got 'none'"),
        ((), {"rates": {"transformer_blocks.0": 2.0}}, "expected a share in"),
        ((), {"rates": {"transformer_blocks.8": 1.0}}, "got transformer_blocks.8"),
        ((), {"frozen_before": "transformer_blocks.0.ff"}, "expected blocks of transformer"),
    ],
)
def test_bad_plans_are_one_sentence_and_change_nothing(removed, fields, message):
    pipeline = tiny("pocket")
    modules = list(pipeline.transformer.modules())
    with pytest.raises(UsageError, match=message):
        BlockPlan(part="transformer", model=fingerprint(pipeline.transformer), removed=removed, **fields).apply(
            pipeline
        )
    assert list(pipeline.transformer.modules()) == modules


def test_another_model_is_refused():
    pipeline = tiny("pocket")
    with pytest.raises(UsageError, match="the model that the plan was made for"):
        plan(tiny("sd3"), "transformer_blocks.0").apply(copy.copy(pipeline))
