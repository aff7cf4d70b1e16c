"""The words of GenEval: classes, colours, relations and tags, in the benchmark's own order; and `Vocabulary`, those of a scorer.

The order matters. A class's index is its COCO category index (map other label sets by index, never by name,
because GenEval renames three classes), and the order of the colours decides ties and the wording of reasons.

Source: djghosh13/geneval `prompts/object_names.txt` and `prompts/create_prompts.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from geneval_reward.errors import SpecError
from geneval_reward.prompts.messages import LONGEST_WORD, hint, shown

if TYPE_CHECKING:
    from geneval_reward.prompts.spec import PromptSpec

CLASS_NAMES: Final[tuple[str, ...]] = tuple(
    """person
bicycle
car
motorcycle
airplane
bus
train
truck
boat
traffic light
fire hydrant
stop sign
parking meter
bench
bird
cat
dog
horse
sheep
cow
elephant
bear
zebra
giraffe
backpack
umbrella
handbag
tie
suitcase
frisbee
skis
snowboard
sports ball
kite
baseball bat
baseball glove
skateboard
surfboard
tennis racket
bottle
wine glass
cup
fork
knife
spoon
bowl
banana
apple
sandwich
orange
broccoli
carrot
hot dog
pizza
donut
cake
chair
couch
potted plant
bed
dining table
toilet
tv
laptop
computer mouse
tv remote
computer keyboard
cell phone
microwave
oven
toaster
sink
refrigerator
book
clock
vase
scissors
teddy bear
hair drier
toothbrush""".split("\n")
)
"""The 80 classes; the index is the COCO category index, from 0 and without gaps."""

CLASS_IDS: Final[dict[str, int]] = {name: index for index, name in enumerate(CLASS_NAMES)}

COCO_ALIASES: Final[dict[str, str]] = {
    "mouse": "computer mouse",
    "remote": "tv remote",
    "keyboard": "computer keyboard",
}
"""COCO's own names of the three classes that GenEval renames. Error messages suggest the right ones; they are never accepted."""

COLORS: Final[tuple[str, ...]] = (
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "purple",
    "pink",
    "brown",
    "black",
    "white",
)
COLOR_IDS: Final[dict[str, int]] = {name: index for index, name in enumerate(COLORS)}

RELATIONS: Final[tuple[str, ...]] = ("left of", "right of", "above", "below")

TAGS: Final[tuple[str, ...]] = ("single_object", "two_object", "counting", "colors", "position", "color_attr")

OTHER_NAMES: Final = frozenset(
    """overall micro partial half_width n prompts seconds coverage images pass_at_k pass_any images_correct prompts_correct all
    macro total""".split()
)
"""Names of other numbers that stand beside the tasks' scores in logs and tables; a task of one's own cannot be called so."""

_TAG_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")


@dataclass(frozen=True)
class Vocabulary:
    """The classes and colours that a scorer can judge.

    Attributes:
        classes: Names of classes, in the order of the detector's `class_id`.
        colors: Names of colours or other attributes, in the order of the verifier's columns.

    Examples:
        >>> from geneval_reward.prompts import PromptSpec
        >>> spec = PromptSpec.parse({"tag": "single_object", "include": [{"class": "teapot", "count": 1}]})
        >>> Vocabulary(classes=("teapot", "kettle")).check(spec)
        >>> Vocabulary().problem(spec)
        "include[0].class: expected one of the 80 GenEval class names, got 'teapot'; see geneval_reward.prompts.CLASS_NAMES"
    """

    classes: tuple[str, ...] = CLASS_NAMES
    colors: tuple[str, ...] = COLORS

    def problem(self, spec: PromptSpec) -> str | None:
        """Say why a record cannot be judged: its first class or colour that is not known. None if all are."""
        for index, item in enumerate(spec.include):
            if item.class_name not in self.classes:
                return self._unknown_class(f"include[{index}].class", item.class_name)
            if item.color is not None and item.color not in self.colors:
                known = ", ".join(self.colors[:20]) + (", ..." if len(self.colors) > 20 else "")
                near = hint(item.color, self.colors)
                return f"include[{index}].color: expected one of {known}, got {shown(item.color)}{near}"
        for index, unwanted in enumerate(spec.exclude):
            if unwanted.class_name not in self.classes:
                return self._unknown_class(f"exclude[{index}].class", unwanted.class_name)
        return None

    def check(self, spec: PromptSpec) -> None:
        """Refuse a record that cannot be judged.

        Raises:
            SpecError: If a class or colour is not known; the message names it and suggests the nearest one.
        """
        problem = self.problem(spec)
        if problem is not None:
            raise SpecError(problem)

    def digest(self) -> str:
        """Twelve hex digits that differ where the words do."""
        return hashlib.sha256(repr((self.classes, self.colors)).encode()).hexdigest()[:12]

    def _unknown_class(self, where: str, name: str) -> str:
        official = self.classes == CLASS_NAMES
        whose = "the 80 GenEval class names" if official else f"the {len(set(self.classes)):,} classes of the detector"
        near = hint(name, self.classes, COCO_ALIASES if official else None)
        rest = near or ("; see geneval_reward.prompts.CLASS_NAMES" if official else "; see its class_names")
        return f"{where}: expected one of {whose}, got {shown(name)}{rest}"


def class_id(name: str, where: str = "class") -> int:
    """Look up the index of a class name in `CLASS_NAMES`.

    Args:
        name: One of the 80 class names.
        where: What error messages call it.

    Raises:
        SpecError: If the name is not one of the 80; the message suggests the nearest one.
    """
    index = CLASS_IDS.get(name) if isinstance(name, str) else None
    if index is None:
        near = hint(name, CLASS_NAMES, COCO_ALIASES) or "; see geneval_reward.prompts.CLASS_NAMES"
        raise SpecError(f"{where}: expected one of the 80 GenEval class names, got {shown(name)}{near}")
    return index


def check_tag(tag: Any) -> str:
    """Check the name of a task: one of the six, or a name of one's own.

    Raises:
        SpecError: If it is no name, is all but one of the six, or is the name of another number.
    """
    official = ", ".join(TAGS)
    if not isinstance(tag, str):
        raise SpecError(f"tag: expected one of {official}, or a name of your own, got {shown(tag)}")
    near = "" if tag in TAGS else hint(tag, TAGS, cutoff=0.8)
    if near:
        raise SpecError(f"tag: expected one of {official}, or a name of your own, got {shown(tag)}{near}")
    if not 0 < len(tag) <= LONGEST_WORD or not _TAG_CHARACTERS.issuperset(tag) or not tag[0].isalpha():
        raise SpecError(
            f"tag: expected one of {official}, or a name of your own of at most {LONGEST_WORD} letters, digits, '_', '-' and "
            f"'.' that begins with a letter, got {shown(tag)}"
        )
    if tag.lower() in OTHER_NAMES or tag.startswith("pairs_"):
        raise SpecError(f"tag: expected a name that no other number has, got {shown(tag)}; choose another")
    return tag


def sort_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Put names of tasks in order, each once: the six as the benchmark has them, then others by the alphabet.

    Examples:
        >>> sort_tags(["texture", "colors", "single_object", "colors"])
        ('single_object', 'colors', 'texture')
    """
    there = set(tags)
    return (*(tag for tag in TAGS if tag in there), *sorted(there - set(TAGS)))
