"""The control values of the reference's table, on files of the same form that are made here."""

import pytest
import torch

from geneval_reward.errors import FileError, UsageError
from geneval_reward.judges import MTGenEvalAccuracy, mt_geneval_accuracy
from geneval_reward.judges.mt_geneval import languages, mt_geneval_correct, read_contextual, read_counterfactual
from geneval_reward.study.translation import translation_table

ENGLISH = [f"The visitor came in number {n}." for n in range(20)]
FEMININE = [f"«Die Ärztin», die {n}. kam, lachte." for n in range(20)]
MASCULINE = [f"«Der Arzt», der {n}. kam, lachte." for n in range(20)]


@pytest.fixture
def data(tmp_path):
    """The benchmark's folder, with German made here: two segments whose other reference adds no word."""
    folder = tmp_path / "data"
    flipped = [*MASCULINE[:18], *FEMININE[18:]]
    files = {
        "context/geneval-context-wikiprofessions-2to1-test.en_de.en": [f"Before. <sep> {text}" for text in ENGLISH],
        "context/geneval-context-wikiprofessions-original-test.en_de.de": FEMININE,
        "context/geneval-context-wikiprofessions-flipped-test.en_de.de": flipped,
        "sentences/test/geneval-sentences-masculine-test.en_de.en": ENGLISH,
        "sentences/test/geneval-sentences-feminine-test.en_de.en": ENGLISH,
        "sentences/test/geneval-sentences-masculine-test.en_de.de": MASCULINE,
        "sentences/test/geneval-sentences-feminine-test.en_de.de": FEMININE,
    }
    for name, lines in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder


def test_control_values(data):
    found = read_contextual(data, "de")
    assert found.source[0] == ENGLISH[0]
    assert mt_geneval_accuracy(found.target, found.target, found.flipped) == 1.0
    # Wrong everywhere but where the other reference adds no word.
    assert mt_geneval_accuracy(found.flipped, found.target, found.flipped) == pytest.approx(2 / 20)
    # An untranslated source is right: it holds no word of the other gender.
    assert mt_geneval_accuracy(found.source, found.target, found.flipped) == 1.0
    both = read_counterfactual(data, "de")
    metric = MTGenEvalAccuracy()
    metric.update_pairs(both.target, both.flipped, both.target, both.flipped)
    assert metric.compute() == 1.0
    metric.reset()
    metric.update_pairs(both.target, both.target, both.target, both.flipped)
    assert metric.compute() == 0.0


@pytest.mark.parametrize(
    ("pred", "right", "wrong", "correct"),
    [
        ("der Arzt", "die Ärztin", "der Arzt", False),
        ("ein Mensch", "die Ärztin", "der Arzt", True),
        ("DER, arzt!", "die Ärztin", "der Arzt", False),
        ("die Ärztin und der Arzt", "die Ärztin", "der Arzt", False),
        ("der Gast", "der Arzt", "der Arzt", True),
        # Only ASCII punctuation comes off: the danda and the guillemet stay at their words.
        ("गई", "गया।", "गई।", True),
        ("गई।", "गया।", "गई।", False),
        ("«Arzt»", "«Ärztin»", "«Arzt»", False),
        ("Arzt", "«Ärztin»", "«Arzt»", True),
        ("l'autore", "l'autrice", "l'autore", False),
        ("", "die", "der", True),
    ],
)
def test_decisions_are_the_published_ones(pred, right, wrong, correct):
    assert mt_geneval_correct([pred], [right], [wrong]).tolist() == [correct]


def test_states_sum_over_batches_and_processes():
    metric, other = MTGenEvalAccuracy(), MTGenEvalAccuracy()
    assert metric(["der Arzt", "die Ärztin"], ["die Ärztin"] * 2, ["der Arzt"] * 2) == 0.5
    other.update(["die Ärztin"], ["die Ärztin"], ["der Arzt"])
    metric.merge_state(other)
    assert metric.compute() == pytest.approx(2 / 3)
    assert metric.total == 3
    assert metric.higher_is_better
    assert not metric.is_differentiable
    assert torch.equal(mt_geneval_accuracy(["a"], ["a"], ["b"]), torch.tensor(1.0))


def test_bad_input_is_named():
    with pytest.raises(UsageError, match="target: expected 2 texts, one per translation, got 1"):
        mt_geneval_accuracy(["a", "b"], ["a"], ["a", "b"])
    with pytest.raises(UsageError, match="preds: expected a list of texts, got str"):
        mt_geneval_accuracy("ab", ["a", "b"], ["a", "b"])
    with pytest.raises(UsageError, match="expected at least one translation"):
        mt_geneval_accuracy([], [], [])
    with pytest.raises(UsageError, match="counterparts: expected 2 texts"):
        MTGenEvalAccuracy().update_pairs(["a", "b"], ["a"], ["a", "b"], ["a", "b"])
    with (
        pytest.warns(UserWarning, match="before the ``update`` method"),
        pytest.raises(UsageError, match="call update"),
    ):
        MTGenEvalAccuracy().compute()


def test_languages_without_files_are_named(data, tmp_path):
    assert languages(data) == ["de"]
    with pytest.raises(FileError, match=r"2to1-test\.en_nl\.en: expected a file of MT-GenEval"):
        read_contextual(data, "nl")
    with pytest.raises(FileError, match="expected MT-GenEval's data folder"):
        languages(tmp_path / "elsewhere")
    short = data / "context" / "geneval-context-wikiprofessions-flipped-test.en_de.de"
    short.write_text("eins\n", encoding="utf-8")
    with pytest.raises(FileError, match="expected 20 lines, as many as its sources, got 1"):
        read_contextual(data, "de")


def test_the_table_stands_beside_bleu(data, tmp_path):
    said = tmp_path / "said"
    said.mkdir()
    # A translation of both sentences keeps the separator and is cut at it.
    (said / "context.de").write_text("".join(f"Vorher. <sep> {text}\n" for text in FEMININE), encoding="utf-8")
    (said / "masculine.de").write_text("".join(f"{text}\n" for text in ENGLISH), encoding="utf-8")
    (said / "feminine.de").write_text("".join(f"{text}\n" for text in ENGLISH), encoding="utf-8")
    document, missing = translation_table(data, said, ["de", "fr"])
    context, pairs = document.record["rows"]
    assert (context["accuracy"], context["segments"], context["no_gendered_word"]) == (1.0, 20, 2)
    assert context["bleu"] == pytest.approx(100)
    # Not translated at all: right by the rule, and worth nothing.
    assert pairs["accuracy"] == 1.0
    assert pairs["bleu"] == pytest.approx(0, abs=0.1)
    assert missing == [f"fr: no translations below {said}"]
    (said / "context.de").write_text("eins\n", encoding="utf-8")
    with pytest.raises(FileError, match="expected 20 lines, one translation per source, got 1"):
        translation_table(data, said, ["de"])
