"""One round without Lightning: what it returns, what it gives back, and the examples of docs/callback.md."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_painter import QUIET, RECORDS, data, make_painter, make_trainer, scorer

from geneval_reward.callback import GenEvalCallback, score_model
from geneval_reward.errors import RoundError
from geneval_reward.results import read_results

pytestmark = QUIET
DOCS = Path(__file__).parents[2] / "docs" / "callback.md"


def test_it_gives_what_the_callback_logs(tmp_path):
    callback = GenEvalCallback(scorer(), RECORDS, 2, every_n_epochs=1, log_images=3, seed=4)
    module = make_painter()
    trainer = make_trainer(tmp_path, callbacks=callback)
    trainer.fit(module, data(2))
    state = torch.get_rng_state()
    module.train()
    record = score_model(
        module.generate,
        RECORDS,
        2,
        scorer=scorer(),
        modules=[module],
        seed=4,
        step=2,
        folder=tmp_path / "own",
        log_images=3,
    )
    assert module.net.training
    assert torch.equal(torch.get_rng_state(), state)
    logged = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("geneval/")}
    for metrics in (record.metrics, logged):
        assert metrics.pop("geneval/seconds") > 0
    assert record.metrics == pytest.approx(logged)
    assert len(record.shown) == 3
    rows = [
        [
            (row.filename, row.correct, row.seed)
            for row in read_results(folder / "step-00000002" / "results.jsonl").rows()
        ]
        for folder in (tmp_path / "geneval", tmp_path / "own")
    ]
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("generate", "words"),
    [
        (lambda prompts, seeds: torch.zeros(1, 3, 8, 8), "generate: expected 8 images, one per prompt, got 1"),
        (lambda prompts, seeds: [torch.full((3, 8, 8), torch.nan)] * 8, r"generate: images\[0\]: .*NaN"),
        (
            lambda prompts, seeds: [np.full((8, 8, 3), np.nan).astype(np.uint8)] * 8,
            "generate: expected finite pixels, got NaN or infinity",
        ),
    ],
)
def test_what_goes_wrong_is_named(generate, words):
    with pytest.raises(RoundError, match=words):
        score_model(generate, RECORDS, scorer=scorer())


def example(name):
    found = re.search(
        rf"<!-- tested: tests/callback/test_standalone.py {name} -->\n```python\n(.*?)```",
        DOCS.read_text(encoding="utf-8"),
        re.DOTALL,
    )
    assert found is not None
    return found.group(1)


@pytest.mark.parametrize("name", ["accelerate", "fabric"])
def test_examples_of_the_docs(name):
    module = make_painter()
    space = {
        "model": module,
        "optimizer": torch.optim.SGD(module.parameters(), lr=0.1),
        "generate": lambda model, prompts, seeds: module.generate(prompts, seeds),
        "prompts": RECORDS,
        "scorer": scorer(),
        "step": 7,
    }
    exec(example(name), space)
    assert space["record"].metrics["geneval/n"] == 8
    assert space["record"].step == 7


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*images of a round are wrong", "ignore:.*images of a call are wrong")
def test_the_diffusers_example_of_the_docs(tmp_path):
    from geneval_reward.pocket import load_pipeline

    space = {"pipeline": load_pipeline(), "prompts": RECORDS[:2], "step": 3, "output_dir": tmp_path}
    exec(example("diffusers"), space)
    assert len(read_results(tmp_path / "step-00000003" / "results.jsonl")) == 2
