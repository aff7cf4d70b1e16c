"""The checks of a record, each with its finding. Official, strict and graded credits all come from this one walk over a record.

Source of the order and the wording: djghosh13/geneval `evaluate_images.py` (official) and the Flow-GRPO reward server
(strict).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from geneval_reward.judge.evidence import Evidence
from geneval_reward.judge.geometry import relations
from geneval_reward.prompts.spec import Exclude, Include, PromptSpec
from geneval_reward.prompts.vocabulary import COLORS

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
    shown = [f"{names[name]} {name}" for name in COLORS if names[name]]
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
