import copy
import json
import pickle
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from lightning import LightningModule

from geneval_reward import GenEvalScorer, PromptSpec, Rules, official_suite
from geneval_reward.errors import ImageError, SpecError
from geneval_reward.judge import Detections
from geneval_reward.prompts import CLASS_IDS, COLORS
from geneval_reward.testing import FakeDetector, FakeVerifier, scorer_for
from geneval_reward.vision.photos import photo
from geneval_reward.vision.protocols import ColorQuery, Detector, Verifier, Wanted

DOG = {"tag": "single_object", "include": [{"class": "dog", "count": 1}]}
RED_CUP = {"tag": "colors", "include": [{"class": "cup", "count": 1, "color": "red"}]}
DOG_BOX = [4, 4, 28, 28, 0.9]


def paint(*values: int, side: int = 32) -> list[torch.Tensor]:
    """Images that carry a number in their pixels, so that a fake can tell them apart."""
    return [torch.full((3, side, side), value, dtype=torch.uint8) for value in values]


def number(image: torch.Tensor) -> int:
    return int(image[0, 0, 0])


def dogs_by_number(image: torch.Tensor) -> dict[str, list[list[float]]]:
    """Image `n` holds `n` dogs."""
    return {"dog": [[8.0 * i, 0, 8.0 * i + 6, 6, 0.9 - 0.01 * i] for i in range(number(image))]}


def dogs(count: int) -> dict[str, Any]:
    return {
        "tag": "counting",
        "include": [{"class": "dog", "count": count}],
        "exclude": [{"class": "dog", "count": count + 1}],
    }


class Watching:
    """A detector that does something before it answers as another does."""

    name = "watching"

    def __init__(self, before: Callable[[Sequence[torch.Tensor]], None], answers: Any = None) -> None:
        self.before = before
        self.inner = FakeDetector(answers or {"dog": [DOG_BOX]})

    def detect(self, images: Sequence[torch.Tensor], wanted: Sequence[Wanted]) -> list[Detections]:
        self.before(images)
        return self.inner.detect(images, wanted)

    def fingerprint(self) -> dict[str, Any]:
        return {"name": self.name}

    def to(self, device: torch.device | str) -> "Watching":
        return self


class CountingVerifier(FakeVerifier):
    def __init__(self, answer: Any = "red") -> None:
        super().__init__(answer)
        self.calls: list[list[ColorQuery]] = []

    def colors(self, queries: Sequence[ColorQuery]) -> npt.NDArray[np.float32]:
        self.calls.append(list(queries))
        return super().colors(queries)


