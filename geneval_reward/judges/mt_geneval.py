"""MT-GenEval: gender accuracy of translations, as a torchmetrics metric, as functions, and with a reader for its files.

The files are CC BY-SA 3.0 and not bundled; you give the folder of your copy.

Source: arXiv 2211.01355; file format and decision rule: amazon-science/machine-translation-gender-eval@c77132c
`accuracy_metric.py`.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torchmetrics import Metric

from geneval_reward.errors import FileError, UsageError
from geneval_reward.support.files import split_lines

SEPARATOR: Final = "<sep>"
_BLANKS: Final = str.maketrans(dict.fromkeys(string.punctuation, " "))

Split = Literal["dev", "test"]


def mt_geneval_correct(preds: Sequence[str], target: Sequence[str], flipped: Sequence[str]) -> torch.Tensor:
    """Decide for each translation whether its gender is correct.

    A translation is wrong if it contains any word that is in the reference of the other gender but not in the correct one;
    otherwise it is correct, even without any gendered word. Words are lower-cased and stripped of ASCII punctuation only, as
    published: Arabic commas, dandas and guillemets stay.

    Args:
        preds: Translations.
        target: References of the correct gender.
        flipped: The same references in the other gender.

    Returns:
        `(n,)` bool.

    Raises:
        UsageError: If these are not lists of strings of equal length.
    """
    for name, texts in (("preds", preds), ("target", target), ("flipped", flipped)):
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise UsageError(f"{name}: expected a list of texts, got {type(texts).__name__}")
        if len(texts) != len(preds):
            raise UsageError(f"{name}: expected {len(preds)} texts, one per translation, got {len(texts)}")
    return torch.tensor(
        [
            not _words(pred) & (_words(wrong) - _words(right))
            for pred, right, wrong in zip(preds, target, flipped, strict=True)
        ],
        dtype=torch.bool,
    )


def mt_geneval_accuracy(preds: Sequence[str], target: Sequence[str], flipped: Sequence[str]) -> torch.Tensor:
    """Compute the share of translations whose gender is correct, with the arguments of `mt_geneval_correct`.

    An untranslated source scores .85 to 1.00, because it contains no word of the target language, so report BLEU as well.

    Returns:
        A scalar in [0, 1].

    Examples:
        >>> mt_geneval_accuracy(["die Ärztin kam."], ["Die Ärztin kam"], ["Der Arzt kam"])
        tensor(1.)
    """
    correct = mt_geneval_correct(preds, target, flipped)
    if not len(correct):
        raise UsageError("preds: expected at least one translation, got none")
    return correct.float().mean()


class MTGenEvalAccuracy(Metric):
    """Gender accuracy of translations, contextual and counterfactual.

    `update` takes translations with references of the correct and of the other gender. `update_pairs` takes translations of a
    sentence's masculine and feminine forms; such a pair is correct only if both are, and counts once.

    Examples:
        >>> metric = MTGenEvalAccuracy()
        >>> metric(["le docteur"], ["la docteure"], ["le docteur"])
        tensor(0.)
        >>> metric.update_pairs(["il"], ["elle"], ["il"], ["elle"])
        >>> metric.compute()
        tensor(0.5000)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    correct: torch.Tensor
    total: torch.Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("correct", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(
        self,
        preds: Sequence[str],
        target: Sequence[str],
        flipped: Sequence[str],
        counterparts: Sequence[str] | None = None,
    ) -> None:
        """Count translations.

        Args:
            preds: Translations.
            target: References of the correct gender.
            flipped: References of the other gender.
            counterparts: Translations of the sources of the other gender, for which `flipped` is correct. A pair is correct
                only if both are.
        """
        correct = mt_geneval_correct(preds, target, flipped)
        if counterparts is not None:
            if len(counterparts) != len(preds):
                raise UsageError(
                    f"counterparts: expected {len(preds)} texts, one per translation, got {len(counterparts)}"
                )
            correct &= mt_geneval_correct(counterparts, flipped, target)
        self.correct += correct.sum().to(self.correct.device)
        self.total += len(correct)

    def update_pairs(
        self,
        masculine_preds: Sequence[str],
        feminine_preds: Sequence[str],
        masculine: Sequence[str],
        feminine: Sequence[str],
    ) -> None:
        """Count pairs of translations of sentences that differ only in gender.

        Args:
            masculine_preds: Translations of the masculine sources.
            feminine_preds: Translations of the feminine sources.
            masculine: References of the masculine sources.
            feminine: References of the feminine sources.
        """
        self.update(masculine_preds, masculine, feminine, feminine_preds)

    def compute(self) -> torch.Tensor:
        """Compute the share of correct translations and pairs, a scalar in [0, 1].

        Raises:
            UsageError: If nothing was counted.
        """
        if not int(self.total):
            raise UsageError("preds: expected at least one translation before compute, got none; call update first")
        return self.correct.float() / self.total


@dataclass(frozen=True)
class TranslationSet:
    """Sources and references of one language.

    Attributes:
        language: Its code.
        kind: `contextual` or `counterfactual`.
        source: English sources; for a contextual set, the sentence without the one before it.
        target: References of the correct gender; for a counterfactual set, the masculine ones.
        flipped: References of the other gender; for a counterfactual set, the feminine ones.
        feminine_source: The feminine sources of a counterfactual set; empty for a contextual one.
    """

    language: str
    kind: str
    source: tuple[str, ...]
    target: tuple[str, ...]
    flipped: tuple[str, ...]
    feminine_source: tuple[str, ...] = ()

    def cut(self, hypotheses: Sequence[str]) -> list[str]:
        """Cut two-sentence hypotheses to the second sentence: the text after the separator, if a hypothesis kept it."""
        return [text.rpartition(SEPARATOR)[2].strip() for text in hypotheses]


def read_contextual(folder: str | Path, language: str, split: Split = "test") -> TranslationSet:
    """Read the contextual files of a language.

    Args:
        folder: The benchmark's `data` folder.
        language: A code such as `de`.
        split: `dev` or `test`.

    Raises:
        FileError: If a file is missing, is not UTF-8, or the files differ in length; the message names it.
    """
    place, stem = Path(folder) / "context", "geneval-context-wikiprofessions"
    both = _read(place / f"{stem}-2to1-{split}.en_{language}.en", folder)
    target = _read(place / f"{stem}-original-{split}.en_{language}.{language}", folder, len(both))
    flipped = _read(place / f"{stem}-flipped-{split}.en_{language}.{language}", folder, len(both))
    source = [line.rpartition(SEPARATOR)[2].strip() for line in both]
    return TranslationSet(language, "contextual", tuple(source), tuple(target), tuple(flipped))


def read_counterfactual(folder: str | Path, language: str, split: Split = "test") -> TranslationSet:
    """Read the counterfactual files of a language; arguments and errors are those of `read_contextual`."""
    place = Path(folder) / "sentences" / split
    names = [f"geneval-sentences-{gender}-{split}.en_{language}" for gender in ("masculine", "feminine")]
    source = _read(place / f"{names[0]}.en", folder)
    rest = [
        _read(place / name, folder, len(source))
        for name in (f"{names[0]}.{language}", f"{names[1]}.{language}", f"{names[1]}.en")
    ]
    return TranslationSet(language, "counterfactual", tuple(source), *map(tuple, rest))


def languages(folder: str | Path) -> list[str]:
    """List the languages for which a `data` folder holds contextual or counterfactual files.

    Raises:
        FileError: If it holds none.
    """
    found = {path.suffix[1:] for path in Path(folder).glob("*/geneval-*-original-*.en_*")}
    found |= {path.suffix[1:] for path in Path(folder).glob("sentences/*/geneval-sentences-*.en_*")}
    if not found - {"en"}:
        raise FileError(f"{folder}: expected MT-GenEval's data folder (context/, sentences/), got none of its files")
    return sorted(found - {"en"})


def _words(text: str) -> set[str]:
    return set(text.lower().translate(_BLANKS).split())


def _read(path: Path, folder: str | Path, count: int | None = None) -> list[str]:
    if not path.is_file():
        raise FileError(f"{path}: expected a file of MT-GenEval, got none; {folder} is to be its data folder")
    lines = [line for _, line in split_lines(path.read_bytes(), str(path))]
    lines = lines[:-1] if lines and not lines[-1] else lines
    if count is not None and len(lines) != count:
        raise FileError(f"{path}: expected {count} lines, as many as its sources, got {len(lines)}")
    return lines
