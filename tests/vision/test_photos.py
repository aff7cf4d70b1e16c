import hashlib
from importlib.resources import files

import pytest

from geneval_reward.prompts import PromptSpec
from geneval_reward.vision.photos import PHOTOS, photo

FOLDER = files("geneval_reward") / "data" / "photos"


@pytest.mark.parametrize("name", PHOTOS)
def test_photograph_is_whole_and_its_records_are_records(name):
    entry = PHOTOS[name]
    blob = (FOLDER / entry.file).read_bytes()
    assert hashlib.sha256(blob).hexdigest() == entry.sha256
    assert photo(name).mode == "RGB"
    for record in (entry.record, entry.false_record):
        assert PromptSpec.parse(record).prompt == record["prompt"]


def test_readme_tells_where_each_comes_from():
    readme = (FOLDER / "README.md").read_text()
    for entry in PHOTOS.values():
        for fact in (entry.file, entry.source.split(",")[0], entry.author, entry.sha256):
            assert fact in readme


def test_all_together_stay_small():
    assert sum(len((FOLDER / entry.file).read_bytes()) for entry in PHOTOS.values()) < 600_000


def test_unknown_name_lists_the_known():
    with pytest.raises(KeyError, match="chelsea"):
        photo("dog")
