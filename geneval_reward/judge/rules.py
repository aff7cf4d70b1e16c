"""`Rules`: the thresholds by which detections become objects and objects become verdicts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final

from geneval_reward.errors import UsageError

_PROFILES: Final[dict[str, dict[str, Any]]] = {
    # The benchmark's own defaults (evaluate_images.py), which were chosen for Mask2Former.
    "geneval": {},
    # A small detector is less confident; docs/lite_detector.md has the measurement behind these figures.
    "lite": {"confidence": 0.25, "counting_confidence": 0.25, "max_overlap": 0.4},
    # The same for a detector with other confidences; docs/second_detector.md.
    "nanodet": {"confidence": 0.2, "counting_confidence": 0.2, "max_overlap": 0.4},
}

# The official script's option names, as they stand in golden files and in `--options`.
_OFFICIAL_NAMES: Final = {
    "threshold": "confidence",
    "counting_threshold": "counting_confidence",
    "position_threshold": "position",
    "bgcolor": "background",
}


@dataclass(frozen=True, slots=True)
class Rules:
    """The judge's thresholds. The defaults are the benchmark's.

    Attributes:
        confidence: A detection counts if its confidence is strictly greater than this, in [0, 1].
        counting_confidence: The same threshold for records with the tag `counting`.
        max_objects: At most this many objects of a class count, the most confident first; >= 1.
        max_overlap: Within a class, a box is dropped if its IoU with a more confident box reaches this; 1.0 drops none.
        position: The dead zone of the position rule, as a share of the summed box sizes, >= 0.
        background: The colour (`#rgb` or `#rrggbb`) on which a masked object is shown to the verifier, or `original`.
        crop: Whether the verifier sees only the box.

    Raises:
        UsageError: If a value is out of range; the message names the field.

    Examples:
        >>> Rules.parse("lite").confidence
        0.25
        >>> Rules.parse("geneval,confidence=0.5").counting_confidence
        0.9
    """

    confidence: float = 0.3
    counting_confidence: float = 0.9
    max_objects: int = 16
    max_overlap: float = 1.0
    position: float = 0.1
    background: str = "#999"
    crop: bool = True

    def __post_init__(self) -> None:
        for name in ("confidence", "counting_confidence", "max_overlap"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
                raise UsageError(f"{name}: expected a number in [0, 1], got {value!r}")
        if isinstance(self.max_objects, bool) or not isinstance(self.max_objects, int) or self.max_objects < 1:
            raise UsageError(f"max_objects: expected an integer >= 1, got {self.max_objects!r}")
        if (
            isinstance(self.position, bool)
            or not isinstance(self.position, int | float)
            or not 0.0 <= self.position < float("inf")
        ):
            raise UsageError(f"position: expected a number >= 0, got {self.position!r}")
        if not isinstance(self.background, str) or not re.fullmatch(
            r"original|#([0-9a-fA-F]{3}|[0-9a-fA-F]{6})", self.background
        ):
            raise UsageError(f"background: expected '#rgb', '#rrggbb' or 'original', got {self.background!r}")
        if not isinstance(self.crop, bool):
            raise UsageError(f"crop: expected True or False, got {self.crop!r}")

    @classmethod
    def parse(cls, value: Rules | Mapping[str, Any] | str | None, base: Rules | None = None) -> Rules:
        """Read rules from a profile name, `name=value` pairs or a mapping.

        Args:
            value: `"geneval"` or `"lite"`; pairs such as `"confidence=0.5,position=0.2"`, optionally after a
                profile name; a mapping of field names (the official script's option names are understood too); rules,
                which are returned as they are; or None for `base`.
            base: The rules that pairs and mappings start from, such as those of a results file or backend. They change only
                the fields that they name. A profile name starts from that profile instead. None takes the benchmark's rules.

        Raises:
            UsageError: For an unknown profile or field, or a value out of range.

        Examples:
            >>> Rules.parse("confidence=0.3", base=Rules.parse("lite")).counting_confidence
            0.25
        """
        base = cls() if base is None else base
        if value is None:
            return base
        if isinstance(value, Rules):
            return value
        if isinstance(value, str):
            profile, value = _parse_text(value)
            base = base if profile is None else cls(**_PROFILES[profile])
        if not isinstance(value, Mapping):
            raise UsageError(f"rules: expected a profile, field=value pairs or a mapping, got {type(value).__name__}")
        known = {field.name for field in fields(cls)}
        arguments = {_OFFICIAL_NAMES.get(key, key): item for key, item in value.items()}
        unknown = [key for key in arguments if key not in known]
        if unknown:
            raise UsageError(
                f"rules: expected fields of {', '.join(sorted(known))}, got {', '.join(map(repr, unknown))}"
            )
        return replace(base, **arguments)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values, which is how results files record them."""
        return asdict(self)

    def threshold(self, tag: str) -> float:
        """The confidence threshold for a record with this tag. It holds for every class of the record."""
        return self.counting_confidence if tag == "counting" else self.confidence


def _parse_text(text: str) -> tuple[str | None, dict[str, Any]]:
    """The profile, if the text begins with one, and the values of its pairs."""
    profile = None
    values: dict[str, Any] = {}
    for position, part in enumerate(filter(None, (part.strip() for part in text.split(",")))):
        key, equals, raw = part.partition("=")
        if equals:
            values[key.strip()] = _parse_value(_OFFICIAL_NAMES.get(key.strip(), key.strip()), raw.strip())
        elif part in _PROFILES and not position:
            profile = part
        else:
            names = ", ".join(_PROFILES)
            raise UsageError(f"rules: expected a profile ({names}) first, then field=value pairs, got {part!r}")
    return profile, values


def _parse_value(name: str, raw: str) -> Any:
    try:
        if name == "max_objects":
            return int(raw)
        if name == "crop":
            return {"true": True, "1": True, "false": False, "0": False}[raw.lower()]
        return raw if name == "background" else float(raw)
    except (ValueError, KeyError) as error:
        raise UsageError(f"rules: expected a value for {name}, got {raw!r}") from error
