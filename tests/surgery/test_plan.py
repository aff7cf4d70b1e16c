import json
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from geneval_reward.errors import FileError, UsageError
from geneval_reward.pocket import load_pipeline
from geneval_reward.surgery import Plan, fingerprint, load_plan, save_plan, stored_bytes


@dataclass(frozen=True, kw_only=True)
class Silence(Plan, kind="test-silence"):
    """Replaces modules by nothing."""

    names: tuple[str, ...] = ()

    def change(self, pipeline, model, swaps):
        for name in self.names:
            swaps.module(name, nn.Identity())


@pytest.fixture
def pipeline():
    return load_pipeline()


def silence(pipeline, *names):
    return Silence(part="transformer", model=fingerprint(pipeline.transformer), names=names)


def image(pipeline):
    return pipeline(
        "a photo of a red clock",
        num_inference_steps=2,
        output_type="latent",
        generator=torch.Generator().manual_seed(0),
    ).images


def test_apply_and_undo_restore_the_model_bit_for_bit(pipeline):
    before, state, modules = (
        image(pipeline),
        dict(pipeline.transformer.state_dict()),
        list(pipeline.transformer.modules()),
    )
    applied = silence(pipeline, "transformer_blocks.1.ff", "transformer_blocks.2.ff").apply(pipeline)
    assert applied.removed_bytes == 2 * 4 * (96 * 384 * 2 + 384 + 96)
    assert not torch.equal(image(pipeline), before)
    applied.undo()
    applied.undo()
    assert torch.equal(image(pipeline), before)
    after = pipeline.transformer.state_dict()
    assert list(after) == list(state)
    assert all(after[name].data_ptr() == state[name].data_ptr() for name in state)
    assert [id(module) for module in pipeline.transformer.modules()] == [id(module) for module in modules]


def test_nothing_is_half_applied(pipeline):
    modules = list(pipeline.transformer.modules())
    with pytest.raises(UsageError, match=r"transformer_blocks\.99\.ff"):
        silence(pipeline, "transformer_blocks.1.ff", "transformer_blocks.99.ff").apply(pipeline)
    assert list(pipeline.transformer.modules()) == modules


def test_another_model_is_refused(pipeline):
    other = Silence(part="text_encoder", model=fingerprint(pipeline.transformer), names=("encoder",))
    with pytest.raises(UsageError, match="the model that the plan was made for"):
        other.apply(pipeline)
    with pytest.raises(UsageError, match="expected one of transformer, text_encoder, vae, got 'unet'"):
        Silence(part="unet", model="x").apply(pipeline)


def test_plans_are_undone_in_reverse_order_only(pipeline):
    first = silence(pipeline, "transformer_blocks.1.ff").apply(pipeline)
    second = silence(pipeline, "transformer_blocks.1.ff").apply(pipeline)
    with pytest.raises(UsageError, match="undo first what was applied later"):
        first.undo()
    second.undo()
    first.undo()
    assert isinstance(
        pipeline.transformer.transformer_blocks[1].ff, type(pipeline.transformer.transformer_blocks[0].ff)
    )


def test_the_fingerprint_is_of_the_structure_not_of_the_weights(pipeline):
    before = fingerprint(pipeline.transformer), fingerprint(pipeline.text_encoder)
    pipeline.transformer.half()
    pipeline.text_encoder.half()
    nn.init.zeros_(pipeline.transformer.proj_out.weight)
    assert (fingerprint(pipeline.transformer), fingerprint(pipeline.text_encoder)) == before
    assert fingerprint(nn.Linear(2, 3)) != fingerprint(nn.Linear(3, 2))


def test_json_makes_an_equal_plan(pipeline, tmp_path):
    plan = silence(pipeline, "a", "b")
    save_plan(plan, tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json") == plan


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "expected a plan with kind"),
        ("{", "expected JSON"),
        ('{"kind": "cake"}', "got kind 'cake'"),
        ('{"kind": "test-silence", "part": "transformer"}', "model: expected a string"),
        ('{"kind": "test-silence", "part": "transformer", "model": "x", "layers": []}', "got 'layers'"),
    ],
)
def test_a_file_that_is_no_plan_is_refused_by_name(text, message, tmp_path):
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(FileError, match=message) as raised:
        load_plan(tmp_path / "plan.json")
    assert str(tmp_path / "plan.json") in str(raised.value)


def test_json_holds_the_kind(pipeline):
    assert json.loads(silence(pipeline).to_json())["kind"] == "test-silence"


def test_stored_bytes_count_shared_storages_once():
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False), nn.BatchNorm1d(8))
    whole = stored_bytes(model)
    model[1].weight = model[0].weight
    assert whole - stored_bytes(model) == 8 * 8 * 4
