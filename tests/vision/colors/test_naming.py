"""What colours are called."""

import hashlib
import json
from importlib.resources import files

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geneval_reward.prompts import COLORS
from geneval_reward.vision.colors.naming import NAMES, ColorNaming, named_colors, srgb_to_lab

DATA = files("geneval_reward") / "data" / "colors"


@pytest.fixture(scope="module")
def naming():
    return ColorNaming()


def called(naming, *colors):
    return [NAMES[index] for index in naming.posterior(colors).argmax(-1)]


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        # CIELAB of the sRGB corners under D65, as tabulated for IEC 61966-2-1.
        ((255, 255, 255), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 255, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((119, 119, 119), (50.03, 0, 0)),
    ],
)
def test_lab_of_known_colours(rgb, lab):
    np.testing.assert_allclose(srgb_to_lab(rgb), lab, atol=0.02)


def test_lab_keeps_the_shape():
    assert srgb_to_lab(np.zeros((4, 5, 3), np.uint8)).shape == (4, 5, 3)


def test_names_are_the_ten_and_grey():
    assert NAMES == (*COLORS, "grey")


def test_the_table_is_the_one_its_provenance_describes():
    provenance = json.loads((DATA / "PROVENANCE.json").read_text(encoding="utf-8"))
    assert hashlib.sha256((DATA / "names.tsv").read_bytes()).hexdigest() == provenance["sha256"]
    table = named_colors()
    assert len(table.names) == len(table.rgb) == len(table.label) == len(table.source) == 966
    for source, counts in provenance["rows"].items():
        labels = table.label[np.array(table.source) == source]
        assert {name: int((labels == index).sum()) for index, name in enumerate(NAMES)} == counts


def test_survey_rows_are_matplotlibs():
    colors = pytest.importorskip("matplotlib.colors")
    table = named_colors()
    for name, rgb, source in zip(table.names, table.rgb, table.source, strict=True):
        if source.startswith("xkcd"):
            assert colors.XKCD_COLORS[f"xkcd:{name}"] == "#" + bytes(rgb.tolist()).hex()


def test_direct_names_say_their_class():
    table = named_colors()
    direct = [(n, k) for n, k, s in zip(table.names, table.label, table.source, strict=True) if s == "xkcd"]
    assert len(direct) == 558
    assert all(name.split()[-1] == NAMES[label] for name, label in direct)


@pytest.mark.parametrize(
    ("name", "rgb"),
    [
        ("red", (255, 0, 0)),
        ("orange", (255, 128, 0)),
        ("yellow", (255, 255, 0)),
        ("green", (0, 128, 0)),
        ("green", (0, 255, 0)),
        ("blue", (0, 0, 255)),
        ("blue", (120, 190, 240)),
        ("purple", (128, 0, 128)),
        ("pink", (255, 192, 203)),
        ("pink", (255, 105, 180)),
        ("brown", (139, 69, 19)),
        ("brown", (101, 67, 33)),
        ("black", (0, 0, 0)),
        ("black", (35, 35, 38)),
        ("white", (255, 255, 255)),
        ("white", (240, 240, 235)),
        ("grey", (128, 128, 128)),
        ("grey", (90, 90, 92)),
        ("grey", (190, 190, 190)),
    ],
)
def test_pure_tints(naming, name, rgb):
    assert called(naming, rgb) == [name]


def test_leave_one_out_agrees_with_the_survey(naming):
    label, named = naming.leave_one_out()
    source = np.array([source for source in named_colors().source if source != "nbs-test"])
    right = label == named
    assert right[source == "xkcd"].mean() > 0.88
    assert right[source != "nbs"].mean() > 0.86
    assert min(right[label == index].mean() for index in range(len(NAMES))) > 0.6


def test_leave_one_out_leaves_the_colour_itself_out():
    # With a kernel far narrower than any distance, a colour that counted for itself would always be right.
    label, named = ColorNaming(bandwidth=2.0).leave_one_out()
    assert (label == named).mean() < 0.95


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=8))
def test_posteriors_are_probabilities(colors):
    posterior = ColorNaming(bandwidth=3.0).posterior(colors)
    assert posterior.shape == (len(colors), 11)
    assert (posterior >= 0).all()
    np.testing.assert_allclose(posterior.sum(-1), 1, atol=1e-5)


def test_lookup_is_close_to_the_posterior(naming):
    colors = np.random.default_rng(0).uniform(0, 255, (400, 3)).astype(np.float32)
    exact, quick = naming.posterior(colors), naming.lookup(colors)
    assert np.abs(exact - quick).max() < 0.3
    assert np.abs(exact - quick).mean() < 0.01
    assert (exact.argmax(1) == quick.argmax(1)).mean() > 0.95


def test_lookup_takes_the_ends_of_the_range(naming):
    ends = np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0]], np.float32)
    np.testing.assert_allclose(naming.lookup(ends), naming.posterior(ends), atol=1e-5)


def test_no_colours_no_names(naming):
    assert naming.posterior(np.zeros((0, 3))).shape == (0, 11)


def test_prevalence_moves_the_border_of_black():
    dark = (62, 62, 62)
    rare, equal = ColorNaming(prevalence=1.0), ColorNaming(prevalence=0.0)
    assert rare.posterior(dark)[NAMES.index("black")] < equal.posterior(dark)[NAMES.index("black")]


@pytest.mark.parametrize("options", [{"bandwidth": 0}, {"bandwidth": float("nan")}, {"prevalence": 1.5}])
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        ColorNaming(**options)


def test_fingerprint_follows_the_options(naming):
    assert naming.fingerprint() == ColorNaming().fingerprint()
    assert naming.fingerprint() != ColorNaming(bandwidth=8.0).fingerprint()
    json.dumps(naming.fingerprint())
