"""Which image belongs to which line: certain, or refused with how to name the images."""

import itertools

import pytest

from geneval_reward.errors import ResultsError
from geneval_reward.results.dealing import deal


def owners(images, lines):
    return dict(zip(images, deal(images, lines, "m.jsonl")[0], strict=True))


@pytest.mark.parametrize(
    ("template", "line_of"),
    [
        ("seed{s}/{p:05d}.png", "p"),
        ("seed_{s}_{p:05d}.png", "p"),
        ("{p:05d}/{s}.jpg", "p"),
        ("{p:05d}_{s:04d}.png", "p"),
        ("run2/s{s}/prompt{p}.webp", "p"),
        ("{p}/prompt{p:03d}-seed{s}.png", "p"),
    ],
)
@pytest.mark.parametrize("seeds", [(0, 1, 2), (42, 43), (1234,)])
def test_one_folder_or_prefix_per_seed(template, line_of, seeds):
    images = [template.format(s=s, p=p) for s, p in itertools.product(seeds, range(5))]
    found = owners(images, 5)
    for s, p in itertools.product(seeds, range(5)):
        assert found[template.format(s=s, p=p)] == p


def test_prompts_counted_from_one():
    assert owners([f"s{s}/{p}.png" for s in (7, 9) for p in (1, 2, 3)], 3)["s9/3.png"] == 2


def test_the_benchmarks_layout_is_dealt_by_its_folders_whatever_is_missing():
    # Four lines and four samples each: by the numbers alone either could be the line.
    images = [f"{p:05d}/samples/{k:04d}.png" for p in range(4) for k in range(4)]
    assert owners(images, 4) == {name: int(name[:5]) for name in images}
    assert owners(images[1:7], 4) == {name: int(name[:5]) for name in images[1:7]}
    with pytest.raises(ResultsError, match=r"a folder 00003 and lines 0\.\.2"):
        deal(images, 3, "m.jsonl")


def test_one_counter_is_dealt_in_shares_and_that_is_said():
    images = [f"{k}.png" for k in range(12)]
    found, note = deal(images, 2, "m.jsonl")
    assert found == [0] * 6 + [1] * 6
    assert "0.png to 5.png belong to the first line" in note
    assert deal(images, 12, "m.jsonl") == (list(range(12)), None)
    assert deal(["image-01.png", "image-02.png"], 2, "m.jsonl") == ([0, 1], None)


@pytest.mark.parametrize(
    ("images", "lines", "message"),
    [
        (["a.png", "b.png"], 2, "a.png and b.png, which are not named alike"),
        (["0.png", "1.png", "2.png"], 2, "no multiple of the lines"),
        (["0.png", "1.png", "3.png", "4.png"], 2, "whose numbers are not 0, 1, 2"),
        (["1234.png", "99.png"], 2, "whose numbers are not 0, 1, 2"),
        # As many seeds as prompts: either number could be the line.
        ([f"{a}_{b}.png" for a in (0, 1) for b in (0, 1)], 2, "more than one number that could be the line"),
        # The second number counts on, so the first is no prompt.
        (["s0/0.png", "s0/1.png", "s1/2.png", "s1/3.png"], 2, "no number that counts the lines"),
        # One image of seed 1 is missing.
        (["s0/0.png", "s0/1.png", "s0/2.png", "s1/0.png", "s1/1.png"], 3, "no number that counts the lines"),
        (["seedA/0.png", "seedB/0.png"], 2, "not named alike"),
        ([], 2, "0 images and 2 lines"),
        (["0.png"], 0, "1 image and 0 lines"),
    ],
)
def test_doubt_is_refused(images, lines, message):
    with pytest.raises(ResultsError, match=message) as caught:
        deal(images, lines, "m.jsonl")
    if images and lines:
        assert 'add "file_name"' in str(caught.value)
        assert "<line number from 0>/samples/0000.png" in str(caught.value)


def test_one_line_owns_all():
    assert deal(["a.png", "x/b.png"], 1, "m.jsonl") == ([0, 0], None)
