"""What may be compared, what is refused, and what is said."""

import json

import numpy as np
import pytest
from made_up_results import synthetic_rows
from simulated_runs import SUITE_PROMPTS, simulate_runs

from geneval_reward.errors import ResultsError
from geneval_reward.generate.subset import TYPICAL_ACCURACY
from geneval_reward.results import FailedImage, read_results
from geneval_reward.results.record import OFFICIAL_KEYS
from geneval_reward.stats import compare_by_prompt, compare_paired
from geneval_reward.study.compare import compare_files, compare_results

RUNS = simulate_runs([TYPICAL_ACCURACY] * 2, prompts=dict.fromkeys(SUITE_PROMPTS, 6), images_per_prompt=3, seed=1)
LINES = [[row.to_json() for row in synthetic_rows(RUNS, run)] for run in (0, 1)]


def written(path, lines):
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def files(tmp_path):
    return [written(tmp_path / name, lines) for name, lines in zip(("a.jsonl", "b.jsonl"), LINES, strict=True)]


def edited(line, **changes):
    record = json.loads(line)
    for key, value in changes.items():
        if isinstance(value, dict) and key in record:
            record[key].update(value)
        else:
            record[key] = value
    return json.dumps(record)


def kinds(comparison):
    return [problem.kind for problem in comparison.problems]


def compare(*files, **options):
    return compare_files(files, draws=400, **options)


def test_same_prompts_and_seeds_are_paired_image_by_image(files):
    found = compare(*files)
    expected = compare_paired(*RUNS.correct, RUNS.prompt, RUNS.tag, draws=400)
    assert found.pairs[0].comparison.overall.value == pytest.approx(expected.overall.value)
    assert found.pairs[0].comparison.overall.counts == expected.overall.counts
    assert found.pairs[0].comparison.pairing == "image"
    assert set(kinds(found)) == {"incomplete"}  # 36 of the suite's 553 prompts


def test_order_of_lines_does_not_matter(files, tmp_path):
    order = np.random.default_rng(0).permutation(len(LINES[1]))
    mixed = written(tmp_path / "mixed.jsonl", [LINES[1][i] for i in order])
    one, other = (compare(files[0], b).pairs[0].comparison.overall for b in (files[1], mixed))
    assert one.counts == other.counts
    assert one.value == pytest.approx(other.value)


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        ({"rules": {"confidence": 0.5}}, "rules", r"rules confidence 0\.3 / 0\.5"),
        ({"backend": "paper"}, "backend", "backend synthetic / paper"),
        ({"fingerprint": "other"}, "fingerprint", "fingerprint synthetic / other"),
    ],
)
def test_another_judge_is_refused_unless_allowed(files, tmp_path, change, kind, text):
    other = written(tmp_path / "other.jsonl", [edited(line, **change) for line in LINES[1]])
    with pytest.raises(ResultsError, match=f"a and other differ in {text}.*--allow {kind}"):
        compare(files[0], other)
    assert kind in kinds(compare(files[0], other, allow=[kind]))


def test_every_reason_to_refuse_is_named_at_once(files, tmp_path):
    other = written(
        tmp_path / "other.jsonl", [edited(line, backend="paper", rules={"position": 0.2}) for line in LINES[1][:-6]]
    )
    with pytest.raises(ResultsError, match=r"position 0\.1 / 0\.2.*paper.*2 prompts of a are not in other"):
        compare(files[0], other)


def test_a_file_of_two_judges_is_refused(files, tmp_path):
    mixed = [edited(line, backend="paper") if i % 2 else line for i, line in enumerate(LINES[1])]
    with pytest.raises(ResultsError, match="b2 differ in backend synthetic / paper"):
        compare(files[0], written(tmp_path / "b2.jsonl", mixed))


def test_images_twice_in_a_file_are_refused_always(files, tmp_path):
    double = written(tmp_path / "double.jsonl", [*LINES[1], LINES[1][0]])
    with pytest.raises(ResultsError, match=r"double: 1 image occurs more than once: 00000/samples/0000\.png: 2 lines"):
        compare(files[0], double, allow=["prompts", "rules", "backend", "fingerprint"])


def test_only_common_prompts_are_compared_if_allowed(files, tmp_path):
    some = written(tmp_path / "some.jsonl", LINES[1][6:])
    found = compare(files[0], some, allow=["prompts"])
    assert found.pairs[0].comparison.overall.prompts == 34
    assert any("2 prompts of a are not in some" in problem.text for problem in found.problems)


