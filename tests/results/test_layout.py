"""Folders of images: numbers come from file names, so that a missing file shifts nothing."""

import json
import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from geneval_reward.errors import ResultsError
from geneval_reward.generate import plan_images
from geneval_reward.prompts import official_suite
from geneval_reward.results import GeneratorNotes
from geneval_reward.results.layout import read_folder, write_prompt_folder

SPEC = official_suite()[0]


@pytest.fixture
def put(tmp_path):
    """Put images of these names into the folder of a prompt."""

    def call(*names, number=0):
        samples = write_prompt_folder(tmp_path, number, SPEC)
        for name in names:
            Image.new("RGB", (4, 4)).save(samples / name)
        return tmp_path

    return call


def found(folder):
    return [(item.path.name, item.index) for item in folder.items]


def test_a_missing_file_shifts_no_number(put) -> None:
    folder = read_folder(put("0001.png", "0003.png"))
    assert found(folder) == [("0001.png", 1), ("0003.png", 3)]
    assert not folder.problems
    assert found(read_folder(put("0000.png"))) == [("0000.png", 0), ("0001.png", 1), ("0003.png", 3)]


def test_ten_comes_after_two(put) -> None:
    assert found(read_folder(put("10.png", "2.png", "1.jpg"))) == [("1.jpg", 1), ("2.png", 2), ("10.png", 10)]


def test_a_number_given_twice_is_told_and_order_counts(put) -> None:
    folder = read_folder(put("0.png", "0000.png", "0002.png"))
    assert sorted(index for _, index in found(folder)) == [0, 1, 2]
    assert len(folder.problems) == 1
    assert "00000/samples: expected a number of its own in every image's name, got number 0 in" in folder.problems[0]


