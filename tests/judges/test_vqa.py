import copy
import math

import pytest
import torch
from judge_fakes import TEMPLATE, make_model, make_processor, tiny_tokenizer
from torchvision.transforms.functional import to_pil_image

from geneval_reward import GenEvalReward, GenEvalScore, Scorer
from geneval_reward.errors import ScoringError, UsageError, WeightsError
from geneval_reward.judges import AnsweredVerdict, LocalModel, VQAScorer
from geneval_reward.judges.local import surface_forms
from geneval_reward.judges.questions import NUMBERS
from geneval_reward.prompts import official_suite, resolve
from geneval_reward.results import ResultRow
from geneval_reward.scorer import fingerprint_id
from geneval_reward.service.wire import VerdictPayload

IMAGE = torch.randint(0, 256, (3, 60, 84), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
QUESTIONS = ["Is there a dog in the image? Answer in one word.", "How many?", "Is it red and to the left of the cup?"]
CHOICES = [("yes", "no"), NUMBERS[:11], ("yes", "no")]


def together(model, texts):
    """The plain way: every question with the whole image, as one left-padded batch of full passes."""
    inputs = model.processor(
        text=[model.head + text + model.tail for text in texts],
        images=[[to_pil_image(IMAGE)]] * len(texts),
        padding=True,
        padding_side="left",
        return_tensors="pt",
    )
    with torch.inference_mode():
        return model.model(**inputs).logits[:, -1]


@pytest.mark.parametrize("kind", ["Qwen2VL", "Qwen2_5_VL", "Qwen3VL"])
def test_one_vision_pass_gives_what_full_passes_give(kind):
    model = LocalModel(*make_model(kind), batch_size=2)
    passes = []
    model.model.model.visual.register_forward_hook(lambda *_: passes.append(1))
    found = model.probabilities(IMAGE, QUESTIONS, CHOICES)
    assert len(passes) == 1
    rows = together(model, QUESTIONS).softmax(-1)
    yes = [model.processor.tokenizer(form)["input_ids"][0] for form in surface_forms("yes")]
    assert found[0][0] == pytest.approx(float(rows[0, yes].sum()), rel=1e-3)
    assert found[2][0] == pytest.approx(float(rows[2, yes].sum()), rel=1e-3)
    assert len({round(values[0], 9) for values in found}) == 3


def test_a_question_answers_the_same_alone(qwen):
    together_, alone = (qwen.probabilities(IMAGE, QUESTIONS[:n], CHOICES[:n]) for n in (3, 1))
    assert together_[0] == pytest.approx(alone[0], rel=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision(precision, saved):
    half = LocalModel.from_pretrained(str(saved), device="cpu", precision=precision)
    full = LocalModel.from_pretrained(str(saved), device="cpu")
    assert half.fingerprint()["precision"] == {"bf16": "bfloat16", "fp16": "float16"}[precision]
    assert half.probabilities(IMAGE, QUESTIONS[:1], CHOICES[:1])[0] == pytest.approx(
        full.probabilities(IMAGE, QUESTIONS[:1], CHOICES[:1])[0], rel=0.3
    )


def test_released_forms_add_the_blank_and_corrected_ones_do_not(qwen):
    released = LocalModel(qwen.model, qwen.processor, forms="released")
    tokenizer = qwen.processor.tokenizer
    blank = tokenizer(" ")["input_ids"][0]
    assert blank in released._tokens(("three", "four"))[0]
    assert blank not in qwen._tokens(("three", "four"))[0]
    assert tokenizer("3")["input_ids"][0] in qwen._tokens(("three", "four"))[0]
    # "1" begins "10" too, so it stands for neither.
    assert tokenizer("1")["input_ids"][0] not in qwen._tokens(NUMBERS[:11])[1]
    text, words = [QUESTIONS[1]], [("three", "four")]
    [[plain, _]], [[summed, _]] = (model.probabilities(IMAGE, text, words) for model in (qwen, released))
    with torch.inference_mode():
        share = float(together(qwen, text).softmax(-1)[0, blank])
    assert summed == pytest.approx(plain + share, rel=1e-3)


def test_an_answer_without_a_token_of_its_own_is_named(qwen):
    with pytest.raises(UsageError, match="a first token that stands for 'twenty' alone"):
        qwen.probabilities(IMAGE, ["How many?"], [("twenty", "twelve")])


def test_a_model_without_a_chat_template(qwen):
    bare = make_processor(tiny_tokenizer(), None)
    with pytest.raises(UsageError, match="expected a processor with a chat template, got none; give template="):
        LocalModel(qwen.model, bare)
    text = "<|vision_start|><|image_pad|><|vision_end|>{}\nA:"
    assert LocalModel(qwen.model, bare, template=text).probabilities(IMAGE, QUESTIONS, CHOICES)
    with pytest.raises(UsageError, match="puts the image"):
        LocalModel(qwen.model, bare, template="{}<|image_pad|>")
    late = TEMPLATE.replace("{% if c.type == 'image' %}", "{% if c.type == 'image' and false %}")
    with pytest.raises(UsageError, match="puts the image"):
        LocalModel(qwen.model, make_processor(tiny_tokenizer(), late))


def test_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(WeightsError, match="expected an image-text model"):
        LocalModel.from_pretrained(str(tmp_path))


def test_it_is_a_scorer_for_every_host(qwen):
    scorer = VQAScorer(qwen)
    assert isinstance(scorer, Scorer)
    assert copy.deepcopy(scorer) is scorer
    assert len(fingerprint_id(scorer)) == 12
    specs = [
        resolve(text) for text in ("a photo of a bench", "a photo of four benchs", "a photo of a blue fire hydrant")
    ]
    verdicts = scorer.score([IMAGE] * 3, specs)
    assert all(isinstance(verdict, AnsweredVerdict) for verdict in verdicts)
    metric = GenEvalScore(scorer, credit="dense")
    metric.update([IMAGE] * 3, specs)
    expected = sum(verdict.dense for verdict in verdicts) / 3
    with pytest.warns(UserWarning, match="no images for"):
        assert float(metric.compute()) == pytest.approx(expected, abs=1e-6)
    reward = GenEvalReward(scorer, credit="dense")
    assert reward([IMAGE] * 3, specs) == pytest.approx([verdict.dense for verdict in verdicts])


def test_verdicts_hold_every_number(oracle):
    spec = resolve("a photo of four benchs")
    says = {"How many benches are there in the image?": "three"}
    verdict = VQAScorer(oracle(lambda _, text: says.get(text.removesuffix(" Answer in one word."), "yes"))).score(
        [IMAGE], [spec]
    )[0]
    assert not verdict.correct
    assert verdict.strict is False
    assert verdict.reason == ("How many benches are there in the image? expected four, answered three (p=0.02 of four)")
    [finding] = verdict.findings
    assert (finding.kind, finding.found, finding.required) == ("count", 3, 4)
    assert verdict.partial == verdict.flow_grpo == 0.75
    assert verdict.dense == pytest.approx(0.02)
    assert verdict.credit("vqascore") == pytest.approx(0.8)
    assert verdict.credit("vqascore_share") == pytest.approx(0.8)
    assert set(verdict.credits()) == set(verdict.names)
    with pytest.raises(UsageError, match="credit: expected one of"):
        verdict.credit("mine")


def test_soft_tifa_means_are_those_of_the_formula(oracle):
    spec = resolve("a photo of a blue fire hydrant")
    wrong = oracle(lambda _, text: "no" if "blue" in text else "yes")
    for mean, expected in (("arithmetic", (0.8 + 0.2) / 2), ("geometric", math.sqrt(0.8 * 0.2))):
        [verdict] = VQAScorer(wrong, mean=mean, whole=False).score([IMAGE], [spec])
        assert verdict.dense == pytest.approx(expected)
        assert "vqascore" not in verdict.credits()
        with pytest.raises(UsageError, match="the whole prompt was not asked"):
            verdict.credit("vqascore")


def test_raw_and_share_differ_by_what_is_neither_yes_nor_no(qwen):
    [verdict] = VQAScorer(qwen).score([IMAGE], ["a photo of a bench"])
    one = verdict.answers[0]
    no = qwen.probabilities(IMAGE, [f"{one.question.text} Answer in one word."], [("no",)])[0][0]
    assert one.raw < one.share
    assert one.share == pytest.approx(one.raw / (one.raw + no), rel=1e-4)


def test_no_answer_is_an_error_of_that_image_and_never_a_zero(oracle):
    scorer = VQAScorer(oracle(lambda image, _: "yes" if image.sum() else ""))
    with pytest.raises(ScoringError, match="1 of 2 images") as caught:
        scorer.score([IMAGE, torch.zeros_like(IMAGE)], ["a photo of a bench"] * 2)
    assert [verdict is None for verdict in caught.value.verdicts] == [False, True]
    assert "expected an answer of yes, no, got none of them" in str(caught.value.errors[1])
    reward = GenEvalReward(scorer)([IMAGE, torch.zeros_like(IMAGE)], ["a photo of a bench"] * 2)
    assert reward == [1.0, None]


def test_images_in_the_wrong_number():
    with pytest.raises(UsageError, match="specs: expected 1, one per image, got 2"):
        VQAScorer(object()).score([IMAGE], ["a photo of a bench"] * 2)


def test_a_verdict_without_detections_is_never_judged_again(oracle):
    [verdict] = VQAScorer(oracle(lambda *_: "yes")).score([IMAGE], ["a photo of a bench"])
    with pytest.raises(UsageError, match="expected a verdict with detections"):
        verdict.rejudge("confidence=.5")
    row = ResultRow.from_json(ResultRow.from_verdict(verdict, "00000/samples/0000.png", backend="vqa").to_json())
    assert row.correct
    assert row.detections is None
    assert row.credits["vqascore"] == pytest.approx(0.8)
    with pytest.raises(ValueError, match="expected stored detections, got none"):
        row.verdict()
    with pytest.raises(UsageError, match="a verdict with detections to send"):
        VerdictPayload.of(verdict)


def test_the_official_suite_can_be_asked(oracle):
    scorer = VQAScorer(oracle(lambda *_: "yes"), whole=False)
    for spec in official_suite()[::20]:
        [verdict] = scorer.score([IMAGE], [spec])
        assert len(verdict.findings) == len(verdict.answers) > 0
        assert verdict.correct == (spec.tag != "counting")


def test_options_are_checked(qwen):
    with pytest.raises(UsageError, match="mean: expected"):
        VQAScorer(qwen, mean="harmonic")
    with pytest.raises(UsageError, match="device: expected no options beside a ready model"):
        VQAScorer(qwen, device="cpu")
    with pytest.raises(UsageError, match="forms: expected"):
        LocalModel(qwen.model, qwen.processor, forms="mine")
