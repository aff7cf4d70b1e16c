import copy

import pytest
import torch

from geneval_reward.errors import UsageError
from geneval_reward.surgery import GraftPlan, fingerprint, graft_units, load_plan, plan_graft, recorded_calls, save_plan
from geneval_reward.surgery.seams import run_once
from tests.surgery.tiny import FAMILIES, tiny


def velocity(pipeline):
    seen = []
    hook = pipeline.transformer.register_forward_hook(lambda module, args, output: seen.append(output[0].clone()))
    run_once(pipeline)
    hook.remove()
    return seen[0]


def attention_of(family):
    return "attn1" if family in ("pixart", "sana") else "attn"


@pytest.mark.parametrize("family", FAMILIES)
def test_units_and_layers(family):
    pipeline = tiny(family)
    ff = graft_units(pipeline, "ff")
    assert ff == [f"transformer_blocks.{index}.ff" for index in range(3)]
    pairs = graft_units(pipeline, "pair")
    assert pairs[0] == "transformer_blocks.0+transformer_blocks.1"
    assert len(pairs) == (2 if family == "flux" else 1)  # never across lists
    assert plan_graft(pipeline, "ff", "mlp", layers="interleaved").units == (ff[1],)
    errors = dict(zip(ff, (0.3, 0.1, 0.2), strict=True))
    assert plan_graft(pipeline, "ff", "mlp", layers="top:2", errors=errors).units == (ff[1], ff[2])
    assert plan_graft(pipeline, "ff", "mlp", layers=(2, 0)).units == (ff[2], ff[0])
    assert plan_graft(pipeline, "ff", "mlp").loss == "l2"
    assert plan_graft(pipeline, attention_of(family), "renew").loss == "l1"


CASES = [
    ("ff", "mlp", {"ratio": 0.5}),
    ("ff", "renew", {}),
    ("attn", "renew", {}),
    ("attn", "window_attention", {"radius": 1}),
    ("attn", "linear_attention", {}),
    ("pair", "parallel", {}),
]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_operator_goes_in_trains_and_comes_out(family):
    pipeline = tiny(family)
    model = pipeline.transformer
    whole, modules = velocity(pipeline), list(model.modules())
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for unit, operator, options in CASES:
        unit = attention_of(family) if unit == "attn" else unit
        plan = plan_graft(pipeline, unit, operator, options=options)
        if family == "sana" and operator in ("mlp", "window_attention", "linear_attention"):
            with pytest.raises(UsageError, match=r"two linear layers|no place for another product"):
                plan.apply(pipeline)
            continue
        with plan.apply(pipeline) as applied:
            assert (applied.removed_bytes > 0) == (operator == "mlp")
            grafted = velocity(pipeline)
            assert grafted.isfinite().all()
            if (family, operator) != ("pocket", "window_attention"):  # four image tokens are all neighbours
                assert not torch.equal(grafted, whole), operator
            new = model.get_submodule(plan.units[0].split("+")[0])
            with torch.no_grad():
                for weight in new.parameters():
                    weight.add_(0.1)
            assert not torch.equal(velocity(pipeline), grafted)
    assert list(model.modules()) == modules
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(velocity(pipeline), whole)


@pytest.mark.parametrize("family", ["sd3", "sd35", "flux", "pixart", "pocket"])
def test_a_window_over_everything_is_the_attention_itself(family):
    """Where the image stands among the tokens is found by running, also in FLUX's single blocks."""
    pipeline = tiny(family)
    whole = velocity(pipeline)
    unit = attention_of(family)
    with plan_graft(pipeline, unit, "window_attention", options={"radius": 99}).apply(pipeline):
        assert torch.allclose(velocity(pipeline), whole, atol=1e-5)
    if family != "pocket":
        with plan_graft(pipeline, unit, "window_attention", options={"radius": 0}).apply(pipeline):
            assert not torch.allclose(velocity(pipeline), whole, atol=1e-3)


@pytest.mark.parametrize("family", ["sd3", "flux"])
@pytest.mark.parametrize("operator", ["window_attention", "linear_attention"])
def test_far_image_tokens_reach_one_another_by_the_kernel_alone_and_text_is_always_seen(family, operator):
    pipeline = tiny(family)
    model = pipeline.transformer
    options = {"radius": 1} if operator == "window_attention" else {}
    with plan_graft(pipeline, "attn", operator, options=options).apply(pipeline):
        attention = model.transformer_blocks[0].attn
        with recorded_calls({"attn": attention}) as calls:
            run_once(pipeline)
        call = calls["attn"]
        image, text = call.kwargs["hidden_states"], call.kwargs["encoder_hidden_states"]
        assert (attention.first, attention.behind) == ((text.shape[1], 0) if family == "flux" else (0, text.shape[1]))

        def run(**changed):
            with torch.no_grad():
                return attention(**(dict(call.kwargs) | changed))

        far = image.clone()
        far[:, -1] += 1
        moved = (run(hidden_states=far)[0] - run()[0]).abs().sum((0, 2))
        assert moved[-1] > 0
        assert (moved[0] > 1e-6) == (operator == "linear_attention")
        other = text.clone()
        other[:, 0] += 1
        assert ((run(encoder_hidden_states=other)[0] - run()[0]).abs().sum((0, 2)) > 0).all()
        with pytest.raises(UsageError, match=r"expected \d+ text tokens, as when the plan was applied"):
            run(encoder_hidden_states=text[:, :-1])