# --- order and batching -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100])
def test_one_verdict_per_image_in_order_whatever_the_batch_size(batch_size: int) -> None:
    numbers = [3, 0, 5, 1, 4, 2, 2]
    detector = FakeDetector(dogs_by_number)
    scorer = scorer_for(detector, batch_size=batch_size, rules={"counting_confidence": 0.5})
    verdicts = scorer.score(paint(*numbers), [dogs(2)] * 7)
    assert [verdict.kept.get("dog", 0) for verdict in verdicts] == numbers
    assert [verdict.correct for verdict in verdicts] == [n == 2 for n in numbers]
    assert sum(detector.calls) == 7
    assert max(detector.calls) == min(batch_size, 7)
    assert len(detector.calls) == -(-7 // batch_size)


def test_nothing_in_nothing_out() -> None:
    detector = FakeDetector({})
    assert scorer_for(detector).score([], []) == []
    assert detector.calls == []


def test_every_form_of_a_spec() -> None:
    bench = official_suite()[0]
    specs = [bench, bench.to_record(), bench.to_json(), bench.prompt]
    verdicts = scorer_for(FakeDetector({"bench": [DOG_BOX]})).score(paint(0, 1, 2, 3), specs)
    assert [verdict.spec for verdict in verdicts] == [bench] * 4
    assert all(verdict.correct for verdict in verdicts)


def test_sizes_may_differ_within_a_batch() -> None:
    images = [torch.zeros(3, 20, 40), torch.zeros(3, 50, 30)]
    verdicts = scorer_for(FakeDetector({})).score(images, [DOG, DOG])
    assert [verdict.detections.image_size for verdict in verdicts] == [(40, 20), (30, 50)]


# --- what the parts are asked for ---------------------------------------------------------------------------------------


def test_detectors_are_asked_for_what_the_records_name_only() -> None:
    seen: list[Wanted] = []

    class Curious(FakeDetector):
        def detect(self, images: Sequence[torch.Tensor], wanted: Sequence[Wanted]) -> list[Detections]:
            seen.extend(wanted)
            return super().detect(images, wanted)

    answers = {"cup": [DOG_BOX], "dog": [DOG_BOX], "cat": [[0, 0, 9, 9, 0.04], [0, 0, 9, 9, 0.06]]}
    record = {**RED_CUP, "exclude": [{"class": "cat", "count": 1}]}
    verdict = scorer_for(Curious(answers)).score(paint(0), [record])[0]
    assert seen == [Wanted(frozenset({CLASS_IDS["cup"], CLASS_IDS["cat"]}), frozenset({CLASS_IDS["cup"]}), 0.05)]
    assert sorted(verdict.detections.class_names) == ["cat", "cup"]
    everything = scorer_for(Curious(answers), all_classes=True).score(paint(0), [record])[0]
    assert seen[1].class_ids is None
    assert everything.kept == {"cup": 1, "dog": 1}
    assert everything.credits() == verdict.credits()


def test_colours_are_asked_once_a_batch_and_only_where_a_credit_looks() -> None:
    two_cups = {
        "tag": "colors",
        "include": [{"class": "cup", "count": 2, "color": "red"}, {"class": "dog", "count": 1}],
    }
    cups = [[0, 0, 9, 9, 0.5], [10, 0, 19, 9, 0.9], [20, 0, 29, 9, 0.2], [0, 10, 9, 19, 0.4]]
    verifier = CountingVerifier(lambda query: "blue" if query.xyxy[0] == 10 else "red")
    scorer = scorer_for(FakeDetector({"cup": cups, "dog": [DOG_BOX]}), verifier, batch_size=3)
    images = paint(0, 1, 2, 3)
    verdicts = scorer.score(images, [DOG, two_cups, RED_CUP, RED_CUP])
    asked = [[(number(q.image), q.class_name, q.xyxy[0]) for q in call] for call in verifier.calls]
    # First batch: the two surest cups of image 1 and the surest of image 2, in row order; none for the dog.
    assert asked == [[(1, "cup", 0), (1, "cup", 10), (2, "cup", 10)], [(3, "cup", 10)]]
    assert verdicts[0].detections.color is None
    color = verdicts[1].detections.color
    assert color is not None
    rows = verdicts[1].detections.class_names
    assert [name for name, row in zip(rows, color, strict=True) if not np.isnan(row).any()] == ["cup", "cup"]
    assert verdicts[1].reason == "expected red cup>=2, found 1 red; and 1 red, 1 blue"
    assert [verdict.credit("partial") for verdict in verdicts[2:]] == [0.0, 0.0]
    assert all(verdict.dense < 1 for verdict in verdicts[1:])


def test_the_verifier_gets_the_mask_of_its_object() -> None:
    mask = np.zeros((2, 32, 32), bool)
    mask[1, 3:5, 6:8] = True

    class Masked(FakeDetector):
        def detect(self, images: Sequence[torch.Tensor], wanted: Sequence[Wanted]) -> list[Detections]:
            return [
                Detections(np.array([[0, 0, 9, 9]] * 2), np.array([0.6, 0.9]), np.array([41, 41]), (32, 32), mask)
                for _ in images
            ]

    verifier = CountingVerifier()
    verdict = scorer_for(Masked({}), verifier).score(paint(0), [RED_CUP])[0]
    ((query,),) = verifier.calls
    assert query.mask is not None
    np.testing.assert_array_equal(query.mask, mask[1])
    assert verdict.correct
    assert verdict.detections.mask is None


def test_no_verifier_is_fine_until_a_colour_is_asked() -> None:
    scorer = GenEvalScorer(FakeDetector({"dog": [DOG_BOX], "cup": [DOG_BOX]}))
    assert scorer.score(paint(0), [DOG])[0].correct
    with pytest.raises(ValueError, match=r"verifier: expected one, since a record asks for a colour, got None"):
        scorer.score(paint(0), [RED_CUP])
    assert scorer.fingerprint()["verifier"] is None


def test_parts_that_lose_rows_are_noticed() -> None:
    class Short(FakeDetector):
        def detect(self, images: Sequence[torch.Tensor], wanted: Sequence[Wanted]) -> list[Detections]:
            return super().detect(images[:-1], wanted[:-1])

    class ShortVerifier(FakeVerifier):
        def colors(self, queries: Sequence[ColorQuery]) -> npt.NDArray[np.float32]:
            return super().colors(queries[:-1])

    with pytest.raises(RuntimeError, match=r"detector: expected 2 results, got 1; its batching is broken"):
        scorer_for(Short({})).score(paint(0, 1), [DOG, DOG])
    with pytest.raises(RuntimeError, match=r"verifier: expected 2 rows, got 1; its batching is broken"):
        scorer_for(FakeDetector({"cup": [DOG_BOX]}), ShortVerifier()).score(paint(0, 1), [RED_CUP, RED_CUP])


# --- refusals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("specs", "error", "message"),
    [
        ([DOG, {**DOG, "tag": "x y"}], SpecError, r"specs\[1\]: tag: expected one of"),
        (
            [DOG, {**DOG, "include": [{"class": "dgo", "count": 1}]}],
            SpecError,
            r"specs\[1\]: include\[0\]\.class: expected one of the 80 GenEval class names, got 'dgo'; did you mean 'dog'",
        ),
        ([DOG, "a photo of a dragon"], SpecError, r"specs\[1\]: prompt: expected a prompt text of the official suite"),
        ([None, DOG], SpecError, r"specs\[0\]: record: expected a mapping"),
        ([DOG], ValueError, r"specs: expected 2, one per image, got 1"),
        ([DOG] * 3, ValueError, r"specs: expected 2, one per image, got 3"),
        (DOG, ValueError, r"specs: expected a sequence with one spec per image, got dict"),
        ("a photo of a bench", ValueError, r"specs: expected a sequence .*, got str"),
        (PromptSpec.parse(DOG), ValueError, r"specs: expected a sequence .*, got PromptSpec"),
        (iter([DOG, DOG]), ValueError, r"specs: expected a sequence .*iterator"),
    ],
)
def test_bad_specs_name_the_index(specs: Any, error: type[Exception], message: str) -> None:
    detector = FakeDetector({})
    with pytest.raises(error, match=message):
        scorer_for(detector).score(paint(0, 1), specs)
    assert detector.calls == []


