"""Verdicts and detections in a notebook: boxes, reasons, nothing that a prompt could inject; short forms for print."""

import re

import numpy as np
import pytest
from PIL import Image

from geneval_reward.errors import ImageError
from geneval_reward.judge import Detections, judge
from geneval_reward.judge.html import detections_html
from geneval_reward.prompts.spec import PromptSpec

DOGS = Detections([[10, 40, 60, 90], [50, 5, 95, 45], [0, 50, 20, 70]], [0.8, 0.6, 0.2], [16, 16, 16], (100, 100))


def spec(count=3, **more):
    return PromptSpec.parse({"tag": "counting", "include": [{"class": "dog", "count": count}], **more})


def rects(html):
    return re.findall(r'<rect [^>]*stroke="(#\w+)" stroke-width="([\d.]+)"', html)


def test_a_wrong_verdict_shows_boxes_prompt_and_reason():
    verdict = judge(spec(), DOGS, "confidence=0.3,counting_confidence=0.3")
    html = verdict._repr_html_()
    # Two objects count, the third is below the threshold but above half of it.
    assert rects(html) == [("#888888", "1"), ("#0072B2", "2.5"), ("#0072B2", "2.5")]
    assert "✗ wrong" in html
    assert "a photo of three dogs" in html
    assert "expected dog&gt;=3, found 2" in html
    assert ">dog 0.80<" in html
    assert ">dog 0.20<" not in html
    assert repr(verdict) == "Verdict(wrong, 'a photo of three dogs', 'expected dog>=3, found 2')"


def test_a_correct_verdict_has_no_reason():
    verdict = judge(spec(2), DOGS, "counting_confidence=0.3")
    assert "✓ correct" in verdict._repr_html_()
    assert repr(verdict) == "Verdict(correct, 'a photo of two dogs')"


def test_a_prompt_cannot_inject_html():
    html = judge(spec(prompt="<script>alert('x')</script>"), DOGS)._repr_html_()
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_detections_show_the_most_confident_boxes():
    assert repr(DOGS) == "Detections(3 boxes in 100 x 100: dog x3)"
    assert len(rects(DOGS._repr_html_())) == 3
    assert repr(Detections.empty((8, 6))) == "Detections(0 boxes in 8 x 6)"
    many = Detections(np.tile(DOGS.xyxy, (50, 1)), np.linspace(0, 1, 150), np.full(150, 16), (100, 100))
    html = detections_html(many)
    assert len(rects(html)) == 60
    assert "dog 1.00" in html
    assert "dog 0.00" not in html
    assert "the 60 most confident" in html


def test_draw_takes_what_scorers_take(tmp_path):
    verdict = judge(spec(2), DOGS, "counting_confidence=0.3")
    white = Image.new("RGB", (100, 100), "white")
    white.save(tmp_path / "white.png")
    drawn = verdict.draw(white, side=200)
    assert drawn.size == (200, 200)
    assert drawn.getpixel((21, 120)) == (0x00, 0x72, 0xB2)  # the left side of the first dog's box
    for image in (tmp_path / "white.png", str(tmp_path / "white.png"), np.asarray(white)):
        assert verdict.draw(image, side=200).tobytes() == drawn.tobytes()
    with pytest.raises(ImageError, match=r"missing\.png"):
        verdict.draw(tmp_path / "missing.png")
