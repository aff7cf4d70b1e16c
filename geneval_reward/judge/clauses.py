"""The checks of a record, each with its finding, and the graded credits that count them.

Official, strict and graded credits all come from one walk over a record. `partial` and `flow_grpo` count objects; `dense` is
smooth in the confidences of detector and verifier.

Source of the order and the wording: djghosh13/geneval `evaluate_images.py` (official) and the Flow-GRPO reward server
(strict); of `flow_grpo`: the public Flow-GRPO and DiffusionNFT reward (`gen_eval.py`), with its quirks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from geneval_reward.judge.detections import Evidence
from geneval_reward.judge.geometry import component, relations
from geneval_reward.prompts.spec import Exclude, Include, PromptSpec

Kind = Literal["count", "color", "position", "exclude"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One check of a record.

    Attributes:
        kind: What is checked.
        index: Index of the clause in `include`, or in `exclude` for the kind `exclude`.
        passed: Whether the check holds; None if it was not made because an earlier check of the clause failed.
        found: Number of objects that fulfil it; for positions, those before the first that fails.
        required: Number of objects that must fulfil it.
        reason: The benchmark's wording of the failure; empty if there is none.
    """

    kind: Kind
    index: int
    passed: bool | None
    found: int
    required: int
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The finding as plain values, which is how results files record it."""
        return {
            "kind": self.kind,
            "index": self.index,
            "passed": self.passed,
            "found": self.found,
            "required": self.required,
            "reason": self.reason,
        }


def find(spec: PromptSpec, evidence: Evidence, *, exact: bool) -> list[Finding]:
    """Check every clause of a record.

    Args:
        spec: The record.
        evidence: The image's ranked objects.
        exact: False for the benchmark's rule (at least `count` objects, of which the `count` most confident are looked at);
            True for Flow-GRPO's (exactly `count`), where an exclude clause that an exact count already settles is
            left out.

    Returns:
        One finding per check, in the benchmark's order: count, colour and positions of each include clause, then excludes.
    """
    findings: list[Finding] = []
    groups: list[list[int] | None] = []
    for index, item in enumerate(spec.include):
        group: list[int] | None = None
        for finding, rows in _check_include(index, item, evidence, groups, exact=exact):
            findings.append(finding)
            group = rows
        groups.append(group)
    for index, unwanted in enumerate(spec.exclude):
        if exact and _implied(spec, unwanted):
            continue
        found = len(evidence.objects(unwanted.class_name))
        passed = found < unwanted.count
        reason = "" if passed else f"expected {unwanted.class_name}<{unwanted.count}, found {found}"
        findings.append(Finding("exclude", index, passed, found, unwanted.count, reason))
    return findings


def _implied(spec: PromptSpec, unwanted: Exclude) -> bool:
    return any(item.class_name == unwanted.class_name and item.count < unwanted.count for item in spec.include)


def _check_include(
    index: int, item: Include, evidence: Evidence, groups: list[list[int] | None], *, exact: bool
) -> Iterator[tuple[Finding, list[int] | None]]:
    """Yield each check with the clause's object group as it stands after it (None once a check failed)."""
    objects = evidence.objects(item.class_name)
    group: list[int] | None = objects[: item.count]
    found = len(objects) if exact else min(len(objects), item.count)
    if found != item.count:
        group = None
        sign = "==" if exact else ">="
        yield _count(index, item, found, f"expected {item.class_name}{sign}{item.count}, found {found}"), group
    else:
        yield _count(index, item, found, ""), group
    if item.color is not None:
        finding = _check_color(index, item, item.color, group, evidence)
        group = group if finding.passed else None
        yield finding, group
    for position in item.positions:
        if group is None:
            yield Finding("position", index, None, 0, item.count), None
            continue
        target = groups[position.target]
        if target is None:
            reason = f"no target for {item.class_name} to be {position.relation}"
            finding = Finding("position", index, False, 0, item.count, reason)
        else:
            finding = _check_position(index, item, position.relation, group, target, evidence)
        group = group if finding.passed else None
        yield finding, group


def _count(index: int, item: Include, found: int, reason: str) -> Finding:
    return Finding("count", index, not reason, found, item.count, reason)


def _check_color(index: int, item: Include, color: str, group: list[int] | None, evidence: Evidence) -> Finding:
    if group is None:
        return Finding("color", index, None, 0, item.count)
    names = Counter(evidence.color(row) for row in group)
    found = names[color]
    if found == item.count:
        return Finding("color", index, True, found, item.count)
    shown = [f"{names[name]} {name}" for name in evidence.detections.colors if names[name]]
    if names[None]:
        shown.append(f"{names[None]} of no named colour")
    reason = f"expected {color} {item.class_name}>={item.count}, found {found} {color}; and {', '.join(shown)}"
    return Finding("color", index, False, found, item.count, reason)


def _check_position(
    index: int, item: Include, relation: str, group: list[int], target: list[int], evidence: Evidence
) -> Finding:
    for number, subject in enumerate(group):
        for other in target:
            held = relations(evidence.direction(subject, other))
            if relation not in held:
                reason = f"expected {item.class_name} {relation} target, found {' and '.join(held)} target"
                return Finding("position", index, False, number, item.count, reason)
    return Finding("position", index, True, item.count, item.count)


# Dense credit is full from this colour probability and this position component on. Both are above what the official rule
# needs (the largest of ten, and 0.5), so full credit means right with a margin.
FULL_COLOR: Final = 0.9
FULL_COMPONENT: Final = 0.75


