"""Show-o Turbo on the packaged token model: labels, what is trained and what is not, checkpoints, the launch line."""

import sys
from dataclasses import replace
from pathlib import Path

import lightning
import pytest
import torch

from geneval_reward.pocket import load_tokens, pocket_suite
from geneval_reward.pocket.codes import MASK
from geneval_reward.pocket.painting import Painting
from geneval_reward.pocket.prompts import training_specs
from geneval_reward.prompts import PromptSpec
from geneval_reward.train import EpochCheckpoint, PromptGroups
from geneval_reward.train.data import read_training_prompts

ROOT = Path(__file__).parents[2]
SPECS = [training_specs()[tag][3] for tag in ("counting", "colors", "position", "color_attr")]


@pytest.fixture
def turbo(recipe):
    def make(**options):
        options = {"teacher_steps": 4, "segments": (4, 2, 1), "epochs_per_stage": 1, "passes": 1} | options
        return recipe("show_o_turbo").ShowOTurbo(**options)

    return make


def data(specs=SPECS, groups=4, batch_size=4):
    return PromptGroups(specs, groups=groups, group_size=1, batch_size=batch_size, seed=1)


class Rows(lightning.Callback):
    def __init__(self):
        self.rows = []

    def on_train_batch_end(self, trainer, *_):
        self.rows.append({name: float(value) for name, value in trainer.logged_metrics.items()})


class StopAfterTwo(lightning.Callback):
    def on_train_epoch_end(self, trainer, module):
        trainer.should_stop = trainer.current_epoch == 1


def fit(module, folder, epochs=1, prompts=None, callbacks=(), ckpt_path=None):
    rows = Rows()
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=any(isinstance(callback, EpochCheckpoint) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        callbacks=[rows, *callbacks],
    )
    trainer.fit(module, prompts or data(), ckpt_path=ckpt_path)
    return rows.rows


def paths_of(module):
    [batch] = data().train_dataloader()
    [paths] = module.rollout(batch)
    return batch, paths


def test_the_path_is_the_guided_greedy_one_and_depends_on_no_seed(turbo):
    module = turbo(teacher_guidance=3.0)
    batch, paths = paths_of(module)
    greedy = load_tokens().paint(
        [spec.prompt for spec in batch.specs],
        [torch.Generator().manual_seed(9)] * 4,
        steps=4,
        guidance=3.0,
        temperature=0.0,
        choice_noise=0.0,
    )
    assert torch.equal(paths.codes, greedy.codes)
    assert torch.equal(paths.fixed, greedy.commits - 1)
    for step in range(4):
        assert torch.equal(paths.state(torch.tensor([[step]] * 4)), greedy.seen(step + 1))