def test_bad_images_name_the_index() -> None:
    with pytest.raises(ImageError, match=r"images\[1\]: expected floats in \[0, 1\]"):
        scorer_for(FakeDetector({})).score([torch.zeros(3, 8, 8), torch.full((3, 8, 8), -1.0)], [DOG, DOG])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, r"batch_size: expected an integer >= 1, got 0"),
        ({"batch_size": True}, r"batch_size: expected an integer >= 1, got True"),
        ({"batch_size": 2.0}, r"batch_size: expected an integer >= 1, got 2.0"),
        ({"min_confidence": -0.1}, r"min_confidence: expected a number in \[0, 1\], got -0.1"),
        ({"min_confidence": float("nan")}, r"min_confidence: expected a number in \[0, 1\], got nan"),
        ({"rules": "rules"}, r"rules: expected a profile"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scorer_for(FakeDetector({}), **arguments)


def test_min_confidence_never_hides_what_the_rules_count() -> None:
    assert scorer_for(FakeDetector({}), min_confidence=0.5).min_confidence == 0.3
    assert scorer_for(FakeDetector({}), min_confidence=0.5, rules="confidence=0.7").min_confidence == 0.5
    assert scorer_for(FakeDetector({}), min_confidence=0.5, rules="counting_confidence=0.1").min_confidence == 0.1
    box = [[0, 0, 9, 9, 0.35]]
    assert scorer_for(FakeDetector({"dog": box}), min_confidence=0.9).score(paint(0), [DOG])[0].correct


# --- what it owns -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outer_dtype", [torch.bfloat16, None])
@pytest.mark.parametrize("outer_grad", [True, False])
def test_numerics_neither_leak_in_nor_out(outer_dtype: torch.dtype | None, outer_grad: bool) -> None:
    weight = torch.nn.Parameter(torch.ones(4, 4))

    def look(images: Sequence[torch.Tensor]) -> None:
        result = weight @ weight
        assert result.dtype == torch.float32
        assert not result.requires_grad
        assert not torch.is_autocast_enabled("cpu")

    scorer = GenEvalScorer(Watching(look))
    with (
        torch.set_grad_enabled(outer_grad),
        torch.autocast("cpu", dtype=outer_dtype or torch.bfloat16, enabled=outer_dtype is not None),
    ):
        image = torch.zeros(1, 3, 32, 32, requires_grad=True)
        assert scorer.score(image, [DOG])[0].correct
        assert torch.is_grad_enabled() == outer_grad
        assert not torch.is_inference_mode_enabled()
        assert torch.is_autocast_enabled("cpu") == (outer_dtype is not None)
        result = weight @ weight
        assert result.requires_grad == outer_grad
        assert result.dtype == (outer_dtype or torch.float32)


def test_numerics_are_given_back_after_an_error() -> None:
    def fail(images: Sequence[torch.Tensor]) -> None:
        raise KeyError("broken")

    with torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.raises(KeyError):
            GenEvalScorer(Watching(fail)).score(paint(0), [DOG])
        assert torch.is_autocast_enabled("cpu")
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()


def test_one_call_at_a_time() -> None:
    inside: list[int] = []
    entered = threading.Lock()

    def look(images: Sequence[torch.Tensor]) -> None:
        assert entered.acquire(blocking=False), "two calls in the detector at once"
        time.sleep(0.002)
        inside.append(number(images[0]))
        entered.release()

    scorer = GenEvalScorer(Watching(look, dogs_by_number), batch_size=2, rules={"counting_confidence": 0.3})
    failures: list[BaseException] = []

    def work(mine: int) -> None:
        try:
            for _ in range(3):
                verdicts = scorer.score(paint(*[mine] * 5), [dogs(mine)] * 5)
                assert [verdict.kept.get("dog", 0) for verdict in verdicts] == [mine] * 5
        except BaseException as error:  # noqa: BLE001 - a thread's failure must reach the test
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    # Six threads, three calls each, three batches a call; a call's batches are not torn apart.
    assert len(inside) == 54
    assert all(len(set(inside[i : i + 3])) == 1 for i in range(0, 54, 3))


def test_a_failed_call_gives_the_lock_back() -> None:
    broken = [True]

    def look(images: Sequence[torch.Tensor]) -> None:
        if broken.pop() if broken else False:
            raise KeyError("once")

    scorer = GenEvalScorer(Watching(look))
    with pytest.raises(KeyError):
        scorer.score(paint(0), [DOG])
    done: list[bool] = []
    thread = threading.Thread(target=lambda: done.append(scorer.score(paint(0), [DOG])[0].correct))
    thread.start()
    thread.join(timeout=10)
    assert done == [True]


def test_it_is_its_own_deepcopy() -> None:
    scorer = scorer_for(FakeDetector({}))
    assert copy.deepcopy(scorer) is scorer
    assert copy.deepcopy({"reward": [scorer]})["reward"][0] is scorer


class Owner(LightningModule):
    def __init__(self, scorer: GenEvalScorer) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)
        self.scorer = scorer


