"""The words of GenEval: classes, colours, relations and tags, in the benchmark's own order.

The order matters. A class's index is its COCO category index (map other label sets by index, never by name,
because GenEval renames three classes), and the order of the colours decides ties and the wording of reasons.

Source: djghosh13/geneval `prompts/object_names.txt` and `prompts/create_prompts.py`.
"""

from __future__ import annotations

from typing import Final

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
