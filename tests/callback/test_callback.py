"""The callback in real trainers: when it fires, what it logs, what others see of it, what it goes on with."""

from __future__ import annotations

import csv
import json
import math
import re
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import pytorch_lightning
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, WeightAveraging
from lightning.pytorch.loggers import CSVLogger
from tiny_painter import QUIET, RECORDS, data, make_painter, make_trainer, scorer

from geneval_reward import GenEvalScore, Rules
from geneval_reward.callback import GenEvalCallback
from geneval_reward.callback.base import put_in_order, refuse_untested
from geneval_reward.callback.tracking import run_folder
from geneval_reward.errors import RoundError, SpecError
from geneval_reward.prompts import PromptSpec
from geneval_reward.results import read_results
from geneval_reward.scorer import GenEvalScorer, fingerprint_id

pytestmark = QUIET


def fit(root: Path, *callbacks: Any, module: Any = None, batches: int = 4, validate: bool = True, **kwargs: Any) -> Any:
    pl.seed_everything(0, verbose=False)
    trainer = make_trainer(root, callbacks=list(callbacks), **kwargs)
    module = make_painter() if module is None else module
    trainer.fit(module, data(batches), data(1, shuffle=False) if validate else None)
    return trainer


def steps(root: Path, name: str = "geneval") -> list[int]:
    """Steps of the rounds that are on disk."""
    return sorted(int(folder.name.removeprefix("step-")) for folder in root.glob(f"**/{name}/step-*"))


class Elsewhere:
    """A scorer that is no `GenEvalScorer`, as one that asks a server."""

    name = "elsewhere"

    def __init__(self) -> None:
        self._scorer = scorer()
        self.rules = self._scorer.rules

    def score(self, images: Any, specs: Any) -> Any:
        return self._scorer.score(images, specs)

    def fingerprint(self) -> dict[str, Any]:
        return {"backend": "elsewhere"}

    def to(self, device: Any) -> Elsewhere:
        return self


def test_any_scorer(tmp_path: Path) -> None:
    callback = GenEvalCallback(Elsewhere(), RECORDS, every_n_epochs=1, log_images=0)
    trainer = fit(tmp_path, callback)
    expected = fit(tmp_path / "own", GenEvalCallback(scorer(), RECORDS, every_n_epochs=1, log_images=0))
    assert trainer.callback_metrics["geneval/overall"] == expected.callback_metrics["geneval/overall"]
    results = read_results(tmp_path / "geneval" / "step-00000004" / "results.jsonl")
    assert {row.backend for row in results.rows()} == {"elsewhere"}
    assert {row.fingerprint for row in results.rows()} == {fingerprint_id(Elsewhere())}


def test_reward_and_callback_load_one_scorer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[Any] = []

    def load(backend: str, **options: Any) -> Any:
        loads.append((backend, options))
        return scorer()

    monkeypatch.setattr(GenEvalScorer, "from_pretrained", load)
    callback = GenEvalCallback("lite", RECORDS, every_n_epochs=1, log_images=0)
    rewards = [callback.reward("strict"), callback.reward()]
    assert not loads
    module = make_painter()
    step = module.training_step

    def training_step(batch: torch.Tensor, batch_idx: int) -> Any:
        image = torch.rand(3, 16, 16)
        assert [reward([image], [RECORDS[0]]) for reward in rewards] == [[1.0], [1.0]]
        return step(batch, batch_idx)

    module.training_step = training_step
    fit(tmp_path, callback, module=module)
    fit(tmp_path, callback)
    assert loads == [("lite", {"device": torch.device("cpu")})]


def test_runs_do_not_overwrite_each_other(tmp_path: Path) -> None:
    for _ in range(2):
        fit(tmp_path, GenEvalCallback(scorer(), RECORDS, every_n_epochs=1, log_images=0))
    assert [len(list(tmp_path.glob(f"{name}/step-*"))) for name in ("geneval", "geneval-v1")] == [1, 1]