class Weighted(torch.nn.Module):
    """A detector with weights of its own."""

    name = "weighted"

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))

    def detect(self, images: Sequence[torch.Tensor], wanted: Sequence[Wanted]) -> list[Detections]:
        return FakeDetector({"dog": [DOG_BOX]}).detect(images, wanted)

    def fingerprint(self) -> dict[str, Any]:
        return {"name": self.name, "sum": self.weight.sum().item()}


@pytest.mark.parametrize("kind", [Owner, torch.nn.Module])
def test_a_module_that_owns_one_does_not_see_its_weights(kind: type) -> None:
    detector = Weighted()
    scorer = GenEvalScorer(detector)
    owner = Owner(scorer)
    if kind is torch.nn.Module:
        outer = torch.nn.Sequential(torch.nn.Linear(2, 2))
        outer.scorer = scorer
        owner = outer  # type: ignore[assignment]
    assert not any("scorer" in name for name in owner.state_dict())
    assert len(list(owner.parameters())) == 2
    owner.half()
    owner.requires_grad_(False)
    assert detector.weight.dtype == torch.float32
    assert detector.weight.requires_grad
    assert copy.deepcopy(owner).scorer is scorer
    assert owner.scorer.score(paint(0), [DOG])[0].correct


def test_to_moves_both_parts() -> None:
    moved: list[tuple[str, str]] = []

    class Moving(FakeDetector):
        def to(self, device: torch.device | str) -> "Moving":
            moved.append(("detector", str(device)))
            return self

    class MovingVerifier(FakeVerifier):
        def to(self, device: torch.device | str) -> "MovingVerifier":
            moved.append(("verifier", str(device)))
            return self

    scorer = scorer_for(Moving({}), MovingVerifier())
    assert scorer.to("cpu") is scorer
    assert moved == [("detector", "cpu"), ("verifier", "cpu")]
    assert GenEvalScorer(Moving({})).to("cpu")


