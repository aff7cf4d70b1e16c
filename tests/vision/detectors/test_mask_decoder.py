import copy

import pytest
import torch

from geneval_reward.vision.detectors.deformable import make_lean
from geneval_reward.vision.detectors.mask2former_convert import build_model, load_converted


@pytest.fixture(scope="module")
def models(checkpoint_2x):
    model = build_model(load_converted(checkpoint_2x))
    lean = make_lean(copy.deepcopy(model))
    # With transformers' own attention, so that only the decoder differs.
    lean.model.pixel_level_module = model.model.pixel_level_module
    return model, lean


def test_gives_the_last_prediction_of_the_original_bit_for_bit(models):
    pixels = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs, ours = (model(pixel_values=pixels) for model in models)
    assert torch.equal(theirs.class_queries_logits, ours.class_queries_logits)
    assert torch.equal(theirs.masks_queries_logits, ours.masks_queries_logits)


def test_draws_nothing_and_keeps_one_prediction(models, monkeypatch):
    """transformers 5.17 draws a number per layer, which shifts the random numbers of a training in the same process."""
    monkeypatch.setattr(torch, "rand", lambda *_, **__: pytest.fail("a random number was drawn"))
    kept = []
    models[1].model.transformer_module.decoder.register_forward_hook(
        lambda module, given, output: kept.append(len(output.masks_queries_logits))
    )
    before = torch.get_rng_state()
    with torch.no_grad():
        models[1](pixel_values=torch.zeros(1, 3, 64, 64))
    assert torch.equal(torch.get_rng_state(), before)
    assert kept == [1]


def test_names_of_weights_stay(models):
    assert list(models[0].state_dict()) == list(models[1].state_dict())


def test_masks_are_made_at_full_size_once(models):
    """Inner predictions say where to look on a coarser grid, and are made on that grid."""
    sizes = []

    class Sizes(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            found = function(*args, **(kwargs or {}))
            if function is torch.einsum:
                sizes.append(tuple(found.shape[-2:]))
            return found

    with torch.no_grad(), Sizes():
        models[1](pixel_values=torch.zeros(1, 3, 64, 96))
    assert sizes.count((16, 24)) == 1
    assert set(sizes) == {(2, 3), (4, 6), (8, 12), (16, 24)}