def test_runs_of_a_logger_without_log_dir_have_their_own_folders(tmp_path: Path) -> None:
    """As W&B's: the runs share `save_dir`, and `trainer.log_dir` does not tell them apart."""
    folders = []
    for run in ("run1", "run2"):
        logger = SimpleNamespace(save_dir=str(tmp_path), name="project", version=run, experiment=None)
        folders.append(run_folder(SimpleNamespace(loggers=[logger], default_root_dir="."), "geneval"))
    assert folders == [tmp_path / "project" / run / "geneval" for run in ("run1", "run2")]


def test_all_wrong_is_said_once(tmp_path: Path) -> None:
    callback = GenEvalCallback(
        scorer(), [{"tag": "counting", "include": [{"class": "cow", "count": 2}]}], 2, every_n_epochs=1
    )
    with pytest.warns(UserWarning, match="all 2 images of a round are wrong") as seen:
        fit(tmp_path, callback, max_epochs=2)
    assert sum("images of a round are wrong" in str(warning.message) for warning in seen) == 1


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ({"every_n_train_steps": 9}, "every_n_train_steps=9, but the run ends at step 8"),
        ({"every_n_epochs": 3}, "every_n_epochs=3, but the run ends after epoch 2"),
        ({"on_validation": True}, "on_validation=True, but the run does not validate"),
    ],
)
def test_rounds_that_never_come(tmp_path: Path, schedule: dict[str, Any], words: str) -> None:
    with pytest.warns(UserWarning, match=f"makes no round in this run: {words}") as seen:
        fit(tmp_path, GenEvalCallback(scorer(), RECORDS, **schedule), validate=False, max_epochs=2)
    assert sum("makes no round" in str(warning.message) for warning in seen) == 1
    assert steps(tmp_path) == []


def test_a_run_that_ends_early_without_a_round(tmp_path: Path) -> None:
    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            trainer.should_stop = True

    with pytest.warns(UserWarning, match="makes no round in this run: none was due before it ended"):
        fit(tmp_path, GenEvalCallback(scorer(), RECORDS, every_n_train_steps=4), Stop(), max_epochs=2)


def test_trainer_test_scores(tmp_path: Path) -> None:
    callback = GenEvalCallback(scorer(), RECORDS, every_n_train_steps=1000, log_images=0)
    trainer = make_trainer(tmp_path, callbacks=callback)
    module = make_painter()
    module.test_step = module.validation_step
    trainer.test(module, data(1, shuffle=False), verbose=False)
    assert trainer.callback_metrics["geneval/n"] == 8
    assert steps(tmp_path) == [0]


def test_monitors_wait_for_the_first_score(tmp_path: Path) -> None:
    """Checkpoints, early stopping and a plateau scheduler look for the score before there is one."""
    seen: list[float] = []

    class Look(EarlyStopping):
        def _run_early_stopping_check(self, trainer: Any) -> None:
            seen.append(float(trainer.callback_metrics.get("geneval/overall", -1)))
            super()._run_early_stopping_check(trainer)

    module = make_painter()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", patience=0)
    config = {"scheduler": plateau, "monitor": "geneval/overall"}
    module.configure_optimizers = lambda: {"optimizer": optimizer, "lr_scheduler": config}
    best = ModelCheckpoint(tmp_path / "best", "{step}", monitor="geneval/overall", mode="max", save_top_k=-1)
    stop = Look("geneval/overall", mode="max", patience=9, check_finite=True)
    callback = GenEvalCallback(scorer(), RECORDS, every_n_epochs=3, log_images=0)
    with pytest.warns(RuntimeWarning, match="not available"):  # Lightning's own word for a monitor that waits
        trainer = fit(tmp_path, best, stop, callback, module=module, max_epochs=4, enable_checkpointing=True)
    assert trainer.current_epoch == 4
    assert seen[:2] == [-1, -1]
    assert min(seen[2:]) >= 0
    assert len(list((tmp_path / "best").glob("*.ckpt"))) == 4
    assert float(best.best_model_score) == pytest.approx(callback.best_score)  # type: ignore[arg-type]


def test_a_callback_may_be_used_again(tmp_path: Path) -> None:
    callback = GenEvalCallback(scorer(), RECORDS, every_n_train_steps=4, log_images=0)
    for name in ("first", "second"):
        fit(tmp_path / name, callback)
        assert steps(tmp_path / name) == [4]


