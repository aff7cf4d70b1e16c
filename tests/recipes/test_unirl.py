"""UniRL as a recipe, on the pocket token model and on a tiny Janus."""

import inspect
import sys
from types import SimpleNamespace

import pytest
import torch

from geneval_reward.errors import UsageError
from geneval_reward.judges import QA
from geneval_reward.pocket import pocket_suite
from geneval_reward.pocket.transformer import TokenTransformer
from geneval_reward.train import FSDP2Strategy, PocketUnified, PromptGroups, load_recipe
from geneval_reward.train.cli import EpochCheckpoint
from geneval_reward.train.reader_audit import ReaderAudit

SUITE = list(pocket_suite())[20::40]


@pytest.fixture
def kind():
    return load_recipe("unirl").UniRL


def module(kind, unified=None, **options):
    return kind(unified or PocketUnified(steps=3), **{"learning_rate": 1e-3} | options)


def data(groups=3, group_size=4, batch_size=6):
    return PromptGroups(SUITE, groups=groups, group_size=group_size, batch_size=batch_size, seed=1)


def weights(unirl):
    return {name: p.detach().clone() for name, p in unirl.trained().items()}


def moved(unirl, before):
    return {name for name, p in unirl.trained().items() if not torch.equal(p, before[name])}


def test_it_is_one_file_that_says_what_is_reconstructed():
    found = load_recipe("unirl")
    assert 150 <= len(inspect.getsource(found).splitlines()) <= 400
    for part in ("| | paper | released code", "python recipes/", "arXiv", "*reconstruction*"):
        assert part in inspect.getdoc(found)


def test_grpo_trains_both_sides_and_logs_what_is_bad(kind, worker, tmp_path):
    unirl = module(kind)
    before = weights(unirl)
    rows = worker.run(unirl, data(), tmp_path)
    known = "painting_loss answer_loss painting_clipfrac answer_clipfrac zero_std_ratio reward/mean empty_answers"
    known += " unparsed_answers not_finite_images trained_images groups_with_spread unscored"
    assert set(known.split()) <= set(rows[0])
    assert {"code_head", "word_head.weight"} <= moved(unirl, before)
    assert rows[0]["ratio_deviation"] < 1e-6
    assert rows[1]["images"] == 24


def test_the_ratio_is_one_at_first_and_then_moves(kind, worker, tmp_path):
    def reward(images, prompts, metadata):
        return [float(image.sum()) for image in images]  # all differ, so that no picture is left out

    row = worker.run(module(kind, reward=reward), data(), tmp_path, epochs=1)[0]
    assert row["trained_images"] == 12
    assert row["ratio_deviation"] == 0.0
    assert worker.run(module(kind, reward=reward, passes=2), data(), tmp_path, epochs=1)[0]["ratio_deviation"] > 0


@pytest.mark.parametrize(
    ("options", "still"),
    [
        ({"learn": "painting"}, "word_head.weight"),
        ({"learn": "questions"}, "code_head"),
        ({"learn": "painting", "reader": "frozen"}, "word_head.weight"),
        ({"variant": "sft", "learn": "painting"}, "word_head.weight"),
        ({"variant": "sft", "learn": "questions"}, "code_head"),
    ],
)
def test_one_side_alone_leaves_the_head_of_the_other(kind, worker, tmp_path, options, still):
    unirl = module(kind, **options)
    before = weights(unirl)
    rows = worker.run(unirl, data(), tmp_path)
    changed = moved(unirl, before)
    assert changed
    assert still not in changed
    assert all(torch.isfinite(torch.tensor(value)) for row in rows for value in row.values())


def test_a_frozen_reader_stays_and_one_that_is_copied_follows(kind, worker, tmp_path):
    frozen = module(kind, learn="painting", reader="frozen")
    before = weights(frozen)
    worker.run(frozen, data(), tmp_path)
    assert all(torch.equal(p, before[name]) for name, p in frozen.other.network.named_parameters())
    copied = module(kind, variant="sft", learn="painting")
    worker.run(copied, data(), tmp_path)
    assert any(not torch.equal(p, before[name]) for name, p in copied.other.network.named_parameters())


def test_sft_raises_the_likelihood_of_the_true_answers(kind, worker, tmp_path):
    rows = worker.run(module(kind, variant="sft"), data(groups=4, batch_size=16), tmp_path, epochs=8)
    assert rows[-1]["answer_loss"] < rows[0]["answer_loss"]


def test_the_kl_is_zero_at_first(kind, worker, tmp_path):
    rows = worker.run(module(kind, kl_weight=0.2), data(), tmp_path)
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert rows[1]["kl"] > 0


def test_groups_without_spread_teach_nothing_and_are_counted(kind, worker, tmp_path):
    unirl = module(kind, reward=lambda images, prompts, metadata: [1.0] * len(images))
    before = weights(unirl)
    rows = worker.run(unirl, data(), tmp_path, epochs=1)
    assert rows[0]["zero_std_ratio"] == 1.0
    assert rows[0]["trained_images"] == 0
    assert not moved(unirl, before)


def test_empty_and_unreadable_answers_are_wrong_and_counted(kind, worker, tmp_path, monkeypatch):
    unified = PocketUnified(steps=2)
    said = ["", "hm", "a photo of a clock"]
    monkeypatch.setattr(
        unified, "answer", lambda tokens, questions, seeds: [said[n % 3] for n in range(len(questions))]
    )
    with pytest.warns(UserWarning, match="'hm'"):
        row = worker.run(module(kind, unified), data(), tmp_path, epochs=1)[0]
    assert (row["empty_answers"], row["unparsed_answers"]) == (4, 8)


