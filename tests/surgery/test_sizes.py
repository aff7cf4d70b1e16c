import pytest
import torch
from torch import nn

from geneval_reward.errors import GeneratorError
from geneval_reward.pocket import load_pipeline
from geneval_reward.results.tables import render
from geneval_reward.surgery import TextEncoderPlan, fingerprint
from geneval_reward.surgery.seams import run_once
from geneval_reward.surgery.sizes import Run, count_operations, measure_run, part_sizes, sizes_document
from tests.surgery.tiny import FAMILIES, settings, tiny


def test_parameters_and_bytes_by_part():
    pipeline = load_pipeline()
    parts = {part.name: part for part in part_sizes(pipeline)}
    assert list(parts) == ["transformer", "text_encoder", "vae"]
    assert parts["text_encoder"].bytes == 4 * parts["text_encoder"].parameters
    # The table of positions is a buffer.
    assert parts["transformer"].bytes > 4 * parts["transformer"].parameters


def test_operations_of_a_linear_model_are_those_of_its_matrices():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = nn.Linear(8, 16, bias=False)

    holder = Two()
    holder.components = {"part": holder.part}
    found = count_operations(holder, lambda: holder.part(torch.ones(4, 8)) @ torch.ones(16, 3))
    assert found == {"part": 2 * 4 * 8 * 16, "all": 2 * 4 * 8 * 16 + 2 * 4 * 16 * 3}


def test_a_cut_text_encoder_takes_fewer_operations():
    pipeline = load_pipeline()
    dense = count_operations(pipeline, lambda: run_once(pipeline))
    plan = TextEncoderPlan(part="text_encoder", model=fingerprint(pipeline.text_encoder), skip=(1, 3, 5))
    with plan.apply(pipeline):
        cut = count_operations(pipeline, lambda: run_once(pipeline))
    # A feed-forward sub-block has three matrices of 64 x 128, and twelve tokens go through it.
    assert dense["text_encoder"] - cut["text_encoder"] == 3 * 2 * 12 * 3 * 64 * 128
    assert dense["transformer"] == cut["transformer"] > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_operations_of_every_family(family):
    pipeline = tiny(family, layers=1)
    found = count_operations(pipeline, lambda: run_once(pipeline, **settings(family)))
    assert all(found[name] > 0 for name in pipeline.components if name.startswith(("text_encoder", "transformer")))
    assert found["all"] >= sum(count for name, count in found.items() if name != "all")


def test_tables_state_what_they_count():
    parts = part_sizes(load_pipeline())
    run = Run("cpu", 300_000_000, None, 100_000_000, (0.2, 0.1, 0.3))
    text = render(sizes_document(parts, parts, {"all": 2_000_000}, run, "for one image"), "markdown")
    assert "| peak memory while sampling | 300.0 MB |" in text
    assert "| peak memory while loading | unknown |" in text
    assert "| seconds per image, median | 0.2 (0.1 to 0.3) |" in text
    assert "resident memory, Python and libraries included" in text


@pytest.mark.slow
def test_a_fresh_process_measures():
    pipeline = load_pipeline()
    plan = TextEncoderPlan(part="text_encoder", model=fingerprint(pipeline.text_encoder), skip=(9,))
    found = measure_run("pocket", [plan], images=2, calls=2, device="cpu", arguments={"num_inference_steps": 2})
    assert len(found.seconds) == 2
    assert all(0 < seconds < 60 for seconds in found.seconds)
    assert found.peak_bytes is None or found.peak_bytes > found.idle_bytes > 10_000_000
    with pytest.raises(GeneratorError, match=r"exit code 1: .*expected"):
        measure_run("no/such/model", device="cpu")
