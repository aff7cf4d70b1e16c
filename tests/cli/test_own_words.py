"""Own classes, attributes, tasks, keys and credits, from the prompts to the report, by one file of the user's own."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from geneval_reward import GenEvalScore
from geneval_reward.callback.plan import balanced, refuse_unknown_words
from geneval_reward.callback.scores import scores
from geneval_reward.errors import SpecError, UsageError
from geneval_reward.judge import Detections, judge
from geneval_reward.prompts import PromptSpec, Vocabulary
from geneval_reward.reward import GenEvalReward
from geneval_reward.scorer import GenEvalScorer, LazyScorer
from geneval_reward.testing import FakeDetector, FakeVerifier

MINE = """
from geneval_reward.scorer import GenEvalScorer
from geneval_reward.testing import FakeDetector, FakeVerifier

SEEN = {"teapot": [[2, 2, 30, 30, 0.9]], "bench": [[2, 2, 30, 30, 0.9]]}


def scorer():
    return GenEvalScorer(
        FakeDetector(SEEN, ("N/A", "teapot", "N/A", "bench", "cat")), FakeVerifier("striped", ("plain", "striped")), name="mine"
    )


def kinds(verdict):
    return len(verdict.kept) / 2
"""

RECORDS = [
    {
        "file_name": "0.png",
        "tag": "patterns",
        "include": [{"class": "teapot", "count": 1, "color": "striped"}],
        "id": 7,
    },
    {"file_name": "1.png", "tag": "patterns", "include": [{"class": "teapot", "count": 1, "color": "plain"}], "id": 8},
    {"file_name": "2.png", "prompt": "a photo of a bench"},
    {"file_name": "3.png", "prompt": "a photo of two cats"},
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    root = tmp_path / "images"
    root.mkdir()
    for record in RECORDS:
        Image.new("RGB", (64, 48), "white").save(root / record["file_name"])
    (root / "metadata.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    return root


def test_from_prompts_to_the_report(run, folder, lines, tmp_path):
    own = f"{tmp_path / 'mine.py'}:scorer"
    assert run("prompts", "--check", folder / "metadata.jsonl")[1] == 1
    result, code, _ = run("prompts", "--check", folder / "metadata.jsonl", "--backend", own)
    assert (code, result.stdout) == (0, "4 prompts can be judged: single_object 1, counting 1, patterns 2\n")
    for name in ("a.jsonl", "b.jsonl"):
        run("score", folder, "--backend", own, "--out", name)
    rows = lines(tmp_path / "a.jsonl")
    assert [row["correct"] for row in rows] == [True, False, True, False]
    assert rows[1]["reason"] == "expected plain teapot>=1, found 0 plain; and 1 striped"
    assert [json.loads(row["metadata"]).get("id") for row in rows] == [7, 8, None, None]
    assert rows[0]["detections"]["colors"] == ["plain", "striped"]

    found = json.loads(run("summary", "a.jsonl", "--format", "json")[0].stdout)
    assert {name: one["value"] for name, one in found["tags"].items()} == {
        "single_object": 1,
        "counting": 0,
        "patterns": 0.5,
    }
    assert found["overall"]["value"] == 0.5
    assert "the overall is over the benchmark's tasks only, without patterns" in found["problems"]
    kinds = json.loads(
        run("summary", "a.jsonl", "--format", "json", "--credit", f"{tmp_path / 'mine.py'}:kinds")[0].stdout
    )
    assert kinds["tags"]["patterns"]["value"] == 0.5
    again = json.loads(run("summary", "a.jsonl", "--format", "json", "--rules", "confidence=0.95")[0].stdout)
    assert again["tags"]["patterns"]["value"] == 0

    run("report", "a.jsonl", "--images", folder, "--out", "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "patterns" in page
    assert re.search(r'"plain".*"no colour"|"no colour", ?"striped"', page)


def test_two_runs_are_compared_over_the_tasks_of_ones_own(run, tmp_path):
    from geneval_reward.results import ResultRow, ResultWriter

    def jars(count):
        boxes = np.tile(np.array([1, 1, 9, 9]), (count, 1))
        return Detections(boxes, np.full(count, 0.9), np.zeros(count), (64, 64), names=("jar",))

    empty, full = jars(0), jars(1)
    for name, seen in (("a.jsonl", [full, empty, empty, full]), ("b.jsonl", [full, full, empty, full])):
        rows = []
        for number, found in enumerate(seen):
            record = {"tag": "jars", "include": [{"class": "jar", "count": 1 + number // 2}], "note": name}
            rows.append(
                ResultRow.from_verdict(
                    judge(PromptSpec.parse(record), found), f"{number}/{number % 2}.png", backend="x"
                )
            )
            if number % 2:
                bench = judge(PromptSpec.from_text(("a bench", "a cow")[number // 2]), found)
                rows.append(ResultRow.from_verdict(bench, f"{number}/2.png", index=0, backend="x"))
        with ResultWriter(tmp_path / name) as writer:
            writer.write(rows)
    result, _, message = run("compare", "a.jsonl", "b.jsonl", "--format", "json")
    found = json.loads(result.stdout)
    text = json.dumps(found)
    assert '"jars"' in text, message
    # Notes differ between the runs, and the prompts are the same all the same.
    assert "are not in" not in text


SPECS = [
    PromptSpec.parse({key: value for key, value in record.items() if key != "file_name"}) for record in RECORDS[:2]
]
BENCH = PromptSpec.from_text("a photo of a bench")
IMAGE = torch.zeros(3, 48, 64)


@pytest.fixture(scope="module")
def scorer():
    seen = {"teapot": [[2, 2, 30, 30, 0.9]], "bench": [[2, 2, 30, 30, 0.9]]}
    names = ("N/A", "teapot", "N/A", "bench")
    return GenEvalScorer(FakeDetector(seen, names), FakeVerifier("striped", ("plain", "striped")), name="mine")


def test_metric_reward_and_callback_count_them(scorer):
    verdicts = scorer.score([IMAGE] * 3, [*SPECS, BENCH])
    assert [verdict.correct for verdict in verdicts] == [True, False, True]
    metric = GenEvalScore(scorer, prompts=[*SPECS, BENCH])
    metric.update([IMAGE] * 3, [*SPECS, BENCH])
    parts = metric.breakdown()
    assert (parts["overall"], parts["patterns"], parts["single_object"], parts["n"]) == (1.0, 0.5, 1.0, 3)
    with pytest.raises(
        SpecError, match=r"tag: expected one of .*color_attr, got 'patterns'; give its records as `prompts`"
    ):
        GenEvalScore(scorer).update([IMAGE], SPECS[:1])
    logged, _ = scores("geneval", verdicts, 1.0)
    assert (logged["geneval/overall"], logged["geneval/patterns"], logged["geneval/partial"]) == (1.0, 0.5, 1.0)
    only, _ = scores("geneval", verdicts[:2], 1.0)
    assert only["geneval/overall"] == 0.5
    assert set(balanced([*SPECS, BENCH], 0)) == {*SPECS, BENCH}
    batch = GenEvalReward(scorer).score([IMAGE] * 2, [SPECS[0], "a photo of a zebra"])
    assert batch.rewards == [1.0, None]
    assert batch.errors[1] == (
        "prompts[1]: include[0].class: expected one of the 3 classes of the detector, got 'zebra'; see its class_names"
    )


def test_unknown_words_are_refused_by_name(scorer):
    with pytest.raises(SpecError, match=r"specs\[1\]: include\[0\]\.color: expected one of plain, striped, got 'red'"):
        scorer.score(
            [IMAGE] * 2, [BENCH, {"tag": "colors", "include": [{"class": "bench", "count": 1, "color": "red"}]}]
        )
    with pytest.raises(SpecError, match=r"prompts: 'a photo of a cat': include\[0\]\.class: .* got 'cat'"):
        refuse_unknown_words(scorer, [BENCH, PromptSpec.from_text("a photo of a cat")])
    assert scorer.vocabulary == Vocabulary(("N/A", "teapot", "N/A", "bench"), ("plain", "striped"))
    assert "vocabulary" in scorer.fingerprint()


def test_parts_that_do_not_keep_their_word_are_named():
    class Forgetful(FakeDetector):
        def detect(self, images, wanted):
            return [Detections.empty((64, 48)) for _ in images]

    class Narrow(FakeVerifier):
        def colors(self, queries):
            return np.ones((len(queries), 1), np.float32)

    with pytest.raises(UsageError, match="detector: expected Detections whose names are its class_names"):
        GenEvalScorer(Forgetful({}, ("bench",))).score([IMAGE], [BENCH])
    seen = FakeDetector({"teapot": [[2, 2, 30, 30, 0.9]]}, ("teapot",))
    with pytest.raises(UsageError, match="verifier: expected 2 columns, one per colour, got shape"):
        GenEvalScorer(seen, Narrow("plain", ("plain", "striped"))).score([IMAGE], SPECS[:1])


def test_wrong_signatures_are_refused_in_the_constructor(tmp_path, monkeypatch):
    class OneArgument(FakeDetector):
        def detect(self, images):
            return images

    with pytest.raises(
        UsageError, match=r"detector: expected OneArgument\.detect\(images, wanted\), got OneArgument\.detect\(images\)"
    ):
        GenEvalScorer(OneArgument({}))
    with pytest.raises(
        UsageError, match=r"verifier: expected FakeDetector\.colors\(queries\), got FakeDetector without colors"
    ):
        GenEvalScorer(FakeDetector({}), FakeDetector({}))
    (tmp_path / "parts.py").write_text(
        "def scorer(device):\n    return device\n\n\nclass Half:\n    score = name = 1\n\n\nHALF = Half()\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"scorer: expected scorer\(\), got scorer\(device\)"):
        LazyScorer("parts.py:scorer")
    with pytest.raises(UsageError, match=r"scorer: expected Half\.rules, got Half without rules"):
        LazyScorer("parts.py:HALF")
    with pytest.raises(UsageError, match="rules: expected no options beside a ready scorer"):
        LazyScorer("parts.py:HALF", rules="lite")
