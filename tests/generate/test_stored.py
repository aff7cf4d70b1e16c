import json

import pytest
from PIL import Image

from geneval_reward.errors import ImageError, ResultsError
from geneval_reward.generate import FolderGenerator, Generator, plan_images, seed_for
from geneval_reward.prompts import official_suite
from geneval_reward.results.layout import write_prompt_folder

SPECS = official_suite()[:3]


@pytest.fixture
def folder(tmp_path):
    """Three prompts with two images of their own shade; no seeds."""
    for number, spec in enumerate(SPECS):
        for index in range(2):
            shade = 10 * number + index
            Image.new("RGB", (4, 4), (shade, 0, 0)).save(
                write_prompt_folder(tmp_path, number, spec) / f"{index:05d}.png"
            )
    return tmp_path


def shades(images):
    return [image.getpixel((0, 0))[0] for image in images]


def test_images_of_anyone(folder) -> None:
    generator = FolderGenerator(folder)
    assert isinstance(generator, Generator)
    assert generator.prompts == tuple(spec.prompt for spec in SPECS)
    asked = [(SPECS[2].prompt, 1), (SPECS[0].prompt, 0), (SPECS[2].prompt, 0)]
    images = generator.generate([p for p, _ in asked], [seed_for(0, p, i) for p, i in asked])
    assert shades(images) == [21, 0, 20]
    other = FolderGenerator(folder, base_seed=5)
    assert shades(other.generate([SPECS[1].prompt], [seed_for(5, SPECS[1].prompt, 1)])) == [11]


def test_images_that_say_their_seed(folder) -> None:
    jobs = plan_images(folder / "made", SPECS, 1, 77)
    for number, job in enumerate(jobs):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(job.path)
    generator = FolderGenerator(folder / "made")
    assert shades(generator.generate([SPECS[1].prompt], [jobs[1].seed])) == [1]
    with pytest.raises(ResultsError, match=f"such as {jobs[1].seed} .00001/samples/0000.png., got 4"):
        generator.generate([SPECS[1].prompt], [4])


def test_a_flat_folder(tmp_path) -> None:
    Image.new("RGB", (4, 4), (9, 0, 0)).save(tmp_path / "x.png")
    line = json.loads(SPECS[0].to_json()) | {"filename": "x.png", "seed": 3}
    (tmp_path / "meta.jsonl").write_text(json.dumps(line) + "\n")
    assert shades(FolderGenerator(tmp_path, tmp_path / "meta.jsonl").generate([SPECS[0].prompt], [3])) == [9]


def test_a_missing_file_does_not_give_another_image(folder) -> None:
    (folder / "00001/samples/00000.png").unlink()
    generator, prompt = FolderGenerator(folder), SPECS[1].prompt
    assert shades(generator.generate([prompt], [seed_for(0, prompt, 1)])) == [11]
    with pytest.raises(ResultsError, match="i of 1, the 1 image stored"):
        generator.generate([prompt], [seed_for(0, prompt, 0)])


def test_one_text_in_two_folders_is_numbered_by_order_and_told(folder) -> None:
    Image.new("RGB", (4, 4), (99, 0, 0)).save(write_prompt_folder(folder, 7, SPECS[0]) / "00000.png")
    generator, prompt = FolderGenerator(folder), SPECS[0].prompt
    assert shades(generator.generate([prompt] * 3, [seed_for(0, prompt, i) for i in range(3)])) == [0, 1, 99]
    assert len(generator.problems) == 1
    assert "got 0 for 00000/samples/00000.png and 00007/samples/00000.png" in generator.problems[0]


def test_what_is_missing_is_told(folder) -> None:
    generator = FolderGenerator(folder)
    prompt = SPECS[0].prompt
    with pytest.raises(ResultsError, match=r"prompts\[0\].*3 prompts.*got 'a photo of a benc'; did you mean"):
        generator.generate(["a photo of a benc"], [0])
    with pytest.raises(ResultsError, match=r"seeds\[1\]: expected seed_for\(0, .* i\) with i of 0..1, the 2 images"):
        generator.generate([prompt, prompt], [seed_for(0, prompt, 0), seed_for(0, prompt, 2)])
    (folder / "00000/samples/00000.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"00000\.png: expected an image"):
        generator.generate([prompt], [seed_for(0, prompt, 0)])
    with pytest.raises(ResultsError, match="expected a folder of images, got nothing"):
        FolderGenerator(folder / "nowhere")


def test_a_rotated_picture_is_as_the_judge_reads_it(tmp_path) -> None:
    path = write_prompt_folder(tmp_path, 0, SPECS[0]) / "0000.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(path, exif=exif)
    (image,) = FolderGenerator(tmp_path).generate([SPECS[0].prompt], [seed_for(0, SPECS[0].prompt, 0)])
    assert image.size == (4, 8)