def flow_grpo_credit(spec: PromptSpec, evidence: Evidence, findings: Sequence[Finding]) -> float:
    """Compute the public RL reward, bit for bit: unbounded below, and a wrong relation still earns 0.75 on a position prompt.

    Args:
        spec: The record.
        evidence: The image's ranked objects.
        findings: Exact findings of `geneval_reward.judge.clauses.find`.

    Returns:
        The reward, in (-inf, 1].
    """
    scores: list[float] = []
    for item, checks in _by_include(spec, findings):
        detected = len(evidence.objects(item.class_name))
        scores.append(1 - abs(item.count - detected) / item.count)
        if detected != item.count:
            if item.color is not None or item.positions:
                scores.append(0.0)
            continue
        for check in checks[1:]:
            if check.kind == "color":
                scores.append(1 - abs(item.count - check.found) / item.count)
            elif check.passed is None:
                break
            elif check.passed:
                scores.append(1.0)
            else:
                # A failed pair appends 0 and then, unconditionally, 1; a missing target only the 0.
                scores.extend([0.0] if check.reason.startswith("no target") else [0.0, 1.0])
    return sum(scores) / len(scores)


def partial_credit(spec: PromptSpec, evidence: Evidence, findings: Sequence[Finding]) -> float:
    """Compute the mean of clause credits, each in [0, 1], with every relation counted once.

    Per include clause with `n` objects required and `k` found: a count credit `max(0, 1 - |n - k| / n)`; a colour
    credit, the share of the `n` objects that have it; a credit of 0 or 1 per relation. Colour and relations of a
    clause whose count is wrong earn one 0 together. An exclude clause earns 0 or 1 unless the exact count of an
    include clause already says the same (as in the benchmark's counting records).

    Args:
        spec: The record.
        evidence: The image's ranked objects.
        findings: Exact findings of `geneval_reward.judge.clauses.find`.

    Returns:
        The credit in [0, 1]; 1 exactly if the image is strictly correct.
    """
    credits: list[float] = []
    for item, checks in _by_include(spec, findings):
        detected = len(evidence.objects(item.class_name))
        credits.append(max(0.0, 1 - abs(item.count - detected) / item.count))
        if detected != item.count:
            if item.color is not None or item.positions:
                credits.append(0.0)
            continue
        credits.extend(
            check.found / item.count if check.kind == "color" else float(bool(check.passed)) for check in checks[1:]
        )
    credits.extend(float(bool(check.passed)) for check in findings if check.kind == "exclude")
    return sum(credits) / len(credits)


def dense_credit(spec: PromptSpec, evidence: Evidence) -> float:
    """Compute the mean of smooth clause credits, each in [0, 1].

    Per include clause: *presence*, the mean over the `n` most confident boxes of `min(1, confidence / c)` with
    `c` halfway between the threshold and 1 (a missing box is 0); *colour*, the mean of presence times
    `min(1, p / 0.9)`; per relation, the mean over pairs of both presences times `min(1, (d + 1) / 1.75)`, `d`
    being the component of the position rule. Per exclude clause: *absence*, falling from 1 to 0 as the confidence of
    the n-th box goes from half the threshold to the threshold.

    The form (presence, colour probability, position component, absence) follows Reward-Weighted Transport
    Distillation's `scoring.py`; the scales are ours, chosen so that 1 can be reached and implies an official pass.

    Args:
        spec: The record.
        evidence: The image's ranked objects, including those below the threshold.

    Returns:
        The credit in [0, 1]; 1 only if every clause is confidently right.
    """
    credits: list[float] = []
    tops = [evidence.ranked(item.class_name)[: item.count] for item in spec.include]
    for item, rows in zip(spec.include, tops, strict=True):
        credits.append(sum(_presence(evidence, row) for row in rows) / item.count)
        if item.color is not None:
            shares = [_presence(evidence, row) * _color_share(evidence, row, item.color) for row in rows]
            credits.append(sum(shares) / item.count)
        for position in item.positions:
            targets = tops[position.target]
            pairs = item.count * spec.include[position.target].count
            credits.append(
                sum(_placed(evidence, row, other, position.relation) for row in rows for other in targets) / pairs
            )
    for unwanted in spec.exclude:
        rows = evidence.ranked(unwanted.class_name)
        confidence = evidence.confidence(rows[unwanted.count - 1]) if len(rows) >= unwanted.count else 0.0
        credits.append(_absence(confidence, evidence.threshold))
    return sum(credits) / len(credits)


def _presence(evidence: Evidence, row: int) -> float:
    if evidence.threshold >= 1.0:
        return 0.0  # No object can pass the threshold, so even the most confident one earns nothing.
    return min(1.0, evidence.confidence(row) / ((1.0 + evidence.threshold) / 2))


def _absence(confidence: float, threshold: float) -> float:
    if threshold == 0.0:
        return float(confidence == 0.0)
    return min(1.0, max(0.0, 2.0 - 2.0 * confidence / threshold))


def _color_share(evidence: Evidence, row: int, color: str) -> float:
    return min(1.0, evidence.color_probability(row, color) / FULL_COLOR)


def _placed(evidence: Evidence, subject: int, target: int, relation: str) -> float:
    along = component(evidence.direction(subject, target), relation)
    share = min(1.0, max(0.0, (along + 1.0) / (FULL_COMPONENT + 1.0)))
    return share * _presence(evidence, subject) * _presence(evidence, target)


def _by_include(spec: PromptSpec, findings: Sequence[Finding]) -> list[tuple[Include, list[Finding]]]:
    grouped: list[list[Finding]] = [[] for _ in spec.include]
    for finding in findings:
        if finding.kind != "exclude":
            grouped[finding.index].append(finding)
    return list(zip(spec.include, grouped, strict=True))
