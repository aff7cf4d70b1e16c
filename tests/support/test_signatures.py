import functools
from types import SimpleNamespace

import pytest

from geneval_reward.errors import UsageError
from geneval_reward.support.signatures import check_part, takes_nothing


class Part:
    name = "part"

    @property
    def rules(self):
        raise AssertionError("a property may ask a server")

    def detect(self, images, wanted):
        return images, wanted

    @staticmethod
    def fingerprint():
        return {}


def test_what_fits_passes():
    check_part("detector", Part(), "name", "rules", "rules()", "detect(images, wanted)", "fingerprint()")
    check_part("credit", max, "(verdict)")  # C functions without a signature are taken as they are
    check_part("reward", lambda **columns: columns, "(images=, prompts=)")
    check_part("f", functools.partial(lambda a, b: a + b, 1), "(b)")
    check_part("f", SimpleNamespace(go=lambda *args: args), "go(a, b, c)")


@pytest.mark.parametrize(
    ("part", "member", "message"),
    [
        (Part(), "to(device)", "detector: expected Part.to(device), got Part without to"),
        (Part(), "detect(images)", "detector: expected Part.detect(images), got Part.detect(images, wanted)"),
        (Part(), "name()", "detector: expected Part.name(), got str"),
        (
            Part,
            "detect(images, wanted)",
            "detector: expected Part.detect(images, wanted), got Part.detect(self, images, wanted)",
        ),
        (
            lambda images: 1,
            "(images=, prompts=)",
            "detector: expected <lambda>(images=, prompts=), got <lambda>(images)",
        ),
        (3, "(verdict)", "detector: expected int(verdict), got int"),
    ],
)
def test_what_does_not_fit_is_named_with_both_signatures(part, member, message):
    with pytest.raises(UsageError) as caught:
        check_part("detector", part, member)
    assert str(caught.value) == message


def test_functions_that_take_nothing():
    assert takes_nothing(lambda: 1)
    assert takes_nothing(lambda size=3: size)
    assert takes_nothing(dict) is False  # it takes any keyword
    assert not takes_nothing(lambda images: images)