def test_linear_attention_is_the_sum_of_kernel_and_softmax():
    pipeline = tiny("sd3")
    with plan_graft(pipeline, "attn", "linear_attention", layers=(0,)).apply(pipeline):
        operator = pipeline.transformer.transformer_blocks[0].attn
        query, key, value = torch.randn(3, 1, 4, 7, 8)
        with torch.no_grad():
            operator.log_weight.copy_(torch.randn_like(operator.log_weight))
            found = operator.kernel(query, key, value, slice(2, 7), 0.5)
            weights = (query @ key.mT * 0.5).exp()
            f = [torch.nn.functional.elu(part[:, :, 2:7]) + 1 for part in (query, key)]
            weights[:, :, 2:7, 2:7] = operator.log_weight.exp() * (f[0] @ f[1].mT)
            assert torch.allclose(found, weights / weights.sum(-1, keepdim=True) @ value, atol=1e-5)


def test_a_parallel_pair_starts_as_the_sum_of_both_changes():
    pipeline = tiny("sd3")
    with plan_graft(pipeline, "pair", "parallel").apply(pipeline):
        pair = pipeline.transformer.transformer_blocks[0]
        given = {"hidden_states": torch.randn(1, 5, 32), "encoder_hidden_states": torch.randn(1, 4, 32)}
        arguments = given | {"temb": torch.randn(1, 32)}
        with torch.no_grad():
            text, image = pair(**arguments)
            (text_a, image_a), (text_b, image_b) = (block(**arguments) for block in pair.blocks)
    assert torch.allclose(image, image_a + image_b - given["hidden_states"], atol=1e-5)
    assert torch.allclose(text, text_a + text_b - given["encoder_hidden_states"], atol=1e-5)


def test_a_narrow_mlp_keeps_its_form():
    pipeline = tiny("pixart")
    with plan_graft(pipeline, "ff", "mlp", options={"ratio": 0.25}).apply(pipeline):
        up, down = [
            m for m in pipeline.transformer.transformer_blocks[1].ff.modules() if isinstance(m, torch.nn.Linear)
        ]
    assert (up.in_features, up.out_features, down.in_features, down.out_features) == (16, 16, 16, 16)


def twice(place, factor=2.0):
    """An operator of somebody's own."""
    return copy.deepcopy(place.seam.module).requires_grad_(True)


def test_an_operator_of_ones_own_is_one_function(tmp_path):
    pipeline = tiny("pocket")
    plan = plan_graft(pipeline, "ff", "tests.surgery.test_grafts:twice", layers=(1,), options={"factor": 3.0})
    with plan.apply(pipeline):
        assert pipeline.transformer.transformer_blocks[1].ff is not None
    save_plan(plan, tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json") == plan


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"units": ("transformer_blocks.9.ff",)}, "got transformer_blocks.9.ff, which it does not have"),
        ({"units": ("transformer_blocks.0.ff",), "operator": "cake"}, "operator: expected one of renew, mlp"),
        ({"units": ("transformer_blocks.0.ff",), "loss": "l3"}, "loss: expected l1, l2 or huber"),
        ({"units": ("transformer_blocks.0.ff", "transformer_blocks.0.ff")}, "every module once"),
        ({"units": ("transformer_blocks.0.attn",)}, "two linear layers"),
        ({"units": ("transformer_blocks.0.ff", "transformer_blocks.1.attn")}, "two linear layers"),
        ({"units": ("transformer_blocks.0.ff",), "operator": "window_attention"}, "no place for another product"),
        ({"units": ("transformer_blocks.0",), "operator": "parallel"}, "expected a pair of blocks"),
        ({"units": ("transformer_blocks.0.ff",), "options": {"ratio": 0.0}}, "at least one hidden unit"),
        ({"units": ("proj_out",)}, "blocks or parts of blocks"),
    ],
)
def test_bad_plans_are_one_sentence_and_change_nothing(fields, message):
    pipeline = tiny("pocket")
    modules = list(pipeline.transformer.modules())
    with pytest.raises(UsageError, match=message):
        GraftPlan(part="transformer", model=fingerprint(pipeline.transformer), **({"operator": "mlp"} | fields)).apply(
            pipeline
        )
    assert list(pipeline.transformer.modules()) == modules


@pytest.mark.parametrize(
    ("unit", "layers", "message"),
    [
        ("fff", "all", "unit: expected pair or one of .*ff_context.*, got 'fff'"),
        ("ff", "some", "layers: expected all, interleaved, top:N or indices"),
        ("ff", "top:2", "errors: expected a held-out error of each"),
        ("ff", (7,), "layers: expected indices from 0 to 2, got 7"),
    ],
)
def test_bad_layers_are_refused(unit, layers, message):
    with pytest.raises(UsageError, match=message):
        plan_graft(tiny("pocket"), unit, "mlp", layers=layers)