def test_an_offloaded_scorer_gives_no_rewards() -> None:
    with pytest.raises(ValueError, match="offload: expected False for a callback whose scorer also gives the rewards"):
        GenEvalCallback("lite", every_n_epochs=1, offload=True).reward()


@pytest.mark.parametrize("package", [pl, pytorch_lightning], ids=["lightning", "pytorch_lightning"])
def test_under_both_names(tmp_path: Path, package: Any) -> None:
    callback = GenEvalCallback(scorer(), RECORDS, every_n_epochs=1, log_images=0)
    assert isinstance(callback, package.Callback)
    trainer = make_trainer(tmp_path, package, callbacks=callback)
    trainer.fit(make_painter(package), data(2))
    assert trainer.callback_metrics["geneval/n"] == 8


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"every_n_train_steps": 3}, [3, 6]),
        ({"every_n_epochs": 2}, [8]),
        ({"on_validation": True}, [2, 4, 6, 8]),
    ],
)
def test_rhythm(tmp_path: Path, schedule: dict[str, Any], expected: list[int]) -> None:
    callback = GenEvalCallback(scorer(), RECORDS, **schedule, log_images=0)
    # The sanity check runs a validation too, and must not count as one.
    fit(tmp_path, callback, max_epochs=2, val_check_interval=0.5, num_sanity_val_steps=2)
    assert steps(tmp_path) == expected


def test_once_an_optimizer_step_under_accumulation(tmp_path: Path) -> None:
    module = make_painter()
    callback = GenEvalCallback(scorer(), RECORDS[:1], every_n_train_steps=1, log_images=0)
    fit(tmp_path, callback, module=module, accumulate_grad_batches=4, batches=8)
    assert steps(tmp_path) == [1, 2]
    assert len(module.calls) == 2


def test_logged_metrics(tmp_path: Path) -> None:
    """All that the docstring lists, equal to what the metric says of the same pictures."""
    judge, seen = scorer(), GenEvalScore(scorer(), prompts=[PromptSpec.parse(record) for record in RECORDS])

    def sample(module: Any, prompts: list[str], seeds: list[int]) -> Any:
        images = module.generate(prompts, seeds)
        seen.update(images, prompts)
        return images

    callback = GenEvalCallback(judge, RECORDS, 3, every_n_epochs=1, sample_fn=sample)
    trainer = fit(tmp_path, callback, logger=CSVLogger(tmp_path))
    parts = seen.breakdown()
    with next(tmp_path.glob("**/metrics.csv")).open() as file:
        logged = next(row for row in csv.DictReader(file) if row["geneval/overall"])
    tags = {record["tag"] for record in RECORDS}
    keys = {"overall", "partial", "pass_at_k", "half_width", "n", "prompts", "seconds"} | tags
    assert {key for key, value in logged.items() if key.startswith("geneval/") and value} == {
        f"geneval/{k}" for k in keys
    }
    assert logged["step"] == "4"
    for key in ("overall", "n", "prompts", "pass_at_k", *tags):
        assert float(logged[f"geneval/{key}"]) == pytest.approx(parts[key]), key
        assert trainer.callback_metrics[f"geneval/{key}"].item() == pytest.approx(parts[key])
    assert 0 < float(logged["geneval/half_width"]) < 0.5
    assert float(logged["geneval/partial"]) > float(logged["geneval/overall"])
    assert 0 < float(logged["geneval/seconds"]) < 60
    assert callback.timings.sampling > 0
    assert callback.timings.detection > 0
    assert callback.timings.total >= callback.timings.logging + callback.timings.waves > 0


def test_files(tmp_path: Path) -> None:
    callback = GenEvalCallback(scorer(), RECORDS, 2, every_n_epochs=1, log_images=3, seed=4)
    fit(tmp_path, callback)
    folder = tmp_path / "geneval" / "step-00000004"
    results = read_results(folder / "results.jsonl")
    assert len(results) == 16
    pictures = sorted(path.relative_to(folder).as_posix() for path in folder.glob("0*/**/*.png"))
    assert pictures == ["00000/samples/0000.png", "00001/samples/0000.png", "00002/samples/0000.png"]
    assert len(list(folder.glob("boxes/*.png"))) == 3
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["metrics"]["geneval/n"] == 16
    assert summary["fingerprint"]["backend"] == "fake"