@torch.no_grad()
@pytest.mark.parametrize("segments", [4, 2, 1])
def test_labels_are_those_of_the_last_step_that_found_a_code_masked(turbo, segments):
    module = turbo(segments=[segments], teacher_guidance=2.0, consistency_weight=1.0)
    _, paths = paths_of(module)
    paths = replace(paths, generators=[torch.Generator().manual_seed(seed) for seed in range(4)])
    losses = module.losses(paths, 4)
    # The same once more, position by position, without what the path recorded.
    painting, text, model = Painting(paths.codes, paths.fixed + 1, torch.zeros(4, 18)), paths.text, load_tokens()
    guided = [model.logits(text, painting.seen(step + 1), 2.0).softmax(-1) for step in range(4)]
    plain = [model.logits(text, painting.seen(step + 1)).log_softmax(-1) for step in range(4)]
    teacher = consistency = 0.0
    for row in range(4):
        k = int(torch.randint(4, (1,), generator=torch.Generator().manual_seed(row)))
        end = min((k * segments // 4 + 1) * (4 // segments), 3)
        terms, ends = [], []
        for place in range(18):
            fixed = int(paths.fixed[row, place])
            if fixed >= k:
                label = guided[min(fixed, end)][row, place]
                terms.append(float(-(label * plain[k][row, place]).sum()))
            if fixed >= end:
                ends.append(float(-(plain[end][row, place].exp() * plain[k][row, place]).sum()))
        teacher += sum(terms) / len(terms) / 4
        consistency += sum(ends) / len(ends) / 4
    assert float(losses["teacher"]) == pytest.approx(teacher, rel=1e-4)
    assert float(losses["consistency"]) == pytest.approx(consistency, rel=1e-4)


def test_stages_follow_the_epochs_and_the_teacher_stays(turbo, tmp_path):
    module = turbo(learning_rate=1e-3, save=str(tmp_path / "students"))
    before = {name: p.clone() for name, p in module.weights.trained().items()}
    rows = fit(module, tmp_path, epochs=4)
    assert [row["segments"] for row in rows] == [4, 2, 1, 1]
    assert [row["updates"] for row in rows] == [1, 2, 3, 4]
    assert set(rows[0]) == {"loss/teacher", "loss/text", "grad_norm", "segments", "updates"}
    teacher = module.teacher.transformer.state_dict()
    for name, parameter in before.items():
        assert torch.equal(teacher[name], parameter), name
    assert any(not torch.equal(before[name], p) for name, p in module.weights.trained().items())
    saved = [load_tokens(folder=tmp_path / "students" / f"segments-{number}") for number in (4, 2, 1)]
    assert not torch.equal(saved[0].transformer.code_head, saved[2].transformer.code_head)


def test_one_step_learns_the_teachers_many(turbo, tmp_path):
    module = turbo(segments=[1], learning_rate=3e-3, passes=25, text_weight=0.0)
    _, paths = paths_of(module)

    def likelihood():
        """Of the teacher's greedy painting in one step; the first ten codes, since bare ground's are chance."""
        with torch.no_grad():
            logits = module.student.logits(paths.text, torch.full_like(paths.codes, MASK))
        return float(logits.log_softmax(-1).gather(2, paths.codes[..., None])[:, :10].mean())

    before = likelihood()
    rows = fit(module, tmp_path, epochs=2)
    assert "loss/text" not in rows[0]
    assert rows[1]["loss/teacher"] < rows[0]["loss/teacher"]
    assert likelihood() > before + 0.5


def test_the_text_loss_keeps_the_answers(turbo, tmp_path):
    def distance(text_weight):
        module = turbo(segments=[1], learning_rate=3e-3, passes=10, text_weight=text_weight)
        fit(module, tmp_path, epochs=1)
        _, paths = paths_of(turbo())
        with torch.no_grad():
            own, words = module.student.answer_logits(paths.codes, paths.questions, paths.answers)
        return float((own.softmax(-1) - paths.answer_logits.softmax(-1)).abs().sum(-1)[words != 0].mean())

    assert distance(1.0) < 0.7 * distance(0.0)


def test_answers_are_the_teachers_own(turbo):
    batch, paths = paths_of(turbo())
    assert paths.answers == load_tokens().answer(paths.codes, paths.questions)
    assert len(paths.questions) == len(batch.specs)


def test_target_is_the_student_unless_it_decays(turbo, tmp_path):
    for decay in (0.0, 0.9):
        module = turbo(consistency_weight=0.1, target_decay=decay, passes=20, learning_rate=1e-3)
        rows = fit(module, tmp_path, epochs=1)
        assert rows[0]["loss/consistency"] > 0
        trained = module.weights.trained()
        assert all(torch.equal(module.target.averages[name], p) for name, p in trained.items()) is (decay == 0.0)


def test_resume_is_exact(turbo, tmp_path):
    whole = turbo(consistency_weight=0.1, target_decay=0.5)
    fit(whole, tmp_path, epochs=3)
    half = turbo(consistency_weight=0.1, target_decay=0.5)
    fit(half, tmp_path, epochs=3, callbacks=[EpochCheckpoint(str(tmp_path)), StopAfterTwo()])
    assert half.updates == 2
    assert not torch.load(tmp_path / "last.ckpt", weights_only=False)["state_dict"]
    torch.randn(7)  # what was drawn in between must not matter
    resumed = turbo(consistency_weight=0.1, target_decay=0.5)
    checkpoint = EpochCheckpoint(str(tmp_path))
    [row] = fit(resumed, tmp_path, epochs=3, callbacks=[checkpoint], ckpt_path=tmp_path / "last.ckpt")
    assert row["segments"] == 1
    assert resumed.updates == whole.updates == 3
    for name, parameter in whole.weights.trained().items():
        assert torch.equal(parameter, resumed.weights.trained()[name]), name
        assert torch.equal(whole.target.averages[name], resumed.target.averages[name]), name


def test_the_rate_falls_to_zero(turbo, tmp_path):
    module = turbo(learning_rate=1e-3, text_weight=0.0)
    rates = []

    class Rates(lightning.Callback):
        def on_train_batch_end(self, trainer, *_):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    fit(module, tmp_path, epochs=4, callbacks=[Rates()])
    assert rates == pytest.approx([1e-3, 0.75e-3, 0.5e-3, 0.25e-3])


def test_generate_paints_with_the_student_in_few_steps(turbo):
    module = turbo(eval_steps=2)
    prompts = [spec.prompt for spec in SPECS[:2]]
    images = module.generate(prompts, [1, 2])
    [alone] = module.generate(prompts[1:], [2])
    painted = load_tokens().paint(prompts, [torch.Generator().manual_seed(seed) for seed in (1, 2)], steps=2)
    assert [image.tobytes() for image in images] == [image.tobytes() for image in load_tokens().images(painted.codes)]
    assert alone.tobytes() == images[1].tobytes()


def test_training_prompts_are_never_the_suites():
    suite = {spec.prompt for spec in pocket_suite()}
    assert not any(spec.prompt in suite for spec in read_training_prompts("pocket", 42))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher_steps": 0}, "teacher_steps: expected an integer >= 1, got 0"),
        ({"segments": (3,)}, r"segments: expected divisors of the 4 teacher_steps, got \[3\]"),
        ({"segments": ()}, "segments: expected divisors"),
        ({"text_weight": -1.0}, "text_weight: expected a number >= 0, got -1"),
        ({"teacher_weight": 0.0}, "expected one above 0"),
        ({"target_decay": 1.0}, r"target_decay: expected a number in \[0, 1\), got 1.0"),
    ],
)
def test_wrong_options_are_refused(turbo, options, message):
    with pytest.raises(ValueError, match=message):
        turbo(**options)


