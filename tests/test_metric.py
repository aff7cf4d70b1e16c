import copy
import importlib.util
import json
import math
import pickle
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib as mpl
import pytest
import torch
from lightning import LightningModule, Trainer
from torch.utils.data import DataLoader
from torchmetrics import Metric, MetricCollection
from torchmetrics.wrappers import BootStrapper

from geneval_reward import CREDITS, GenEvalScore, GenEvalScorer, PromptSpec, geneval_score
from geneval_reward.errors import ImageError, SpecError, UsageError
from geneval_reward.prompts import TAGS, official_suite
from geneval_reward.stats import clustered_bootstrap
from geneval_reward.testing import FakeDetector, FakeVerifier, scorer_for

WORKER = Path(__file__).parent / "ddp" / "metric_worker.py"


def load_worker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("metric_worker", WORKER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # pickle looks functions up by their module
    spec.loader.exec_module(module)
    return module


worker = load_worker()
SUITE = official_suite()
# Every tag, some prompts twice; verdicts and credits differ.
ROWS = [0, 1, 2, 3, 80, 81, 82, 179, 180, 181, 182, 259, 260, 353, 354, 355, 453, 454, 455, 0]
BATCHES = [ROWS[i : i + 4] for i in range(0, len(ROWS), 4)]


def inputs(rows: list[int]) -> tuple[list[torch.Tensor], list[str]]:
    return worker.images_of(rows), [SUITE[row].prompt for row in rows]


def make(credit: str = "official", **options: Any) -> GenEvalScore:
    metric: GenEvalScore = worker.make(credit, **options)
    return metric


def by_hand(rows: list[int], credit: str = "official") -> float:
    """Macro mean of the credits, without torch."""
    images, prompts = inputs(rows)
    values: dict[str, list[float]] = {}
    for verdict in make().scorer.score(images, prompts):
        values.setdefault(verdict.spec.tag, []).append(verdict.credit(credit))
    means = [sum(group) / len(group) for group in values.values()]
    return sum(means) / len(means)


@pytest.fixture
def quiet() -> Iterator[None]:
    """For sets that lack tags on purpose."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="GenEvalScore: no images for")
        yield


# --- against the functional form ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("credit", CREDITS)
def test_per_batch_and_in_total_it_is_the_functional_form(credit: str) -> None:
    metric, scorer = make(credit), make().scorer
    for rows in BATCHES:
        value = metric(*inputs(rows))
        assert value.dtype == torch.float32
        assert value.shape == ()
        torch.testing.assert_close(value, geneval_score(*inputs(rows), scorer, credit))
        assert float(value) == pytest.approx(by_hand(rows, credit))
    total = geneval_score(*inputs(ROWS), scorer, credit)
    torch.testing.assert_close(metric.compute(), total)
    assert float(total) == pytest.approx(by_hand(ROWS, credit))
    updated = make(credit)
    for rows in reversed(BATCHES):
        updated.update(*inputs(rows))
    torch.testing.assert_close(updated.compute(), total)


def test_any_scorer_and_lazily_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere:
        name, rules = "elsewhere", make().scorer.rules

        def score(self, images: Any, specs: Any) -> Any:
            return make().scorer.score(images, specs)

        def fingerprint(self) -> dict[str, Any]:
            return {}

        def to(self, device: Any) -> Any:
            return self

    metric = GenEvalScore(Elsewhere())
    metric.update(*inputs(ROWS))
    assert float(metric.compute()) == pytest.approx(by_hand(ROWS))
    loads: list[str] = []
    monkeypatch.setattr(GenEvalScorer, "from_pretrained", lambda name: loads.append(name) or Elsewhere())
    named = GenEvalScore("lite")
    clones = [named, named.clone(), copy.deepcopy(named)]
    assert not loads
    for clone in clones:
        clone.update(*inputs(ROWS))
    assert loads == ["lite"]


@pytest.mark.parametrize("call", ["update", "forward"])
def test_credits_over_one_scorer_detect_once(call: str) -> None:
    scorer = make().scorer
    scorer.detector.calls.clear()  # type: ignore[attr-defined]
    metrics = MetricCollection({credit: GenEvalScore(scorer, credit) for credit in ("official", "strict", "dense")})
    for rows in BATCHES:
        (metrics if call == "forward" else metrics.update)(*inputs(rows))
    assert scorer.detector.calls == [len(rows) for rows in BATCHES]  # type: ignore[attr-defined]
    assert {name: float(value) for name, value in metrics.compute().items()} == pytest.approx(
        {credit: by_hand(ROWS, credit) for credit in metrics}
    )


def test_a_buffer_that_is_filled_again_is_another_batch() -> None:
    first, second = (GenEvalScore(make().scorer) for _ in range(2))
    second = GenEvalScore(first.scorer)
    images, prompts = inputs(ROWS)
    batch = torch.stack(images[:4])
    first.update(batch, prompts[:4])
    batch.copy_(torch.stack(images[4:8]))
    second.update(batch, prompts[:4])
    direct = make()
    direct.update(torch.stack(images[4:8]), prompts[:4])
    assert second.total.tolist() == direct.total.tolist()


@pytest.mark.parametrize("credit", ["official", "dense"])
def test_half_precision_does_not_round_the_counters(credit: str) -> None:
    metric = make(credit).set_dtype(torch.float16)
    metric.update(*inputs(ROWS))
    assert metric.total.dtype == torch.int64
    assert float(metric.compute()) == pytest.approx(by_hand(ROWS, credit))


def test_the_first_state_tells_credits_apart() -> None:
    """torchmetrics 1.4 compares only the first state before it lets two metrics share theirs."""
    scorer = make().scorer
    first = [next(iter(GenEvalScore(scorer, credit)._defaults)) for credit in ("official", "dense")]
    assert first == ["identity", "identity"]
    assert not torch.equal(GenEvalScore(scorer).identity, GenEvalScore(scorer, "dense").identity)


@pytest.mark.parametrize("strategy", ["multinomial", "poisson"])
def test_bootstrapper_resamples_prompts_with_their_images(quiet: None, strategy: str) -> None:
    images, prompts = inputs(ROWS)
    batch, rows = torch.stack(images), torch.tensor(ROWS)
    torch.manual_seed(0)
    metric = BootStrapper(make(), num_bootstraps=40, sampling_strategy=strategy)
    metric.update(batch, rows)
    found = metric.compute()
    assert abs(float(found["mean"]) - by_hand(ROWS)) < 3 * float(found["std"]) / 40**0.5 + 0.05
    with pytest.raises(UsageError, match="prompts: expected an integer tensor of rows"):
        BootStrapper(make(), num_bootstraps=2, sampling_strategy="multinomial").update(batch, prompts)
    with pytest.raises(UsageError, match=r"prompts\[1\]: expected a row of the metric's prompts in 0..552, got 999"):
        make().update(batch[:2], torch.tensor([0, 999]))


def test_credits_really_differ_here() -> None:
    # Else the test above could not tell them apart.
    assert len({round(by_hand(ROWS, credit), 6) for credit in CREDITS}) == len(CREDITS)


def test_a_whole_epoch_is_silent_even_though_its_batches_lack_tags() -> None:
    metric = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for rows in BATCHES:
            metric(*inputs(rows))
        metric.compute()
        metric.breakdown()


def test_missing_tags_warn_once() -> None:
    metric = make()
    metric(*inputs([0, 80]))
    with pytest.warns(UserWarning, match=r"no images for counting, colors, position, color_attr; the overall is over"):
        assert float(metric.compute()) == pytest.approx(by_hand([0, 80]))
    metric.update(*inputs([1]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metric.compute()


def test_one_prompt_may_be_a_plain_string(quiet: None) -> None:
    images, (prompt,) = inputs([2])
    assert make()(images, prompt) == make()(images, [prompt]) == geneval_score(images, prompt, make().scorer)


def test_batch_arrays_and_records_are_understood(quiet: None) -> None:
    images, _ = inputs([0, 80, 180])
    expected = by_hand([0, 80, 180])
    specs = [SUITE[row] for row in (0, 80, 180)]
    for prompts in (specs, [spec.to_record() for spec in specs], [spec.to_json() for spec in specs]):
        assert float(make()(torch.stack(images).float() / 255, prompts)) == pytest.approx(expected)


def test_nothing_gives_nan() -> None:
    metric = make()
    metric.update([], [])
    assert math.isnan(metric.compute())
    assert math.isnan(geneval_score([], [], make().scorer))
    parts = metric.breakdown()
    assert math.isnan(parts["overall"])
    assert math.isnan(parts["micro"])
    assert math.isnan(parts["pass_at_k"])
    assert (parts["n"], parts["prompts"], parts["coverage"]) == (0, 0, 0)


def test_forward_runs_the_detector_once_a_batch() -> None:
    metric = make()
    for rows in BATCHES:
        metric(*inputs(rows))
    assert isinstance(metric.scorer.detector, FakeDetector)
    assert metric.scorer.detector.calls == [len(rows) for rows in BATCHES]


def test_forward_after_update_keeps_what_was_counted() -> None:
    metric = make()
    metric.update(*inputs(BATCHES[0]))
    metric(*inputs(BATCHES[1]))
    metric.update(*inputs(BATCHES[2]))
    assert int(metric.images.sum()) == 12
    assert metric.update_count == 3


# --- breakdown ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("credit", CREDITS)
def test_breakdown_is_what_a_summary_of_the_same_images_says(credit: str) -> None:
    metric = make(credit)
    verdicts = metric.scorer.score(*inputs(ROWS))
    metric.add(verdicts)
    parts = metric.breakdown()
    prompts, tags = [one.spec.to_json() for one in verdicts], [one.spec.tag for one in verdicts]
    found = clustered_bootstrap([one.credit(credit) for one in verdicts], prompts, tags, draws=100)
    official = clustered_bootstrap([one.credit("official") for one in verdicts], prompts, tags, draws=100)
    assert parts["overall"] == pytest.approx(found.overall.value) == pytest.approx(float(metric.compute()))
    assert parts["micro"] == pytest.approx(found.micro.value)
    assert {tag: parts[tag] for tag in TAGS} == pytest.approx({t: e.value for t, e in found.tags.items()}, abs=1e-9)
    assert (parts["n"], parts["prompts"]) == (20, 19)
    assert parts["pass_at_k"] == pytest.approx(official.pass_any.value)
    assert parts["coverage"] == pytest.approx(19 / 553)
    assert list(parts) == ["overall", "micro", *TAGS, "n", "prompts", "pass_at_k", "coverage"]


def test_a_prompt_is_solved_by_any_of_its_images(quiet: None) -> None:
    spec = SUITE[0]
    found = {"on": True}
    detector = FakeDetector(lambda image: {spec.include[0].class_name: [[0, 0, 9, 9, 0.9]]} if found["on"] else {})
    metric = GenEvalScore(scorer_for(detector))
    image = torch.zeros(1, 3, 16, 16)
    for found["on"] in (False, True, False):
        metric.update(image, [spec])
    found["on"] = False
    metric.update(image, [SUITE[1]])
    parts = metric.breakdown()
    assert (parts["micro"], parts["pass_at_k"], parts["prompts"]) == (0.25, 0.5, 2)


def test_own_prompts_are_the_table(quiet: None) -> None:
    mine = [
        PromptSpec.parse({"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": text})
        for text in ("ein Hund", "un chien", "a photo of a bench")
    ]
    metric = GenEvalScore(scorer_for(FakeDetector({"dog": [[0, 0, 9, 9, 0.9]]})), prompts=mine)
    assert metric(torch.zeros(3, 3, 16, 16), ["ein Hund", "a photo of a bench", "a photo of a cat"]) == pytest.approx(
        2 / 3
    )
    parts = metric.breakdown()
    # The cat is of the official suite and not of the table.
    assert (parts["n"], parts["prompts"], parts["pass_at_k"]) == (3, 2, 1)
    assert parts["coverage"] == pytest.approx(2 / 3)


def test_records_outside_the_table_count_in_the_score_only(quiet: None) -> None:
    record = {"tag": "colors", "include": [{"class": "dog", "count": 2, "color": "red"}]}
    metric = GenEvalScore(scorer_for(FakeDetector({"dog": [[0, 0, 9, 9, 0.9], [10, 0, 19, 9, 0.8]]})))
    assert metric(torch.zeros(1, 3, 16, 16), [record]) == 1
    parts = metric.breakdown()
    assert (parts["colors"], parts["n"], parts["prompts"]) == (1, 1, 0)
    assert math.isnan(parts["pass_at_k"])


# --- refusals -----------------------------------------------------------------------------------------------------------


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"credit: expected one of official, .*, got 'best'"):
        make("best")
    with pytest.raises(ValueError, match=r"credit: expected one of official, .*, got 'best'"):
        geneval_score(*inputs([0]), make().scorer, "best")
    with pytest.raises(ValueError, match=r"scorer: expected a scorer or the name of a backend, got FakeDetector"):
        GenEvalScore(FakeDetector({}))  # type: ignore[arg-type]


@pytest.mark.parametrize("call", ["update", "forward"])
def test_bad_input_is_named_and_loses_nothing(call: str) -> None:
    metric = make()
    metric(*inputs(ROWS))
    before = float(metric.compute())
    images, prompts = inputs([0, 1])
    bad: list[tuple[Any, Any, type[Exception], str]] = [
        ([images[0], torch.full((3, 8, 8), torch.nan)], prompts, ImageError, r"images\[1\]: expected finite"),
        (images, [prompts[0], "a photo of a dragon"], SpecError, r"specs\[1\]: prompt: expected a prompt text"),
        (images, prompts[:1], ValueError, r"specs: expected 2, one per image, got 1"),
        (images, SUITE[0], ValueError, r"specs: expected a sequence"),
    ]
    for some, texts, error, message in bad:
        with pytest.raises(error, match=message):
            getattr(metric, call)(some, texts)
    metric.update([], [])
    assert float(metric.compute()) == before
    assert int(metric.images.sum()) == 20


def test_a_backend_name_is_loaded_on_first_use(monkeypatch: pytest.MonkeyPatch, quiet: None) -> None:
    loaded: list[str] = []

    def load(name: str) -> GenEvalScorer:
        loaded.append(name)
        return scorer_for(FakeDetector(worker.answers))

    monkeypatch.setattr(GenEvalScorer, "from_pretrained", load)
    metric = GenEvalScore("lite")
    assert loaded == []
    for _ in range(2):
        metric(*inputs([0]))
    assert loaded == ["lite"]
    assert geneval_score(*inputs([0]), "paper") == geneval_score(*inputs([0]), make().scorer)
    assert loaded == ["lite", "paper"]


# --- a metric among metrics ---------------------------------------------------------------------------------------------


def test_reset() -> None:
    metric = make()
    metric(*inputs(ROWS))
    metric.reset()
    assert int(metric.images.sum()) == int(metric.total.sum()) == int(metric.by_prompt.sum()) == 0
    assert not metric.update_called
    metric.update(*inputs(ROWS))
    assert float(metric.compute()) == pytest.approx(by_hand(ROWS))


def test_reset_within_inference_mode_does_not_freeze_it() -> None:
    metric = make()
    with torch.inference_mode():
        metric.update(*inputs(ROWS))
        metric.reset()
    metric.update(*inputs(ROWS))
    metric(*inputs(ROWS))
    assert int(metric.images.sum()) == 40


def test_clone_and_deepcopy_share_the_scorer_and_nothing_else() -> None:
    metric = make()
    metric.update(*inputs(ROWS))
    for twin in (metric.clone(), copy.deepcopy(metric)):
        assert twin.scorer is metric.scorer
        assert twin.compute() == metric.compute()
        twin.update(*inputs([0]))
        assert int(twin.images.sum()) == 21
        assert int(metric.images.sum()) == 20


def test_pickle() -> None:
    metric = make("dense")
    metric.update(*inputs(ROWS))
    again = pickle.loads(pickle.dumps(metric))
    assert again.compute() == metric.compute()
    assert again.breakdown() == metric.breakdown()
    again.update(*inputs(ROWS))
    assert int(again.images.sum()) == 40


def test_hash_tells_metrics_apart() -> None:
    first, second = make(), make()
    assert hash(first) != hash(second)
    assert hash(first) == hash(first)
    assert len({first, second, first}) == 2


def test_state_dict_is_empty() -> None:
    metric = make()
    metric.update(*inputs(ROWS))
    assert metric.state_dict() == {}
    assert list(metric.parameters()) == []
    assert list(metric.buffers()) == []
    parent = torch.nn.ModuleDict({"score": metric, "layer": torch.nn.Linear(2, 2)})
    assert set(parent.state_dict()) == {"layer.weight", "layer.bias"}
    parent.load_state_dict(parent.state_dict())


@pytest.mark.parametrize("cast", ["half", "bfloat16", "float", "double"])
def test_casts_of_the_parent_do_not_reach_it(cast: str) -> None:
    for credit in ("official", "dense"):
        metric = make(credit)
        parent = torch.nn.Module()
        parent.score = metric
        getattr(parent, cast)()
        parent.to(torch.bfloat16)  # as Lightning's "bf16-true" does
        metric.update(*inputs(ROWS))
        getattr(parent, cast)()
        assert {state.dtype for state in metric.metric_state.values()} == {torch.int64}
        assert float(metric.compute()) == pytest.approx(by_hand(ROWS, credit))


def test_counts_stay_exact_where_floats_would_not(quiet: None) -> None:
    metric = make()
    metric.update(*inputs([0]))
    metric.images[0] = metric.total[0] = 2**24
    metric.update(*inputs([1]))
    assert int(metric.images[0]) == 2**24 + 1


@pytest.mark.parametrize("credit", ["official", "dense"])
def test_merge_state(credit: str) -> None:
    whole, first, second = make(credit), make(credit), make(credit)
    whole.update(*inputs(ROWS))
    first.update(*inputs(ROWS[:7]))
    second.update(*inputs(ROWS[7:]))
    first.merge_state(second)
    torch.testing.assert_close(first.compute(), whole.compute())
    assert first.breakdown() == pytest.approx(whole.breakdown())
    third = make(credit)
    third.update([], [])
    third.merge_state({name: getattr(whole, name) for name in whole.metric_state})
    torch.testing.assert_close(third.compute(), whole.compute())


def test_add_counts_verdicts_made_elsewhere() -> None:
    metric = make("dense")
    verdicts = metric.scorer.score(*inputs(ROWS))
    metric.add(verdicts[:9])
    metric.add(verdicts[9:])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert float(metric.compute()) == pytest.approx(by_hand(ROWS, "dense"))
    metric.add(verdicts)
    assert int(metric.images.sum()) == 40


class PromptLength(Metric):
    """Another metric of images and prompt strings."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("length", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, images: list[torch.Tensor], text: list[str]) -> None:
        assert all(isinstance(prompt, str) for prompt in text)
        self.length = self.length + sum(map(len, text))

    def compute(self) -> torch.Tensor:
        return self.length


def test_in_a_collection_beside_another_image_text_metric() -> None:
    collection = MetricCollection({"geneval": make(), "length": PromptLength()})
    for rows in BATCHES:
        values = collection(*inputs(rows))
        assert float(values["geneval"]) == pytest.approx(by_hand(rows))
    result = collection.compute()
    assert float(result["geneval"]) == pytest.approx(by_hand(ROWS))
    assert int(result["length"]) == sum(len(SUITE[row].prompt) for row in ROWS)
    assert set(collection.clone(prefix="val/").compute()) == {"val/geneval", "val/length"}


def test_a_collection_does_not_mix_up_metrics_that_begin_alike(quiet: None) -> None:
    # torchmetrics lets metrics of equal states share one from then on; on [1] all credits are 1, on [0] they are not.
    scorer = make().scorer
    other = scorer_for(FakeDetector(lambda image: worker.answers(image) if worker.number(image) else {}))
    metrics: dict[str, Metric] = {credit: GenEvalScore(scorer, credit) for credit in CREDITS}
    metrics["other scorer"] = GenEvalScore(other)
    metrics["same"] = GenEvalScore(scorer)
    collection = MetricCollection(metrics)
    collection.update(*inputs([1]))
    assert {float(value) for value in collection.compute().values()} == {1.0}
    collection.update(*inputs([0]))
    expected = {credit: by_hand([1, 0], credit) for credit in CREDITS}
    assert len(set(expected.values())) > 1
    expected |= {"other scorer": 0.5, "same": expected["official"]}
    assert {name: float(value) for name, value in collection.compute().items()} == pytest.approx(expected)
    # What may be shared is: the same credit of the same scorer.
    assert {frozenset(group) for group in collection.compute_groups.values() if len(group) > 1} == {
        frozenset({"official", "same"})
    }


def test_in_a_collection_beside_clip_score(tmp_path: Path) -> None:
    from torchmetrics.multimodal import CLIPScore
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    class Clip(CLIPModel):
        # transformers 5 returns an output object where torchmetrics 1.9 expects the features.
        def get_text_features(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            return getattr(found := super().get_text_features(*args, **kwargs), "pooler_output", found)

        def get_image_features(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            return getattr(found := super().get_image_features(*args, **kwargs), "pooler_output", found)

    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**small, "vocab_size": 130, "eos_token_id": 129, "bos_token_id": 128, "pad_token_id": 129},
        vision_config={**small, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    letters = [chr(c) for c in range(33, 97)]
    vocabulary = {token: i for i, token in enumerate([*letters, *(letter + "</w>" for letter in letters)])}
    vocabulary |= {"<|startoftext|>": 128, "<|endoftext|>": 129}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    processor = CLIPProcessor(CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32), tokenizer)

    torch.manual_seed(0)
    clip = CLIPScore(model_name_or_path=lambda: (Clip(config), processor))
    collection = MetricCollection({"geneval": make(), "clip": clip})
    alone = make()
    for rows in BATCHES:
        collection.update(*inputs(rows))
        alone.update(*inputs(rows))
    result = collection.compute()
    assert result["geneval"] == alone.compute()
    assert math.isfinite(result["clip"])


# --- several processes --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_with_uneven_and_empty_shares(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(WORKER), str(tmp_path)], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    for name, shares in worker.SHARES.items():
        everything = [row for share in shares for row in share]
        for credit in ("official", "dense"):
            whole = make(credit)
            worker.feed(whole, everything)
            parts = whole.breakdown()
            for rank, found in enumerate(result[f"{name}/{credit}"] for result in ranks):
                assert found["compute"] == pytest.approx(parts["overall"], abs=1e-7)
                assert found["breakdown"] == pytest.approx(parts)
                assert found["local_images"] == len(shares[rank])
                assert found["doubled"] == pytest.approx(parts | {"n": 2 * len(everything)})
    forbidden = set("lightning pytorch_lightning open_clip diffusers wandb cv2 fastapi ray mmdet onnxruntime".split())
    assert not forbidden & set(ranks[0]["modules"])
    total = geneval_score(*inputs([row for share in worker.SHARES["uneven"] for row in share]), make().scorer)
    for rank, result in enumerate(ranks):
        assert result["forward"]["compute"] == pytest.approx(float(total))
        share = worker.SHARES["uneven"][rank]
        batches = [by_hand(share[i : i + 2]) for i in range(0, len(share), 2)]
        assert result["forward"]["batches"] == pytest.approx(batches)
    first_rows = [row for share in worker.SHARES["uneven"] for row in share[:2]]
    assert [result["synced_step"] for result in ranks] == pytest.approx([by_hand(first_rows)] * 2)


# --- Lightning ----------------------------------------------------------------------------------------------------------


class Logging(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.score = make()
        self.dense = make("dense")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, rows: torch.Tensor) -> torch.Tensor:
        images, prompts = inputs(rows.tolist())
        self.score(images, prompts)
        self.log("train/geneval", self.score, on_step=True, on_epoch=True, batch_size=len(rows))
        return self.layer(torch.ones(1, 1)).sum()

    def validation_step(self, rows: torch.Tensor) -> None:
        self.dense.update(*inputs(rows.tolist()))
        self.log("val/geneval", self.dense, batch_size=len(rows))


def test_a_lightning_module_logs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = Logging()
    # Small loaders on the CPU are what is wanted here.
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=r".*(does not have many workers|number of training batches|LeafSpec).*"
        )
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        trainer = Trainer(
            max_epochs=2,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(module, DataLoader(ROWS, batch_size=10), DataLoader(ROWS, batch_size=7))
    logged = trainer.logged_metrics
    assert float(logged["train/geneval_step"]) == pytest.approx(by_hand(ROWS[10:]))
    assert float(logged["train/geneval_epoch"]) == pytest.approx(by_hand(ROWS))
    assert float(logged["val/geneval"]) == pytest.approx(by_hand(ROWS, "dense"))
    # Lightning reset both for each epoch.
    assert int(module.score.images.sum()) == int(module.dense.images.sum()) == 0
    assert set(module.state_dict()) == {"layer.weight", "layer.bias"}


def test_repr_names_scorer_and_credit() -> None:
    assert repr(GenEvalScore("paper", credit="dense")) == "GenEvalScore('paper', credit='dense')"
    assert repr(make("partial")) == f"GenEvalScore({make().scorer.name!r}, credit='partial')"


# --- plot ---------------------------------------------------------------------------------------------------------------


def test_plot() -> None:
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    metric = make()
    values = [metric(*inputs(rows)) for rows in BATCHES]
    axes = metric.plot()[1]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [*TAGS, "overall"]
    parts = metric.breakdown()
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == pytest.approx([parts[name] for name in (*TAGS, "overall")])
    assert [text.get_text() for text in axes.texts] == [f"{width:.3f}" for width in widths]
    # The intervals are those of the clustered bootstrap over the same verdicts.
    images, prompts = inputs(ROWS)
    verdicts = metric.scorer.score(images, prompts)
    scores = clustered_bootstrap(
        [one.correct for one in verdicts], prompts, [one.spec.tag for one in verdicts], draws=2000
    )
    drawn = [tuple(line.get_xdata()) for line in axes.get_lines()]
    ends = [one.interval for one in (*scores.tags.values(), scores.overall)]
    assert drawn == [pytest.approx((one.low, one.high)) for one in ends]
    # The states of a graded credit do not hold what its intervals need.
    dense = make("dense")
    dense.add(verdicts)
    assert not dense.plot()[1].get_lines()
    _, mine = plt.subplots()
    assert metric.plot(values, ax=mine)[1] is mine
    assert list(mine.get_lines()[0].get_ydata()) == pytest.approx([float(value) for value in values])
    metric.plot(values[0])
    # A credit that goes below zero is not cut off at zero.
    low = GenEvalScore(scorer_for(FakeDetector({"dog": [[0, 0, 9, 9, 0.9]] * 12}), FakeVerifier()), "flow_grpo")
    record = {"tag": "single_object", "include": [{"class": "dog", "count": 1}]}
    low.update(torch.zeros(1, 3, 16, 16), [record])
    assert low.plot()[1].get_xlim()[0] < -10
    plt.close("all")