def test_images_do_not_depend_on_batch_size_nor_step(tmp_path: Path) -> None:
    seen: list[dict[str, bytes]] = []
    for batch_size in (1, 3, 16):
        images: dict[str, bytes] = {}

        def sample(
            module: Any, prompts: list[str], seeds: list[int], images: dict[str, bytes] = images
        ) -> list[torch.Tensor]:
            made = module.generate(prompts, seeds)
            images |= {f"{p} {s}": i.numpy().tobytes() for p, s, i in zip(prompts, seeds, made, strict=True)}
            return made  # type: ignore[no-any-return]

        callback = GenEvalCallback(
            scorer(), RECORDS, 2, every_n_epochs=1, batch_size=batch_size, sample_fn=sample, log_images=0
        )
        fit(tmp_path / str(batch_size), callback)
        seen.append(images)
    assert len(seen[0]) == 16
    assert seen[0] == seen[1] == seen[2]


def test_fast_dev_run_once_with_two_prompts_and_nothing_shown(tmp_path: Path) -> None:
    module = make_painter()
    callback = GenEvalCallback(scorer(), RECORDS, 4, every_n_train_steps=1000)
    trainer = fit(tmp_path, callback, module=module, fast_dev_run=3, logger=CSVLogger(tmp_path))
    assert [len(call) for call in module.calls] == [2]
    assert trainer.callback_metrics["geneval/n"] == 2
    assert steps(tmp_path) == []
    assert not list(tmp_path.rglob("*"))


def test_validate_alone(tmp_path: Path) -> None:
    callback = GenEvalCallback(scorer(), RECORDS, on_validation=True, log_images=0, max_fraction=0.01)
    trainer = make_trainer(tmp_path, callbacks=[callback])
    trainer.validate(make_painter(), data(1, shuffle=False), verbose=False)
    assert trainer.callback_metrics["geneval/n"] == 8
    assert math.isnan(callback.best_score)


class Rising:
    """Pictures whose score rises from round to round: the first `n` of the batch are bright."""

    def __init__(self, *bright: int) -> None:
        self.bright = list(bright)

    def generate(self, prompts: list[str], seeds: list[int]) -> torch.Tensor:
        level = torch.zeros(len(prompts), 3, 16, 16)
        level[: self.bright.pop(0)] = 1.0
        return level


def test_checkpoint_by_score(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(
        tmp_path, "{step}", monitor="geneval/overall", mode="max", every_n_train_steps=1, save_top_k=1
    )
    callback = GenEvalCallback(scorer(), RECORDS, every_n_train_steps=1, sample_fn=Rising(1, 8, 2, 0), log_images=0)
    # First in the list, and yet it must see the score of its own step.
    fit(tmp_path, checkpoint, callback, enable_checkpointing=True)
    assert checkpoint.best_model_path.endswith("step=2.ckpt")
    assert callback.best_step == 2
    assert checkpoint.best_model_score == pytest.approx(callback.best_score)
    saved = torch.load(checkpoint.best_model_path, weights_only=True)
    assert saved["callbacks"][callback.state_key]["best_step"] == 2


@pytest.mark.parametrize("schedule", [{"on_validation": True}, {"every_n_train_steps": 2}])
@pytest.mark.parametrize("first", [True, False])
def test_early_stopping(tmp_path: Path, schedule: dict[str, Any], first: bool) -> None:
    stopping = EarlyStopping("geneval/overall", mode="max", patience=1)
    callback = GenEvalCallback(scorer(), RECORDS, **schedule, sample_fn=Rising(8, 0, 0, 0, 0), log_images=0)
    callbacks = [stopping, callback] if first else [callback, stopping]
    trainer = fit(tmp_path, *callbacks, max_epochs=5, val_check_interval=2)
    assert trainer.global_step == 4
    assert stopping.best_score == pytest.approx(callback.best_score)


def test_resume_continues_schedule_best_score_and_monitors(tmp_path: Path) -> None:
    def callbacks(*bright: int) -> tuple[GenEvalCallback, ModelCheckpoint]:
        callback = GenEvalCallback(scorer(), RECORDS, every_n_train_steps=3, sample_fn=Rising(*bright), log_images=0)
        return callback, ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=4, save_top_k=-1)

    first = callbacks(8)
    fit(tmp_path, *first, max_steps=4, max_epochs=5, enable_checkpointing=True)
    assert steps(tmp_path) == [3]
    second = callbacks(2, 1)
    trainer = make_trainer(tmp_path, callbacks=list(second), max_epochs=2, enable_checkpointing=True)
    seen: list[float] = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
            seen.append(trainer.callback_metrics["geneval/overall"].item())

    trainer.callbacks.append(Watch())
    trainer.fit(make_painter(), data(), ckpt_path=str(tmp_path / "step=4.ckpt"))
    assert steps(tmp_path) == [3, 6]
    assert second[0].best_step == 3
    assert second[0].best_score == first[0].best_score == pytest.approx(seen[0])


