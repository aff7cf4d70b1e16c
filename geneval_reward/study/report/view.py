"""A report's figures in the form that its page lays out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from geneval_reward.judge.boxes import FAINT
from geneval_reward.prompts.vocabulary import TAGS
from geneval_reward.results.generator_notes import generator_marks
from geneval_reward.results.notation import (
    ROW_NAMES,
    detectable_text,
    p_text,
    percent_text,
    points_interval,
    points_text,
    share_interval,
    share_text,
)
from geneval_reward.stats import Difference, Estimate
from geneval_reward.study.published import PublishedScore
from geneval_reward.study.report.calibration import SHIFT, Threshold
from geneval_reward.study.report.collect import Report, RunReport
from geneval_reward.study.report.reasons import CAUSES
from geneval_reward.support.counts import counted

_EXAMPLES: Final = 4
_PAIRS: Final = 6
Card = Callable[[int, int], dict[str, Any]]


def view(report: Report, card: Card) -> dict[str, Any]:
    """Collect everything that the template needs beyond the fields of the report.

    Args:
        report: The report.
        card: Function that makes the example card of image number `side` of run number `run`.
    """
    rows = report.published
    return {
        "heroes": [_headline(run) for run in report.runs],
        "problems": report.problems,
        "panels": _panels(report, rows),
        "published": [(number, row) for number, row in enumerate(rows, 1)],
        "tags": report.tags,
        "failures": _failures(report, card),
        "thresholds": [(run, [_histogram(one) for one in run.thresholds]) for run in report.runs],
        "shift": SHIFT,
        "faint": FAINT,
        "differences": _differences(report),
        "pairs": _pairs(report, card),
        "facts": [(run, _facts(run)) for run in report.runs],
        "flags": _flags(report),
        "counts": _counts(report),
    }


def _headline(run: RunReport) -> dict[str, Any]:
    summary = run.summary
    found = summary.completeness
    if found.suite == "official":
        whole = summary.complete
        badge = (
            f"complete: {found.expected} prompts, {counted(found.images_per_prompt, 'image')} each"
            if whole
            else f"PARTIAL: {found.covered} of {found.expected} prompts"
            if found.missing
            else "INCOMPLETE"
        )
    else:
        whole, badge = False, f"not the official suite: {counted(found.prompts, 'prompt')}"
    facts = [(ROW_NAMES["images_correct"], estimate_text(summary.scores.micro))]
    if summary.scores.pass_any is not None:
        facts.append((ROW_NAMES["prompts_correct"], estimate_text(summary.scores.pass_any)))
    facts += [(f"pass@{k}", estimate_text(one)) for k, one in summary.scores.pass_at_k.items()]
    facts.append(("images", f"{len(run.results):,}"))
    if run.fragile:
        facts.append((f"verdicts that a threshold moved by {SHIFT:.2f} would flip", f"{run.fragile:,}"))
    return {
        "run": run,
        "label": summary.overall_label,
        "overall": summary.scores.overall,
        "badge": badge,
        "whole": whole,
        "flags": _run_flags(run),
        "facts": facts,
    }


def _run_flags(run: RunReport) -> list[str]:
    results = run.results
    flags = []
    if results.rewritten.any():
        flags.append("rewritten prompts")
    if run.summary.selected_by:
        flags.append(f"selected by {', '.join(run.summary.selected_by)}")
    flags += generator_marks(results.generators)
    if results.best_of.any():
        flags.append(f"best of {int(results.best_of.max())}")
    if run.summary.failed:
        flags.append(f"{len(run.summary.failed)} not scored")
    if run.summary.duplicates:
        flags.append(f"{counted(run.summary.duplicates, 'image')} more than once")
    if run.missing:
        flags.append(f"{counted(run.missing, 'image')} not found")
    if len(results.identities) > 1:
        flags.append("more than one judge")
    if results.cut is not None:
        flags.append("cut file")
    return flags


def _panels(report: Report, rows: Sequence[PublishedScore]) -> list[dict[str, Any]]:
    """Make a panel for the overall and one for each tag: our bars, then those of others."""
    panels = []
    present = [tag for tag in report.tags if any(tag in run.summary.scores.tags for run in report.runs)]
    official = [tag for tag in present if tag in TAGS]
    for name in ["overall", *present]:
        own = []
        for number, run in enumerate(report.runs):
            scores = run.summary.scores
            estimate = scores.overall if name == "overall" else scores.tags.get(name)
            own.append({"name": run.name, "number": number, "estimate": estimate})
        others = [
            {
                "name": row.label,
                "note": number,
                "value": _overall(row, official) if name == "overall" else row.tags.get(name),
                "rewritten": row.rewritten,
            }
            for number, row in enumerate(rows, 1)
        ]
        title = (
            name
            if name != "overall" or len(official) in (0, len(TAGS))
            else f"mean of {len(official)} of {len(TAGS)} tasks"
        )
        panels.append({"name": title, "own": own, "others": others})
    return panels


def _overall(row: PublishedScore, tags: Sequence[str]) -> float | None:
    """Return the printed score or, beside a run that lacks tasks, the mean over those that it has."""
    if len(tags) == len(TAGS):
        return row.overall
    if not tags:
        return None
    values = [row.tags[tag] for tag in tags if tag in row.tags]
    return sum(values) / len(values) if len(values) == len(tags) else None


def _failures(report: Report, card: Card) -> list[dict[str, Any]]:
    found = []
    for cause in CAUSES:
        groups = [next((group for group in run.groups if group.cause == cause), None) for run in report.runs]
        if not any(groups):
            continue
        sides = []
        for number, (run, group) in enumerate(zip(report.runs, groups, strict=True)):
            wrong = int((~run.results.correct).sum())
            sides.append(
                {
                    "number": number,
                    "name": run.name,
                    "images": 0 if group is None else group.images,
                    "share": 0.0 if group is None or not wrong else group.images / wrong,
                    "tags": {} if group is None else group.tags,
                    "details": () if group is None else group.details,
                }
            )
        examples = []
        if len(report.runs) == 1 and groups[0] is not None:
            examples = [card(0, side) for side in _spread(groups[0].rows, _EXAMPLES)]
        found.append({"cause": cause, "sides": sides, "examples": examples})
    return sorted(found, key=lambda one: -max(side["images"] for side in one["sides"]))


def _spread(rows: tuple[int, ...], count: int) -> list[int]:
    """Pick a few rows from all over, because the first ones all have one tag."""
    step = max(1, len(rows) // count)
    return list(rows[::step][:count])


def _histogram(threshold: Threshold) -> dict[str, Any]:
    """Compute the bars of a histogram; one that would dwarf those near the threshold is cut off and labelled."""
    middles = (threshold.edges[:-1] + threshold.edges[1:]) / 2
    near = threshold.counts[abs(middles - threshold.value) < 0.1]
    top = max(4, int(1.25 * near.max())) if len(near) else 4
    top = min(top, max(4, int(threshold.counts.max())))
    low, high = float(threshold.edges[0]), float(threshold.edges[-1])
    bars = [
        {
            "height": min(1.0, int(count) / top),
            "count": int(count),
            "cut": int(count) > top,
            "counts": float(middle) > threshold.value,
            "low": float(left),
            "high": float(right),
        }
        for count, middle, left, right in zip(
            threshold.counts, middles, threshold.edges[:-1], threshold.edges[1:], strict=True
        )
    ]
    width = high - low
    return {
        "one": threshold,
        "bars": bars,
        "low": low,
        "high": high,
        "at": (threshold.value - low) / width,
        "band": (max(low, threshold.value - SHIFT) - low) / width,
        "band_width": (min(high, threshold.value + SHIFT) - max(low, threshold.value - SHIFT)) / width,
        "near": int(threshold.counts[abs(middles - threshold.value) < SHIFT].sum()),
    }


def _differences(report: Report) -> list[dict[str, Any]]:
    if report.comparison is None:
        return []
    found = []
    for pair in report.comparison.pairs:
        one = pair.comparison
        rows = list({"overall": one.overall, **one.figures()}.items())
        widest = max(max(abs(d.interval.low), abs(d.interval.high), abs(d.value)) for _, d in rows) or 1.0
        # Differences of shares end at one, and so does the scale.
        reach = 1.0 if 1 / 1.05 < widest <= 1 else 1.05 * widest
        found.append(
            {
                "pair": pair,
                "how": {
                    "image": "The same prompts and image numbers, side by side",
                    "prompt": "The same prompts, but other noise",
                    "none": "Not paired, because no prompt is common",
                }[one.pairing],
                "rows": [_difference(name, d, reach) for name, d in rows],
                "reach": 100 * reach,
            }
        )
    return found


def _difference(name: str, d: Difference, reach: float) -> dict[str, Any]:
    def place(value: float) -> float:
        return min(1.0, max(0.0, 0.5 + value / reach / 2))

    return {
        "name": ROW_NAMES.get(name, name),
        "text": points_text(d.value),
        "span": points_interval(d.interval.low, d.interval.high),
        "p": p_text(d.p_holm),
        "detectable": detectable_text(d),
        "shown": d.shown,
        "better": d.value > 0,
        "at": place(d.value),
        "low": place(d.interval.low),
        "width": place(d.interval.high) - place(d.interval.low),
        "counts": d.counts,
    }


def _pairs(report: Report, card: Card) -> list[dict[str, Any]]:
    """Collect what is newly right and newly wrong, with a few examples that need no script."""
    found = []
    for other in range(1, len(report.runs)):
        right, wrong = report.changed(other)
        groups = []
        for key, title, items in (("gained", "newly right", right), ("lost", "newly wrong", wrong)):
            chosen = [items[i] for i in _spread(tuple(range(len(items))), _PAIRS)]
            cards = [
                (card(0, item.sides[0]), card(other, item.sides[other]))  # type: ignore[arg-type]
                for item in chosen
            ]
            groups.append({"key": key, "title": title, "images": len(items), "cards": cards})
        found.append({"number": other, "name": report.runs[other].name, "groups": groups})
    return found


def _facts(run: RunReport) -> list[tuple[str, str]]:
    summary, results = run.summary, run.results
    judges = [
        f"{identity.backend or 'unknown backend'} {identity.fingerprint or ''}".strip()
        for identity in results.identities
    ]
    facts = [
        ("results file", f"{results.path.name} ({counted(len(results), 'line')})"),
        ("sha256 of the file", run.sha256),
        ("judged by", "; ".join(judges) or "not said"),
    ]
    facts += [("rules", identity.rules or "not said") for identity in results.identities]
    facts.append(("credit", summary.credit))
    if summary.completeness.suite == "official":
        facts.append(("suite", "official GenEval prompts"))
    seeds = [seed for seed in results.seeds if seed is not None]
    facts.append(("seeds", f"{min(seeds)} to {max(seeds)}" if seeds else "not recorded"))
    facts.append(
        (
            "intervals",
            f"{percent_text(summary.scores.overall.interval.level)}, {summary.scores.overall.interval.method}",
        )
    )
    facts += [(f"generated with: {name}", _short(value)) for name, value in run.setup.items()]
    return facts


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 300 else text[:297] + "..."


def _flags(report: Report) -> list[tuple[str, str]]:
    """List the filters that have something to show."""
    images = [image for run in report.runs for image in run.images]
    kinds = (
        ("fragile", f"flips within ±{SHIFT:.2f}", any(image.flip.fragile for image in images)),
        ("rewritten", "rewritten prompt", any(image.rewritten is not None for image in images)),
        ("chosen", "best of N", any(image.best_of for image in images)),
        ("nopicture", "no picture", True),
    )
    return [(key, title) for key, title, there in kinds if there]


def _counts(report: Report) -> dict[str, int]:
    verdicts = [image.correct for image in report.runs[0].images]
    return {
        "items": len(report.items),
        "right": sum(verdict is True for verdict in verdicts),
        "wrong": sum(verdict is False for verdict in verdicts),
        "failed": sum(verdict is None for verdict in verdicts),
    }


def estimate_text(estimate: Estimate) -> str:
    """Write a score with its interval, or say why there is none."""
    reason = estimate.interval.method.removeprefix("none: ")
    interval = share_interval(estimate.interval.low, estimate.interval.high)
    return f"{share_text(estimate.value)} {interval or f'(no interval: {reason})'}"
