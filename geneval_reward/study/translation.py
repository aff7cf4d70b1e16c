"""The table of MT-GenEval: accuracy per language with its interval, beside BLEU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchmetrics.functional.text import bleu_score

from geneval_reward.errors import FileError
from geneval_reward.judges.mt_geneval import (
    Split,
    TranslationSet,
    mt_geneval_correct,
    read_contextual,
    read_counterfactual,
)
from geneval_reward.results.notation import rounded, share_with_interval
from geneval_reward.results.tables import Document, Table
from geneval_reward.stats import wilson
from geneval_reward.support.files import split_lines

_COLUMNS = (
    "language",
    "set",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "bleu",
    "segments",
    "no_gendered_word",
)


def translation_table(
    data: str | Path, hypotheses: str | Path, languages: Sequence[str], split: Split = "test"
) -> tuple[Document, list[str]]:
    """Measure the translations of a folder.

    Args:
        data: MT-GenEval's `data` folder.
        hypotheses: Folder with `context.LANG`, and `masculine.LANG` with `feminine.LANG`; what is missing is named.
        languages: Codes.
        split: `dev` or `test`.

    Returns:
        The table, and one sentence for each set that lacks translations.

    Raises:
        FileError: If a file of the benchmark is missing, or translations are not as many as sources.
    """
    rows: list[dict[str, Any]] = []
    missing = []
    for language in languages:
        files = [Path(hypotheses) / f"{name}.{language}" for name in ("context", "masculine", "feminine")]
        if files[0].is_file():
            found = read_contextual(data, language, split)
            preds = found.cut(_lines(files[0], len(found.source)))
            right = mt_geneval_correct(preds, found.target, found.flipped).tolist()
            rows.append(_row(found, right, preds, list(found.target)))
        if files[1].is_file() and files[2].is_file():
            found = read_counterfactual(data, language, split)
            his, hers = (_lines(file, len(found.source)) for file in files[1:])
            first = mt_geneval_correct(his, found.target, found.flipped)
            second = mt_geneval_correct(hers, found.flipped, found.target)
            rows.append(_row(found, (first & second).tolist(), his + hers, [*found.target, *found.flipped]))
        if not any(row["language"] == language for row in rows):
            missing.append(f"{language}: no translations below {hypotheses}")
    cells = [
        [
            row["language"],
            row["set"],
            share_with_interval(row["accuracy"], row["accuracy_low"], row["accuracy_high"]),
            f"{row['bleu']:.1f}",
            row["segments"],
            row["no_gendered_word"],
        ]
        for row in rows
    ]
    table = Table(
        f"MT-GenEval, {split}, with 95 % intervals",
        ["language", "set", "accuracy", "BLEU", "segments", "always right"],
        cells,
        [
            "accuracy is no quality: an untranslated source scores 0.85 and more; read it with BLEU (torchmetrics, 4-grams, "
            "split at blanks, with case). 'Always right' are segments whose other reference adds no word."
        ],
    )
    values = Table("", _COLUMNS, [[row[name] for name in _COLUMNS] for row in rows])
    return Document([table], values, {"split": split, "rows": rows}, problems=missing), missing


def _row(found: TranslationSet, right: Sequence[bool], preds: Sequence[str], target: Sequence[str]) -> dict[str, Any]:
    interval = wilson(sum(right), len(right))
    blind = mt_geneval_correct(found.flipped, found.target, found.flipped)
    return {
        "language": found.language,
        "set": found.kind,
        "accuracy": rounded(sum(right) / len(right)),
        "accuracy_low": rounded(interval.low),
        "accuracy_high": rounded(interval.high),
        "bleu": 100 * float(bleu_score(list(preds), [[text] for text in target])),
        "segments": len(right),
        "no_gendered_word": int(blind.sum()),
    }


def _lines(path: Path, count: int) -> list[str]:
    lines = [line for _, line in split_lines(path.read_bytes(), str(path))]
    lines = lines[:-1] if lines and not lines[-1] else lines
    if len(lines) != count:
        raise FileError(f"{path}: expected {count} lines, one translation per source, got {len(lines)}")
    return lines
