"""Export the emoji that depict one of the 80 classes as small PNG sprites, with their licence and provenance.

Run once on a Debian machine with `fonts-noto-color-emoji` installed::

    python tools/export_artwork.py

It writes `geneval_reward/data/artwork/<class>.png` (RGBA, cut to what is drawn), `OFL.txt` and `artwork.json`.
The same font file gives the same bytes, given the same Pillow.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import PIL
from PIL import Image, ImageDraw, ImageFont, features

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
COPYRIGHT = Path("/usr/share/doc/fonts-noto-color-emoji/copyright")
FONT_SHA256 = "e5899ed38b8ed83e08bd3ac5de09791e9d19d288333a796de1d35ad17396f1ec"
STRIKE = 109  # the font has bitmaps of this size only
OUT = Path(__file__).parents[1] / "geneval_reward" / "data" / "artwork"

# One emoji a class, the one that shows the whole object from its usual side. Classes without one are left out
# (fire hydrant, parking meter, bench, baseball bat and glove, dining table, hair drier, microwave, oven, toaster,
# sink, refrigerator, tv remote), and so are fork, skis, snowboard, surfboard and tie, drawn only with other things.
CODEPOINTS = {
    "person": 0x1F9CD,
    "bicycle": 0x1F6B2,
    "car": 0x1F698,
    "motorcycle": 0x1F3CD,
    "airplane": 0x2708,
    "bus": 0x1F68C,
    "train": 0x1F686,
    "truck": 0x1F6FB,
    "boat": 0x26F5,
    "traffic light": 0x1F6A6,
    "stop sign": 0x1F6D1,
    "bird": 0x1F426,
    "cat": 0x1F408,
    "dog": 0x1F415,
    "horse": 0x1F40E,
    "sheep": 0x1F411,
    "cow": 0x1F404,
    "elephant": 0x1F418,
    "bear": 0x1F43B,
    "zebra": 0x1F993,
    "giraffe": 0x1F992,
    "backpack": 0x1F392,
    "umbrella": 0x2602,
    "handbag": 0x1F45C,
    "suitcase": 0x1F9F3,
    "frisbee": 0x1F94F,
    "sports ball": 0x26BD,
    "kite": 0x1FA81,
    "skateboard": 0x1F6F9,
    "tennis racket": 0x1F3BE,
    "bottle": 0x1F37E,
    "wine glass": 0x1F377,
    "cup": 0x2615,
    "knife": 0x1F52A,
    "spoon": 0x1F944,
    "bowl": 0x1F963,
    "banana": 0x1F34C,
    "apple": 0x1F34E,
    "sandwich": 0x1F96A,
    "orange": 0x1F34A,
    "broccoli": 0x1F966,
    "carrot": 0x1F955,
    "hot dog": 0x1F32D,
    "pizza": 0x1F355,
    "donut": 0x1F369,
    "cake": 0x1F382,
    "chair": 0x1FA91,
    "couch": 0x1F6CB,
    "potted plant": 0x1FAB4,
    "bed": 0x1F6CF,
    "toilet": 0x1F6BD,
    "tv": 0x1F4FA,
    "laptop": 0x1F4BB,
    "computer mouse": 0x1F5B1,
    "computer keyboard": 0x2328,
    "cell phone": 0x1F4F1,
    "book": 0x1F4D5,
    "clock": 0x1F550,
    "vase": 0x1F3FA,
    "scissors": 0x2702,
    "teddy bear": 0x1F9F8,
    "toothbrush": 0x1FAA5,
}


def draw(font: ImageFont.FreeTypeFont, codepoint: int) -> Image.Image:
    """The glyph in its own colours, cut to its opaque part."""
    canvas = Image.new("RGBA", (192, 192))
    ImageDraw.Draw(canvas).text((16, 16), chr(codepoint), font=font, embedded_color=True)
    # Nearly transparent rims are cut too: a box must end where the eye sees the object end.
    box = canvas.getchannel("A").point(lambda alpha: 255 if alpha >= 16 else 0).getbbox()
    if box is None:
        raise SystemExit(f"U+{codepoint:04X}: expected a drawing in {FONT.name}, got an empty glyph")
    return canvas.crop(box)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--font", type=Path, default=FONT)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    digest = hashlib.sha256(args.font.read_bytes()).hexdigest()
    if digest != FONT_SHA256:
        raise SystemExit(f"{args.font}: expected sha256 {FONT_SHA256}, got {digest}; use the font version named here")
    font = ImageFont.truetype(str(args.font), STRIKE)
    args.out.mkdir(parents=True, exist_ok=True)
    sprites = {}
    for name, codepoint in CODEPOINTS.items():
        path = args.out / f"{name.replace(' ', '_')}.png"
        image = draw(font, codepoint)
        image.save(path, optimize=True)
        sprites[name] = {
            "file": path.name,
            "codepoint": f"U+{codepoint:04X}",
            "size": list(image.size),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
    licence = COPYRIGHT.read_text(encoding="utf-8").split("License:   SIL-1.1")[-1]
    lines = [line.strip().removeprefix(".") if line.strip() == "." else line.strip() for line in licence.splitlines()]
    header = (
        "The drawings in this folder are derived from Noto Color Emoji.\n"
        "Copyright 2013-2017 Google Inc., Arjen Nienhuis <a.g.nienhuis@gmail.com>\n\n"
    )
    (args.out / "OFL.txt").write_text(header + "\n".join(lines).strip() + "\n", encoding="utf-8")
    provenance = {
        "about": "Emoji drawings of Noto Color Emoji, exported as PNG, cut to the opaque part, one a class.",
        "licence": "SIL Open Font License 1.1 (OFL.txt); derived drawings stay under it",
        "copyright": "2013-2017 Google Inc., Arjen Nienhuis",
        "source": {
            "debian_package": "fonts-noto-color-emoji",
            "version": "2.042-0+deb12u1",
            "upstream": "https://github.com/googlefonts/noto-emoji",
            "file": args.font.name,
            "sha256": digest,
            "strike": STRIKE,
        },
        "made_by": {
            "tool": "tools/export_artwork.py",
            "pillow": PIL.__version__,
            "freetype": features.version("freetype2"),
        },
        "sprites": sprites,
    }
    (args.out / "artwork.json").write_text(json.dumps(provenance, indent=1) + "\n", encoding="utf-8")
    total = sum(path.stat().st_size for path in args.out.iterdir())
    print(f"{len(sprites)} sprites, {total / 1e6:.2f} MB in {args.out}")


if __name__ == "__main__":
    main()
