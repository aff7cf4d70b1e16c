"""Makes docs/images/judged.png, the picture of README: three judged images with their boxes and reasons.

python tools/readme_picture.py
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from geneval_reward import GenEvalScorer, PromptSpec
from geneval_reward.demo.scenes import demo_scenes
from geneval_reward.results.drawing import draw_verdict
from geneval_reward.vision.photos import photo

SIDE, FOOT, GAP = 420, 104, 14
OUT = Path(__file__).parent.parent / "docs" / "images" / "judged.png"


def main() -> None:
    scorer = GenEvalScorer.from_pretrained("lite", device="cpu")
    right = next(s for s in demo_scenes() if s.spec.tag == "color_attr" and s.should_pass)
    wrong = next(s for s in demo_scenes() if s.spec.tag == "counting" and not s.should_pass)
    cat = {"tag": "colors", "include": [{"class": "cat", "count": 1, "color": "blue"}]}
    shown = [(right.image, right.spec), (wrong.image, wrong.spec), (photo("chelsea"), PromptSpec.parse(cat))]
    verdicts = scorer.score([image for image, _ in shown], [spec for _, spec in shown])
    sheet = Image.new("RGB", (len(shown) * (SIDE + GAP) - GAP, SIDE + FOOT), "white")
    draw = ImageDraw.Draw(sheet)
    for column, ((image, _), verdict) in enumerate(zip(shown, verdicts, strict=True)):
        left = column * (SIDE + GAP)
        boxed = draw_verdict(image, verdict, SIDE)
        sheet.paste("#eceef1", (left, 0, left + SIDE, SIDE))
        sheet.paste(boxed, (left + (SIDE - boxed.width) // 2, (SIDE - boxed.height) // 2))
        draw.text((left + 2, SIDE + 10), verdict.spec.prompt, fill="#16181b", font=ImageFont.load_default(18))
        mark, hue = ("correct", "#11734b") if verdict.correct else ("wrong", "#b3261e")
        draw.text((left + 2, SIDE + 38), mark, fill=hue, font=ImageFont.load_default(17))
        draw.text((left + 2, SIDE + 64), verdict.reason, fill=hue, font=ImageFont.load_default(15))
    OUT.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(OUT, optimize=True)


if __name__ == "__main__":
    main()