def test_two_callbacks_coexist(tmp_path: Path) -> None:
    one = GenEvalCallback(scorer(), RECORDS, every_n_train_steps=2, log_images=0)
    two = GenEvalCallback(scorer(), RECORDS[:2], 2, every_n_train_steps=4, name="geneval_small", log_images=0)
    trainer = fit(tmp_path, one, two, enable_checkpointing=True)
    assert steps(tmp_path) == [2, 4]
    assert steps(tmp_path, "geneval_small") == [4]
    assert trainer.callback_metrics["geneval_small/n"] == 4
    assert trainer.callback_metrics["geneval/n"] == 8
    with pytest.raises(RuntimeError, match="state_key"):
        make_trainer(tmp_path, callbacks=[one, GenEvalCallback(scorer(), RECORDS, every_n_epochs=1)])


@pytest.mark.parametrize("first", [True, False])
def test_ema_is_scored_whatever_the_order(tmp_path: Path, first: bool) -> None:
    seen: dict[int, torch.Tensor] = {}
    mismatches: list[int] = []

    def sample(module: Any, prompts: list[str], seeds: list[int]) -> Any:
        seen[module.trainer.global_step] = module.net[0].weight.detach().clone()
        return module.generate(prompts, seeds)

    class Check(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            average = averaging._average_model
            assert average is not None
            if trainer.global_step in seen and not torch.equal(
                seen[trainer.global_step],
                average.module.net[0].weight,  # type: ignore[union-attr, index, union-attr]
            ):
                mismatches.append(trainer.global_step)

    averaging = WeightAveraging()
    callback = GenEvalCallback(
        scorer(), RECORDS[:2], every_n_train_steps=1, weights="ema", sample_fn=sample, log_images=0
    )
    order = [callback, averaging] if first else [averaging, callback]
    fit(tmp_path, *order, Check())
    assert sorted(seen) == [1, 2, 3, 4]
    assert mismatches == []
    assert not torch.equal(seen[1], seen[4])


def test_current_weights_are_scored_after_a_validation_of_the_average(tmp_path: Path) -> None:
    """Lightning validates the average; the score of the current weights is of the current ones all the same."""
    seen: list[torch.Tensor] = []
    current: list[torch.Tensor] = []

    def sample(module: Any, prompts: list[str], seeds: list[int]) -> Any:
        seen.append(module.net[0].weight.detach().clone())
        return module.generate(prompts, seeds)

    class Note(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            current.append(pl_module.net[0].weight.detach().clone())

    callback = GenEvalCallback(scorer(), RECORDS[:2], on_validation=True, sample_fn=sample, log_images=0)
    fit(tmp_path, callback, WeightAveraging(), Note())
    assert torch.equal(seen[-1], current[-1])


def test_ema_before_its_first_update_is_refused(tmp_path: Path) -> None:
    class Late(WeightAveraging):
        def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
            return step_idx is not None and step_idx >= 2

    callback = GenEvalCallback(scorer(), RECORDS[:2], every_n_train_steps=2, weights="ema", log_images=0)
    with pytest.raises(
        RoundError, match=r"at step 2: RuntimeError: weights='ema': .* got a Late before its first update"
    ):
        fit(tmp_path, callback, Late())


def test_every_round_has_one_line_where_lightning_shows_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = GenEvalCallback(scorer(), RECORDS, images_per_prompt=2, every_n_train_steps=2, log_images=0)
    metrics = fit(tmp_path, callback).callback_metrics
    # Lightning shows what its own loggers say from INFO on, such as which devices there are.
    told = [
        record
        for record in caplog.records
        if record.name.startswith(("lightning.", "pytorch_lightning.")) and record.levelname == "INFO"
    ]
    lines = [record.getMessage() for record in told if record.getMessage().startswith("geneval ")]
    number = r"[01]\.\d{3}"
    count = rf"{len(RECORDS)} prompts \({2 * len(RECORDS)} images\)"
    form = rf"geneval ({number})( \[{number}, {number}\])?, {count}, \d+\.\d s, step (\d+)"
    found = [re.fullmatch(form, line) for line in lines]
    assert [one and int(one[3]) for one in found] == [2, 4]
    assert found[-1] is not None
    assert float(found[-1][1]) == pytest.approx(float(metrics["geneval/overall"]), abs=5e-4)


@pytest.mark.filterwarnings("ignore:.*all . images of a round are wrong", "ignore:.*all .. images of a round are wrong")
def test_max_seconds_scores_a_balanced_part_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("geneval_reward.callback.geneval.rank_zero.rank_zero_info", told.append)
    callback = GenEvalCallback(
        scorer(), "50/task", every_n_train_steps=1, max_seconds=0.01, batch_size=12, log_images=0
    )
    trainer = fit(tmp_path, callback, batches=2)
    metrics = trainer.callback_metrics
    assert metrics["geneval/n"] % 12 == 0
    assert 12 <= metrics["geneval/n"] < 300
    rows = read_results(tmp_path / "geneval" / "step-00000002" / "results.jsonl")
    tags = rows.tags.tolist()
    assert len({tags.count(tag) for tag in tags}) == 1
    assert len(set(tags)) == 6
    # How many waves fit into ten milliseconds is the machine's to say; that they are balanced is not.
    said = re.search(
        r"the budget allowed (\d+) of 300 images; prompts scored: single_object (\d+), two_object (\d+)", told[0]
    )
    assert said is not None
    images, single, two = map(int, said.groups())
    assert images == 6 * single == 6 * two


def test_max_fraction_leaves_rounds_out_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("geneval_reward.callback.geneval.rank_zero.rank_zero_info", told.append)
    callback = GenEvalCallback(scorer(), RECORDS, every_n_train_steps=1, max_fraction=0.001, log_images=0)
    fit(tmp_path, callback)
    assert steps(tmp_path) == [1], "the first round learns the cost; the others cannot afford it"
    assert sum("left out, since max_fraction=0.001 leaves" in text for text in told) == 3


def test_nothing_of_a_round_is_held(tmp_path: Path) -> None:
    """Neither pictures nor what the detector made of them."""
    judge = scorer()
    alive: list[weakref.ref[torch.Tensor]] = []
    look = judge.detector.detect

    def detect(images: Any, wanted: Any) -> Any:
        alive.extend(weakref.ref(image) for image in images)
        return look(images, wanted)

    judge.detector.detect = detect  # type: ignore[method-assign]
    callback = GenEvalCallback(judge, RECORDS, every_n_epochs=1)
    fit(tmp_path, callback)
    assert len(alive) == 8
    assert [reference() for reference in alive] == [None] * 8


def test_offload(tmp_path: Path) -> None:
    judge, moves = scorer(), []
    judge.detector.to = lambda device: moves.append(str(device))  # type: ignore[assignment, func-returns-value, method-assign]
    fit(tmp_path, GenEvalCallback(judge, RECORDS, every_n_train_steps=2, offload=True, log_images=0))
    assert moves == ["cpu", "cpu"] * 2
    moves.clear()

    def fail(*_: Any) -> Any:
        raise ArithmeticError

    with pytest.raises(RoundError):
        fit(tmp_path, GenEvalCallback(judge, RECORDS, every_n_train_steps=2, offload=True, sample_fn=fail))
    assert moves == ["cpu", "cpu"], "also when the round fails"


def test_mixed_precision_is_on_while_sampling(tmp_path: Path) -> None:
    seen: list[bool] = []

    def sample(module: Any, prompts: list[str], seeds: list[int]) -> Any:
        seen.append(torch.is_autocast_enabled("cpu"))
        return torch.zeros(len(prompts), 3, 16, 16)

    callback = GenEvalCallback(scorer(), RECORDS, every_n_epochs=1, sample_fn=sample, log_images=0)
    fit(tmp_path, callback, precision="bf16-mixed")
    assert seen == [True]


def test_backend_by_name_with_rules(tmp_path: Path) -> None:
    callback = GenEvalCallback("lite", RECORDS[:1], every_n_epochs=1, rules=Rules(confidence=0.6), log_images=0)
    fit(tmp_path, callback)
    assert callback.scorer.rules.confidence == 0.6  # type: ignore[union-attr]
    assert callback.scorer.name == "lite"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of"),
        ({"every_n_epochs": 1, "weights": "average"}, "weights: expected 'current' or 'ema', got 'average'"),
        ({"every_n_epochs": 1, "on_error": "ignore"}, "on_error: expected 'raise' or 'warn'"),
        ({"every_n_epochs": 1, "images_per_prompt": 0}, "images_per_prompt: expected an integer >= 1, got 0"),
        ({"every_n_epochs": 1, "batch_size": 0}, "batch_size: expected an integer >= 1"),
        ({"every_n_epochs": 1, "log_images": -1}, "log_images: expected an integer >= 0"),
        ({"every_n_epochs": 1, "scorer": 5}, "scorer: expected a scorer or the name of a backend, got int"),
        ({"every_n_epochs": 1, "rules": "lite"}, "rules: expected None"),
        ({"every_n_epochs": 1, "name": "geneval/"}, "name: expected a prefix"),
        ({"every_n_epochs": 1, "max_fraction": 5}, "max_fraction: expected a share"),
        ({"every_n_epochs": 1, "prompts": ["a photo of nonsense"]}, r"prompts\[0\]"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, SpecError), match=message):
        GenEvalCallback(**{"scorer": scorer()} | arguments)


def test_bad_images_end_training_with_their_name(tmp_path: Path) -> None:
    callback = GenEvalCallback(
        scorer(), RECORDS, every_n_train_steps=2, sample_fn=lambda m, p, s: torch.full((len(p), 3, 8, 8), -1.0)
    )
    with pytest.raises(
        RoundError, match=r"GenEvalCallback 'geneval' at step 2: ImageError: sample_fn: images\[0\]"
    ) as e:
        fit(tmp_path, callback)
    assert type(e.value.__cause__).__name__ == "ImageError"


def test_an_unknown_backend_is_named(tmp_path: Path) -> None:
    with pytest.raises(RoundError, match="could not load its scorer 'liter': UsageError: backend: expected one of"):
        fit(tmp_path, GenEvalCallback("liter", RECORDS, every_n_epochs=1))


def test_strategies_that_were_never_tested_are_refused() -> None:
    def strategy(name: str, **attributes: Any) -> Any:
        return type(name, (), attributes)()

    with pytest.raises(ValueError, match=r"strategy: expected DDP, FSDP, .* got DeepSpeed stage 3.*use one of these"):
        refuse_untested(strategy("DeepSpeedStrategy", config={"zero_optimization": {"stage": 3}}))
    with pytest.raises(ValueError, match="got XLA FSDP"):
        refuse_untested(strategy("XLAFSDPStrategy"))
    refuse_untested(strategy("DeepSpeedStrategy", config={"zero_optimization": {"stage": 2}}))
    for name in ("DDPStrategy", "FSDPStrategy", "FSDP2Strategy", "ModelParallelStrategy"):
        refuse_untested(strategy(name))


def test_order_keeps_groups() -> None:
    class Pruning:
        monitor = "geneval/overall"

    callback, stop, other = GenEvalCallback(scorer(), RECORDS, every_n_epochs=1), EarlyStopping("a"), pl.Callback()
    checkpoint, pruning = ModelCheckpoint(), Pruning()
    ordered = put_in_order([checkpoint, pruning, callback, stop, other])
    assert ordered == [other, callback, checkpoint, pruning, stop]