def test_a_prompt_without_parts_is_named(kind, worker, tmp_path, monkeypatch):
    unified = PocketUnified(steps=2)
    monkeypatch.setattr(unified, "ask", lambda spec: QA("what is the main item", "", ()))
    with pytest.raises(
        UsageError, match=r"prompts: expected records whose questions have parts to grade, got none for 'a"
    ):
        worker.run(module(kind, unified), data(), tmp_path, epochs=1)


def test_pictures_with_nan_have_no_reward_and_are_counted(kind, worker, tmp_path, monkeypatch):
    unified = PocketUnified(steps=2)
    paint = unified.paint

    def broken(prompts, seeds):
        painted = paint(prompts, seeds)
        painted.log_probs[0, 3] = torch.nan
        return painted

    monkeypatch.setattr(unified, "paint", broken)
    unirl = module(kind, unified)
    row = worker.run(unirl, data(), tmp_path, epochs=1)[0]
    assert row["not_finite_images"] == row["unscored"] == 2
    assert all(p.isfinite().all() for p in unirl.trained().values())


@pytest.mark.parametrize(("variant", "message"), [("grpo", "12 without"), ("sft", "answers: expected finite")])
def test_a_model_that_has_diverged_is_named(kind, worker, tmp_path, variant, message):
    unirl = module(kind, variant=variant)
    with torch.no_grad():
        unirl.network.norm.weight.fill_(torch.nan)
    with pytest.raises(RuntimeError, match=message):
        worker.run(unirl, data(), tmp_path, epochs=1)


def test_a_resumed_run_is_the_run(kind, worker, tmp_path):
    for variant in ("grpo", "sft"):
        folder = tmp_path / variant
        options = {"callbacks": [EpochCheckpoint(str(folder))], "enable_checkpointing": True}
        worker.run(module(kind, variant=variant), data(), folder, epochs=1, **options)
        resumed = module(kind, variant=variant)
        options["callbacks"] = [EpochCheckpoint(str(folder))]
        worker.run(resumed, data(), folder, epochs=2, ckpt_path=str(folder / "last.ckpt"), **options)
        whole = module(kind, variant=variant)
        worker.run(whole, data(), tmp_path, epochs=2)
        assert resumed.images_painted == whole.images_painted == 24
        assert all(torch.equal(p, whole.trained()[name]) for name, p in resumed.trained().items())


def test_another_models_checkpoint_is_refused(kind):
    with pytest.raises(UsageError, match="checkpoint: expected one of unirl"):
        module(kind).on_load_checkpoint({"flow_rl": {}})
    other = PocketUnified(steps=2)
    other.model.transformer = TokenTransformer(70, 12, 23, width=16, layers=1)
    checkpoint = {}
    module(kind, other).on_save_checkpoint(checkpoint)
    with pytest.raises(UsageError, match="checkpoint: expected trained weights of this model"):
        module(kind).on_load_checkpoint(checkpoint)


def test_the_reader_is_audited_before_and_while_training(kind, worker, tmp_path):
    from tests.train.test_reader_audit import Judge

    audit = ReaderAudit(Judge(), prompts=SUITE, every_n_epochs=1)
    worker.run(module(kind), data(), tmp_path, callbacks=[audit])
    assert len(audit.reports) == 3


def test_wrong_use_is_refused(kind):
    for options, message in (
        ({"variant": "dpo"}, "variant: expected 'grpo' or 'sft', got 'dpo'"),
        ({"reader": "frozen"}, "learn: expected 'painting' with a frozen reader"),
        ({"variant": "sft", "reward": "lite"}, "variant: expected 'grpo' for another reward"),
        ({"passes": 0}, "updates_per_epoch and passes >= 1"),
        ({"unified": object()}, "unified: expected a model with ask, paint"),
    ):
        with pytest.raises(UsageError, match=message):
            module(kind, options.pop("unified", None), **options)


def test_sharded_weights_are_refused(kind):
    unirl = module(kind)
    unirl._trainer = SimpleNamespace(strategy=FSDP2Strategy())
    with pytest.raises(UsageError, match="strategy: expected auto or ddp, got FSDP2Strategy"):
        unirl.setup("fit")


@pytest.mark.parametrize("variant", ["grpo", "sft"])
def test_janus_trains_too(kind, worker, tmp_path, variant):
    from geneval_reward.train.janus import JanusUnified
    from geneval_reward.train.tiny import tiny_janus

    unified = JanusUnified(*tiny_janus(), guidance=2.0, max_words=4)
    before = {name: p.detach().clone() for name, p in unified.network.named_parameters()}

    def redness(images, prompts, metadata):
        return [float(image[0].float().mean()) for image in images]

    options = {"reward": redness} if variant == "grpo" else {}
    unirl = module(kind, unified, variant=variant, **options)
    rows = worker.run(unirl, data(groups=2, group_size=2, batch_size=4), tmp_path, epochs=1)
    assert rows[0]["updates"] == 1
    changed = {name for name, p in unified.network.named_parameters() if not torch.equal(p, before[name])}
    assert any("generation_head" in name for name in changed)
    assert any("vision_model" in name for name in changed)
    assert not any("vqmodel" in name for name in changed)


def test_command_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["unirl.py"])
    cli = load_recipe("unirl").main(
        [
            "fit",
            "--config=configs/unirl_pocket.yaml",
            "--trainer.max_epochs=1",
            "--trainer.logger=false",
            "--trainer.callbacks=null",
            "--trainer.enable_progress_bar=false",
            "--trainer.enable_checkpointing=false",
            f"--trainer.default_root_dir={tmp_path}",
            "--model.unified.init_args.steps=2",
            "--data.groups=2",
            "--data.group_size=4",
            "--data.batch_size=4",
        ]
    )
    assert cli.model.unified.steps == 2
    assert cli.trainer.global_step == 2