def test_no_common_prompt_is_not_paired(files, tmp_path):
    half = [(i // 3) % 2 == 0 for i in range(len(LINES[0]))]
    first = written(tmp_path / "first.jsonl", [line for line, keep in zip(LINES[0], half, strict=True) if keep])
    second = written(tmp_path / "second.jsonl", [line for line, keep in zip(LINES[1], half, strict=True) if not keep])
    assert compare(first, second, allow=["prompts"]).pairs[0].comparison.pairing == "none"


def test_missing_images_are_left_out_and_counted(files, tmp_path):
    some = written(tmp_path / "some.jsonl", LINES[1][1:])
    found = compare(files[0], some)
    assert found.pairs[0].comparison.overall.images == len(LINES[0]) - 1
    assert any(problem.text == "a: 1 image has no partner in some, left out" for problem in found.problems)
    assert any("fewer than 3 images" in problem.text for problem in found.problems)


def test_other_seeds_are_paired_by_prompt_only(files, tmp_path):
    other = written(tmp_path / "other.jsonl", [edited(line, seed=5) for line in LINES[1]])
    found = compare(files[0], other)
    arrays = RUNS.correct[0], RUNS.prompt, RUNS.tag, RUNS.correct[1], RUNS.prompt, RUNS.tag
    assert found.pairs[0].comparison.overall.value == pytest.approx(compare_by_prompt(*arrays).overall.value)
    assert found.pairs[0].comparison.pairing == "prompt"
    assert any("108 of 108 images have different seeds" in problem.text for problem in found.problems)


def test_official_files_are_compared_and_what_they_hide_is_said(files, tmp_path):
    lines = [[json.dumps({key: json.loads(line)[key] for key in OFFICIAL_KEYS}) for line in run] for run in LINES]
    theirs = [written(tmp_path / f"official_{i}.jsonl", run) for i, run in enumerate(lines)]
    ours, found = compare(*files), compare(*theirs)
    assert found.pairs[0].comparison.overall.counts == ours.pairs[0].comparison.overall.counts
    assert {"unknown", "seeds"} <= set(kinds(found))
    assert "does not say by what rules" in " ".join(problem.text for problem in found.problems)
    with pytest.raises(ResultsError, match="the credit 'dense' in every line"):
        compare(*theirs, credit="dense")


def test_names_that_are_no_numbers_are_paired_by_prompt(tmp_path):
    files = []
    for i, run in enumerate(LINES):
        lines = []
        for number, line in enumerate(run):
            record = json.loads(line)
            record = {key: record[key] for key in OFFICIAL_KEYS} | {"filename": f"cat_{number}.png"}
            lines.append(json.dumps(record))
        files.append(written(tmp_path / f"{i}.jsonl", lines))
    found = compare(*files)
    assert found.pairs[0].comparison.pairing == "prompt"
    assert any("do not say which image" in problem.text for problem in found.problems)


def test_what_weakens_a_run_is_said(files, tmp_path):
    lines = [edited(line, rewritten="a long prompt", best_of=4) for line in LINES[1]]
    lines.append(FailedImage("z.png", "truncated").to_json())
    path = written(tmp_path / "b.jsonl", lines)
    with path.open("a") as file:
        file.write(LINES[0][0][:50])
    with pytest.warns(UserWarning, match="cut off"):
        found = compare(files[0], path)
    said = " ".join(problem.text for problem in found.problems)
    for text in (
        "rewritten prompts, the others did not",
        "best of 4",
        "z.png (truncated)",
        "the last line (110) is cut",
    ):
        assert text in said


def test_what_else_the_generator_got_is_said(files, tmp_path):
    notes = {"template": "Draw {prompt}", "trained_on_template": True}
    found = compare(files[0], written(tmp_path / "b.jsonl", [edited(line, generator=notes) for line in LINES[1]]))
    problems = [(problem.text, problem.serious) for problem in found.problems if problem.kind == "generator"]
    assert problems == [
        ("b: template 'Draw {prompt}', the others not", True),
        ("b: trained on the benchmark's wording, the others not", True),
    ]


def test_bad_arguments(files):
    with pytest.raises(ValueError, match="at least two results files, got 1"):
        compare(files[0])
    with pytest.raises(ValueError, match="allow: expected kinds of prompts, rules, backend, fingerprint, got seed"):
        compare(*files, allow=["seed"])
    with pytest.raises(ValueError, match="names: expected 2 different names"):
        compare(*files, names=["x", "x"])
    empty = read_results(written(files[0].parent / "e.jsonl", [FailedImage("z.png", "x").to_json()]))
    with pytest.raises(ResultsError, match="e: expected scored images, got none"):
        compare_results([read_results(files[0]), empty])
