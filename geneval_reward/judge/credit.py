"""Graded credits: numbers between wrong and right.

`partial` and `flow_grpo` count objects. `dense` is smooth in the confidences of detector and verifier.

Source of `flow_grpo`: the public Flow-GRPO and DiffusionNFT reward (`gen_eval.py`), with its quirks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from geneval_reward.judge.clauses import Finding
from geneval_reward.judge.evidence import Evidence
from geneval_reward.judge.geometry import component
from geneval_reward.prompts.spec import Include, PromptSpec

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