def test_wrong_use_is_refused(turbo, tmp_path):
    with pytest.raises(ValueError, match="expected a DistributedKRepeatSampler"):
        fit(turbo(), tmp_path, prompts=torch.utils.data.DataLoader([1, 2]))
    five = {"tag": "counting", "include": [{"class": "clock", "count": 5}], "prompt": "a photo of clocks"}
    with pytest.raises(ValueError, match="expected a record of one of the tasks"):
        fit(turbo(), tmp_path, prompts=data([PromptSpec.parse(five)], groups=1, batch_size=1))


def test_weights_that_diverged_end_the_run(turbo, tmp_path):
    module = turbo()
    with torch.no_grad():
        module.student.transformer.code_head[0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="expected finite gradients, got nan; the weights have diverged"):
        fit(module, tmp_path)


def test_a_checkpoint_of_another_method_is_refused(turbo):
    with pytest.raises(ValueError, match="checkpoint: expected one of show-o-turbo"):
        turbo().on_load_checkpoint({"flow_rl": {}})


def test_command_line(recipe, tmp_path, monkeypatch):
    """The recipe file as it is launched, with the shipped configuration on fewer prompts."""
    monkeypatch.setattr(sys, "argv", ["show_o_turbo.py"])
    monkeypatch.chdir(ROOT)
    small = {
        "trainer.max_epochs": 2,
        "trainer.default_root_dir": tmp_path,
        "trainer.logger": "false",
        "trainer.callbacks": f"[{{class_path: geneval_reward.train.cli.EpochCheckpoint, init_args: {{dirpath: {tmp_path}}}}}]",
        "trainer.enable_progress_bar": "false",
        "model.epochs_per_stage": 1,
        "model.passes": 1,
        "model.save": tmp_path / "students",
        "data.groups": 4,
        "data.batch_size": 2,
    }
    words = [f"--{name}={value}" for name, value in small.items()]
    cli = recipe("show_o_turbo").main(["fit", "--config", "configs/show_o_turbo_pocket.yaml", *words])
    assert cli.trainer.current_epoch == 2
    assert cli.model.updates == 4
    assert (tmp_path / "last.ckpt").is_file()
    assert (tmp_path / "students" / "segments-4" / "model.safetensors").is_file()


def test_it_is_listed_with_its_launch_line():
    from geneval_reward.train.recipes import list_recipes

    found = list_recipes()["show_o_turbo"]
    assert found.launch_lines == ["python recipes/show_o_turbo.py fit --config configs/show_o_turbo_pocket.yaml"]
    assert "2502.05415 v1" in found.title