# --- pickling and identity ----------------------------------------------------------------------------------------------


def test_a_scorer_of_parts_pickles_with_its_parts() -> None:
    scorer = GenEvalScorer(
        FakeDetector({"dog": [DOG_BOX]}),
        FakeVerifier("blue"),
        rules="lite,position=0.2",
        batch_size=3,
        min_confidence=0.01,
        all_classes=True,
        name="mine",
    )
    again = pickle.loads(pickle.dumps(scorer))
    assert isinstance(again, GenEvalScorer)
    assert again is not scorer
    for name in ("rules", "batch_size", "min_confidence", "all_classes", "name", "fingerprint_id"):
        assert getattr(again, name) == getattr(scorer, name)
    assert again.score(paint(0), [DOG])[0].correct


def test_a_loaded_scorer_pickles_as_the_call_that_made_it() -> None:
    scorer = GenEvalScorer.from_pretrained(
        "lite", device="cpu", rules="lite,position=0.2", batch_size=3, all_classes=True
    )
    data = pickle.dumps(scorer)
    assert len(data) < 2000
    again = pickle.loads(data)
    for name in ("rules", "batch_size", "min_confidence", "all_classes", "name", "fingerprint_id"):
        assert getattr(again, name) == getattr(scorer, name)
    cat = "a photo of a cat"
    first, second = (one.score([photo("chelsea")], [cat])[0] for one in (scorer, again))
    assert first.correct
    np.testing.assert_array_equal(first.detections.xyxy, second.detections.xyxy)
    assert first.credits() == second.credits()


def test_fingerprints_are_stable_and_tell_scorers_apart() -> None:
    def of(**changes: Any) -> GenEvalScorer:
        return GenEvalScorer(Weighted(), FakeVerifier(), **changes)

    scorer = of()
    assert json.loads(json.dumps(scorer.fingerprint())) == scorer.fingerprint()
    assert len(scorer.fingerprint_id) == 12
    assert int(scorer.fingerprint_id, 16) >= 0
    assert of().fingerprint_id == scorer.fingerprint_id
    # Neither batching nor rules change what was seen.
    assert of(batch_size=2, rules="position=0.4").fingerprint_id == scorer.fingerprint_id
    assert of(min_confidence=0.1).fingerprint_id != scorer.fingerprint_id
    assert of(name="other").fingerprint_id != scorer.fingerprint_id
    changed = of()
    with torch.no_grad():
        changed.detector.weight.add_(1)  # type: ignore[attr-defined]
    assert changed.fingerprint_id != scorer.fingerprint_id
    assert scorer.fingerprint_id in repr(scorer)
    lite = [GenEvalScorer.from_pretrained("lite", device="cpu") for _ in range(2)]
    assert lite[0].fingerprint_id == lite[1].fingerprint_id


def test_fakes_and_packaged_parts_keep_the_protocols() -> None:
    assert isinstance(FakeDetector({}), Detector)
    assert isinstance(FakeVerifier(), Verifier)
    lite = GenEvalScorer.from_pretrained("lite", device="cpu")
    assert lite.rules == Rules.parse("lite")
    assert lite.name == "lite"
    for rules in ("confidence=0.3", {"confidence": 0.3}):
        changed = GenEvalScorer.from_pretrained("lite", device="cpu", rules=rules).rules
        assert changed == Rules.parse("lite,confidence=0.3")


