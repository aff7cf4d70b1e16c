"""One loop scores folders, sweeps and shards: what cannot be decoded or judged is a failure, and the rest has rows."""

import pytest
from PIL import Image

from geneval_reward.errors import ImageError, ScoringError
from geneval_reward.prompts import official_suite
from geneval_reward.results import ResultWriter, read_results
from geneval_reward.results.layout import read_folder, write_prompt_folder
from geneval_reward.results.scoring import score_files
from geneval_reward.testing import FakeDetector, scorer_for


@pytest.fixture
def items(tmp_path):
    for number, spec in enumerate(official_suite()[:5]):
        Image.new("RGB", (32, 32)).save(write_prompt_folder(tmp_path / "images", number, spec) / "0000.png")
    (tmp_path / "images/00002/samples/0000.png").write_bytes(b"no image")
    return read_folder(tmp_path / "images").items


def benches():
    return scorer_for(FakeDetector({"bench": [[1, 1, 9, 9, 0.95]]}), batch_size=2)


def test_what_cannot_be_decoded_fails_alone(tmp_path, items):
    with ResultWriter(tmp_path / "r.jsonl") as writer:
        batches = list(score_files(benches(), items, writer))
    assert [[one.filename for one in batch] for batch in batches] == [[], ["00002/samples/0000.png"], []]
    results = read_results(tmp_path / "r.jsonl")
    assert list(results.failed) == ["00002/samples/0000.png"]
    assert results.filenames == [item.filename for item in items if item.filename not in results.failed]
    assert results.correct.tolist() == [True, False, False, False]


def test_what_a_scorer_cannot_judge_costs_the_others_nothing(tmp_path, items):
    scorer = benches()
    judge = scorer.score

    def second_fails(images, specs):
        verdicts = judge(images, specs)
        if len(verdicts) < 2:
            return verdicts
        raise ScoringError([verdicts[0], None], [None, ImageError("too odd")])

    scorer.score = second_fails
    with ResultWriter(tmp_path / "r.jsonl") as writer:
        failed = [one.filename for batch in score_files(scorer, items, writer) for one in batch]
    assert failed == [items[1].filename, items[2].filename]
    assert read_results(tmp_path / "r.jsonl").filenames == [items[n].filename for n in (0, 3, 4)]