def test_a_missing_file_of_a_flat_folder_shifts_no_number(tmp_path) -> None:
    lines = [json.loads(SPEC.to_json()) | {"filename": f"{name}.png"} for name in "abc"]
    (tmp_path / "meta.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name in "bc":
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
    folder = read_folder(tmp_path, tmp_path / "meta.jsonl")
    assert found(folder) == [("b.png", 1), ("c.png", 2)]
    assert "expected the image a.png" in folder.problems[0]


def test_images_are_dealt_by_their_numbers(tmp_path) -> None:
    for number in range(12):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{number}.png")
    (tmp_path / "meta.jsonl").write_text("".join(spec.to_json() + "\n" for spec in official_suite()[:2]))
    folder = read_folder(tmp_path, tmp_path / "meta.jsonl")
    assert found(folder) == [(f"{number}.png", number % 6) for number in range(12)]


@given(st.sets(st.integers(0, 10**9), min_size=1, max_size=8), st.integers(1, 6))
def test_numbers_are_those_of_the_names_in_any_width(tmp_path_factory, numbers, width) -> None:
    root = tmp_path_factory.mktemp("law")
    samples = write_prompt_folder(root, 0, SPEC)
    for number in numbers:
        (samples / f"{number:0{width}d}.png").touch()
    assert [item.index for item in read_folder(root).items] == sorted(numbers)


# --- what is no sample, and files that are dealt ------------------------------------------------------------------------

SUITE = official_suite()


def paint(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)


def write_lines(path, specs, **more):
    path.write_text("".join(json.dumps(spec.to_record() | more, ensure_ascii=False) + "\n" for spec in specs), "utf-8")
    return path


def owners(folder):
    return {item.filename: item.spec for item in folder.items}


@pytest.mark.parametrize(
    "twin",
    ["._{name}", ".ipynb_checkpoints/{stem}-checkpoint.png", "@eaDir/{name}", "__MACOSX/{name}", ".cache/{name}"],
)
def test_twins_of_images_are_no_samples(tmp_path, twin) -> None:
    root = tmp_path / "root"
    for number in range(4):
        paint(root / f"{number:05d}.png")
        paint(root / twin.format(name=f"{number:05d}.png", stem=f"{number:05d}"))
    folder = read_folder(root, write_lines(tmp_path / "m.jsonl", SUITE[:4]))
    assert owners(folder) == {f"{number:05d}.png": SUITE[number] for number in range(4)}
    assert folder.problems == folder.notes == []
    assert folder.ignored
    # The same where the lines name the images.
    named = [spec.to_record() | {"file_name": f"{n:05d}.png"} for n, spec in enumerate(SUITE[:4])]
    (tmp_path / "named.jsonl").write_text("".join(json.dumps(line) + "\n" for line in named))
    assert read_folder(root, tmp_path / "named.jsonl").problems == []


def test_the_benchmarks_layout_with_one_metadata_file(tmp_path) -> None:
    root = tmp_path / "root"
    for number in range(4):
        paint(root / f"{number:05d}" / "grid.png")
        for index in (0, 1, 3):
            paint(root / f"{number:05d}" / "samples" / f"{index:05d}.png")
    folder = read_folder(root, write_lines(tmp_path / "m.jsonl", SUITE[:4]))
    assert len(folder.items) == 12
    assert folder.problems == []
    assert all(item.spec == SUITE[int(item.filename[:5])] for item in folder.items)


def test_twins_in_the_benchmarks_layout(put) -> None:
    root = put("0000.png", "0001.png")
    paint(root / "00000" / "grid.png")
    paint(root / "00000" / "samples" / "._0000.png")
    paint(root / "00000" / "samples" / ".ipynb_checkpoints" / "0000-checkpoint.png")
    folder = read_folder(root)
    assert found(folder) == [("0000.png", 0), ("0001.png", 1)]
    assert folder.problems == []


@pytest.mark.parametrize("bad", ["{broken", "[1]", '"text"', "[" * 100_000, '{"tag": "[/x]", "include": 1}'])
def test_a_bad_line_keeps_its_images_and_shifts_no_others(tmp_path, bad) -> None:
    root = tmp_path / "root"
    for number in range(6):
        paint(root / f"{number}.png")
    lines = [SUITE[0].to_json(), bad, SUITE[2].to_json()]
    (tmp_path / "m.jsonl").write_text("\n".join(lines), "utf-8-sig")
    folder = read_folder(root, tmp_path / "m.jsonl")
    assert owners(folder) == {"0.png": SUITE[0], "1.png": SUITE[0], "4.png": SUITE[2], "5.png": SUITE[2]}
    assert any("m.jsonl line 2: " in problem for problem in folder.problems)


def test_a_line_separator_in_a_prompt_is_no_line_end(tmp_path) -> None:
    paint(tmp_path / "root" / "a.png")
    record = SPEC.to_record() | {"prompt": "a\u2028dog\x85.", "filename": "a.png"}
    (tmp_path / "m.jsonl").write_text(json.dumps(record, ensure_ascii=False), "utf-8-sig")
    folder = read_folder(tmp_path / "root", tmp_path / "m.jsonl")
    assert [(item.spec, item.rewritten) for item in folder.items] == [(SPEC, "a\u2028dog\x85.")]
    assert folder.problems == []


def test_a_byte_order_mark_in_the_benchmarks_layout(put) -> None:
    root = put("0000.png")
    (root / "00000" / "metadata.jsonl").write_text(SPEC.to_json(), "utf-8-sig")
    assert owners(read_folder(root)) == {"00000/samples/0000.png": SPEC}


def test_a_hugging_face_image_folder_needs_no_option(tmp_path) -> None:
    for split in ("", "train/", "test/"):
        root = tmp_path / f"set{len(split)}"
        paint(root / split / "b.png")
        paint(root / split / "c" / "a.jpg")
        lines = [
            {"file_name": "b.png", "text": "x", **SUITE[0].to_record()},
            {"file_name": "c/a.jpg", "metadata": SUITE[1].to_json()},
        ]
        (root / split / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert owners(read_folder(root)) == {f"{split}b.png": SUITE[0], f"{split}c/a.jpg": SUITE[1]}


def test_an_image_named_twice_is_judged_once(tmp_path) -> None:
    paint(tmp_path / "root" / "a.png")
    folder = read_folder(tmp_path / "root", write_lines(tmp_path / "m.jsonl", SUITE[:2], file_name="a.png"))
    assert owners(folder) == {"a.png": SUITE[0]}
    assert "line 2: expected each image once, got a.png, which m.jsonl line 1 names" in folder.problems[0]


def test_odd_names_and_pipes_are_problems(tmp_path, put) -> None:
    root = put("0000.png")
    os.mkfifo(root / "00000" / "samples" / "0001.png")
    os.mkfifo(root / "00000" / "generation.json")
    folder = read_folder(root)
    assert found(folder) == [("0000.png", 0)]
    assert any("0001.png: expected an image file, got no regular file" in problem for problem in folder.problems)
    lines = [SPEC.to_record() | {"file_name": name} for name in ("00000/samples/0000.png", "x" * 5000, "a\0b", 3, "..")]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder = read_folder(root, tmp_path / "m.jsonl")
    assert len(folder.items) == 1
    assert len(folder.problems) == 4
    assert max(map(len, folder.problems)) < 400
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ResultsError, match="something that is no file"):
        read_folder(root, tmp_path / "pipe")


def test_spellings_of_one_name_and_two_names_of_one_line(tmp_path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        paint(tmp_path / "root" / name)
    names = [{"file_name": "a.png"}, {"file_name": "./a.png"}, {"file_name": "b.png", "filename": "c.png"}]
    lines = [spec.to_record() | name for spec, name in zip(SUITE, names, strict=False)]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder = read_folder(tmp_path / "root", tmp_path / "m.jsonl")
    assert owners(folder) == {"a.png": SUITE[0]}
    assert "line 2: expected each image once, got a.png" in folder.problems[0]
    assert "line 3: expected one name of the image, got filename 'c.png' and file_name 'b.png'" in folder.problems[1]


def test_an_image_that_two_metadata_files_name_is_judged_once(tmp_path) -> None:
    root = tmp_path / "root"
    paint(root / "train" / "a.png")
    write_lines(root / "metadata.jsonl", SUITE[:1], file_name="train/a.png")
    write_lines(root / "train" / "metadata.jsonl", SUITE[1:2], file_name="a.png")
    folder = read_folder(root)
    assert owners(folder) == {"train/a.png": SUITE[0]}
    assert folder.problems == [
        "train/a.png: expected one metadata file to name an image, got two; the one at the top counts"
    ]


LONG = "A weathered wooden bench stands alone on a gravel path."


@pytest.fixture
def record_of_others(put):
    """Write a folder whose record has these keys more, or another text."""

    def call(changes, *names, number=0):
        root = put(*names, number=number)
        (root / f"{number:05d}" / "metadata.jsonl").write_text(json.dumps(SPEC.to_record() | changes))
        return root

    return call


def test_keys_that_say_nothing_are_noted_once(record_of_others) -> None:
    # As UniLIP's script writes them: five digits, and two keys more.
    more = {"detailed_caption": 5 * LONG, "index": 0, "id": 7}
    record_of_others(more, "00000.png", "00001.jpg")
    folder = read_folder(record_of_others(more | {"index": 1}, "00000.jpeg", number=1))
    assert [(item.filename, item.index, item.spec) for item in folder.items] == [
        ("00000/samples/00000.png", 0, SPEC),
        ("00000/samples/00001.jpg", 1, SPEC),
        ("00001/samples/00000.jpeg", 0, SPEC),
    ]
    assert not folder.problems
    assert folder.notes == ["the records have keys that are not read: detailed_caption"]
    assert folder.items[0].spec.extra == {"id": 7}


def test_a_misspelled_key_is_still_a_problem(record_of_others) -> None:
    record_of_others({}, "0000.png")
    folder = read_folder(record_of_others({"excludes": []}, "0000.png", number=1))
    assert len(folder.items) == 1
    assert "did you mean 'exclude'?" in folder.problems[0]


def test_another_text_than_the_record_s_is_a_rewritten_prompt(record_of_others) -> None:
    # As BAGEL and Show-o2 write them.
    folder = read_folder(record_of_others({"prompt": LONG}, "00000.png"))
    assert [(item.spec, item.rewritten) for item in folder.items] == [(SPEC, LONG)]
    assert len(folder.notes) == 1
    assert "1 record has another prompt than the benchmark's" in folder.notes[0]


def test_a_record_of_ones_own_keeps_its_text(tmp_path) -> None:
    own = replace(SPEC, prompt="ein Foto einer Bank")
    (job,) = plan_images(tmp_path, [own], 1, 0)
    Image.new("RGB", (4, 4)).save(job.path)
    folder = read_folder(tmp_path)
    assert [(item.spec, item.rewritten, item.seed) for item in folder.items] == [(own, None, job.seed)]
    assert not folder.notes


def test_what_the_generator_got_is_read(tmp_path) -> None:
    notes = GeneratorNotes("Draw {prompt}", "blurry", trained_on_template=True)
    (job,) = plan_images(tmp_path, [SPEC], 1, 0, notes=notes)
    Image.new("RGB", (4, 4)).save(job.path)
    assert [item.generator for item in read_folder(tmp_path).items] == [notes]


@pytest.mark.parametrize(
    ("seeds", "said"), [([42, 43, 42, 43], True), ([42, 43, 44, 45], False), ([42, 43, 42, None], False)]
)
def test_seeds_that_all_prompts_share_are_noted(tmp_path, seeds, said) -> None:
    specs = [official_suite()[0], official_suite()[0], official_suite()[1], official_suite()[1]]
    lines = []
    for number, (spec, seed) in enumerate(zip(specs, seeds, strict=True)):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{number}.png")
        lines.append(json.dumps(spec.to_record() | {"file_name": f"{number}.png", "seed": seed}))
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    notes = read_folder(tmp_path).notes
    assert any("images of all 2 prompts were made from the same seeds, such as 42" in note for note in notes) == said
