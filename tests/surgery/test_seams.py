import pytest
import torch
from torch import nn

from geneval_reward.errors import UsageError
from geneval_reward.surgery.seams import Bypass, find_blocks, find_seams, run_once
from tests.surgery.tiny import FAMILIES, settings, tiny

BOTH = ("encoder_hidden_states", "hidden_states")


def blocks(family):
    pipeline = tiny(family)
    return pipeline, find_blocks(pipeline.transformer, lambda: run_once(pipeline, **settings(family)))


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_are_found_by_running(family):
    _, found = blocks(family)
    expected = {
        "flux": [BOTH] * 6,
        "pixart": [("hidden_states",)] * 3,
        "sana": [("hidden_states",)] * 3,
    }.get(family, [BOTH, BOTH, (None, "hidden_states")])
    assert [seam.continues for seam in found.values()] == expected
    lists = ["transformer_blocks", "single_transformer_blocks"] if family == "flux" else ["transformer_blocks"]
    assert list(found) == [f"{name}.{index}" for name in lists for index in range(3)]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_block_can_be_bypassed(family):
    pipeline, found = blocks(family)
    for seam in found.values():
        pipeline.transformer.set_submodule(seam.name, seam.bypass())
    run_once(pipeline, **settings(family))


def test_equal_shapes_are_told_apart_by_scaling():
    class Crossed(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(4)
            self.mix = nn.Linear(4, 4)

        def forward(self, image, text, **kwargs):
            return text + self.mix(self.norm(image)), image + self.mix(self.norm(text)) + kwargs["time"]

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(Crossed() for _ in range(2))

        def forward(self, image, text):
            for block in self.blocks:
                text, image = block(image, text, time=torch.ones(1))
            return image

    model = Model()
    found = find_blocks(model, lambda: model(torch.randn(1, 3, 4), torch.randn(1, 3, 4)))
    assert [seam.continues for seam in found.values()] == [("text", "image")] * 2


def test_a_zero_branch_and_an_identity():
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer)
    seam = find_seams(model, ["0"], lambda: model(torch.ones(2, 4)))["0"]
    assert torch.equal(seam.bypass("zero")(torch.ones(3, 4)), torch.zeros(3, 4))
    assert torch.equal(seam.bypass("identity")(input=torch.ones(3, 4)), torch.ones(3, 4))


def test_what_cannot_be_bypassed_is_refused():
    model = nn.Sequential(nn.Linear(4, 3))
    seam = find_seams(model, ["0"], lambda: model(torch.ones(2, 4)))["0"]
    with pytest.raises(UsageError, match="continues none"):
        Bypass(seam)
    with pytest.raises(UsageError, match="whose blocks stand in a list"):
        find_blocks(model, lambda: model(torch.ones(2, 4)))