# --- memory -------------------------------------------------------------------------------------------------------------

CPU_MESSAGE = (
    "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "1000000000000000 bytes. Error code 12 (Cannot allocate memory)"
)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError(CPU_MESSAGE),
        RuntimeError("MPS backend out of memory (MPS allocated: 9.05 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "mps", "cublas", "python"],
)
def test_batches_that_do_not_fit_are_split(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    sizes: list[int] = []

    def look(images: Sequence[torch.Tensor]) -> None:
        sizes.append(len(images))
        if len(images) > 3:
            raise error

    scorer = GenEvalScorer(Watching(look, dogs_by_number), batch_size=10, rules={"counting_confidence": 0.3})
    numbers = [1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4, 5]
    verdicts = scorer.score(paint(*numbers), [dogs(2)] * 12)
    assert [verdict.kept.get("dog", 0) for verdict in verdicts] == numbers
    assert sizes == [10, 5, 2, 2, 2, 2, 2, 2]
    assert scorer.batch_size == 2
    assert "out of memory; going on with batches of 5" in caplog.text
    # The next call starts with what fitted.
    sizes.clear()
    scorer.score(paint(1, 1, 1), [dogs(1)] * 3)
    assert sizes == [2, 1]


def test_a_real_failed_allocation_is_recognised() -> None:
    def look(images: Sequence[torch.Tensor]) -> None:
        if len(images) > 1:
            torch.empty(2**60)

    scorer = GenEvalScorer(Watching(look), batch_size=4)
    assert len(scorer.score(paint(0, 1, 2, 3), [DOG] * 4)) == 4
    assert scorer.batch_size == 1


def test_an_image_that_does_not_fit_alone_says_so() -> None:
    def look(images: Sequence[torch.Tensor]) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    message = r"scorer: expected room for one image of 64 x 48, got out of memory; free some or use the CPU"
    with pytest.raises(torch.OutOfMemoryError, match=message):
        GenEvalScorer(Watching(look), batch_size=4).score([torch.zeros(3, 48, 64)] * 4, [DOG] * 4)


def test_memory_that_the_verifier_lacks_is_recovered_too() -> None:
    class Hungry(FakeVerifier):
        def colors(self, queries: Sequence[ColorQuery]) -> npt.NDArray[np.float32]:
            if len(queries) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().colors(queries)

    scorer = scorer_for(FakeDetector({"cup": [DOG_BOX]}), Hungry(), batch_size=4)
    assert all(verdict.correct for verdict in scorer.score(paint(0, 1, 2, 3), [RED_CUP] * 4))
    assert scorer.batch_size == 1


def test_other_errors_pass_through_at_once() -> None:
    calls: list[int] = []

    def look(images: Sequence[torch.Tensor]) -> None:
        calls.append(len(images))
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    scorer = GenEvalScorer(Watching(look), batch_size=4)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        scorer.score(paint(0, 1, 2, 3), [DOG] * 4)
    assert calls == [4]
    assert scorer.batch_size == 4


# --- warnings -----------------------------------------------------------------------------------------------------------


def test_a_whole_batch_of_wrong_images_warns_once() -> None:
    scorer = scorer_for(FakeDetector({}))
    images, specs = paint(*range(32)), [DOG] * 32
    scorer.score(images[:31], specs[:31])
    with pytest.warns(UserWarning, match=r"all 32 images of a call are wrong; .*doctor") as said:
        scorer.score(images, specs)
    assert said[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scorer.score(images, specs)


def test_one_right_image_keeps_it_silent() -> None:
    scorer = scorer_for(FakeDetector(lambda image: {"dog": [DOG_BOX]} if number(image) == 7 else {}))
    assert sum(verdict.correct for verdict in scorer.score(paint(*range(40)), [DOG] * 40)) == 1


def test_colour_order_is_the_vocabularys() -> None:
    for color in COLORS:
        record = {"tag": "colors", "include": [{"class": "cup", "count": 1, "color": color}]}
        assert scorer_for(FakeDetector({"cup": [DOG_BOX]}), FakeVerifier(color)).score(paint(0), [record])[0].correct
