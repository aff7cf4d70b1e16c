import pytest

from geneval_reward.study.sweep.grid import Cell, make_cells, parse_axis, read_config


def test_cells_are_all_combinations_with_their_arguments() -> None:
    grid = {"steps": [4, 8], "resolution": [512], "precision": ["fp32", "bf16"], "model": ["a/b"], "eta": [0.5]}
    cells = make_cells(grid)
    assert len(cells) == len({cell.folder for cell in cells}) == 4
    assert cells[1].arguments() == (
        {"precision": "bf16", "model": "a/b"},
        {"num_inference_steps": 4, "height": 512, "width": 512, "eta": 0.5},
    )
    assert all("/" not in cell.folder for cell in cells)


def test_best_of_shares_its_images() -> None:
    cells = make_cells({"steps": [4], "best_of": [1, 4]})
    assert [cell.best_of for cell in cells] == [1, 4]
    assert cells[0].folder == cells[1].folder == "steps=4"
    assert cells[0].rendering == cells[1].rendering
    assert cells[1].arguments() == ({}, {"num_inference_steps": 4})
    assert make_cells({"best_of": [1, 2]})[1].folder == "default"


def test_folders_stay_apart() -> None:
    names = ["a/b", "a_b", "x" * 300, "x" * 301, "a b", "ä"]
    cells = make_cells({"model": names})
    assert len({cell.folder for cell in cells}) == len(names)
    assert max(len(cell.folder) for cell in cells) <= 100
    assert Cell(()).name == "default"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("steps=4,8", ("steps", [4, 8])),
        ("cfg=1,3.5, null", ("cfg", [1, 3.5, None])),
        ("model=a/b,pocket", ("model", ["a/b", "pocket"])),
    ],
)
def test_axes_from_text(text, found) -> None:
    assert parse_axis(text) == found


@pytest.mark.parametrize("text", ["steps", "steps=", "steps=1,,2", "=1", "a b=1"])
def test_bad_axes(text) -> None:
    with pytest.raises(ValueError, match="grid: expected name=value,value"):
        parse_axis(text)


@pytest.mark.parametrize(
    ("grid", "fixed", "message"),
    [
        ({}, {}, "expected at least one axis"),
        ({"steps": []}, {}, "steps: expected a list of values"),
        ({"steps": "48"}, {}, "steps: expected a list of values, got '48'"),
        ({"steps": [4, 4]}, {}, "steps: expected every value once, got 4 twice"),
        (
            {"cfg": [1], "guidance": [2]},
            {},
            "guidance: expected one axis or fixed value for guidance_scale, got cfg too",
        ),
        ({"resolution": [512]}, {"height": 256}, "for height, got height too"),
        ({"best_of": [0]}, {}, "best_of: expected integers >= 1"),
        ({"best_of": [2.0]}, {}, "best_of: expected integers >= 1"),
    ],
)
def test_bad_grids(grid, fixed, message) -> None:
    with pytest.raises(ValueError, match=message):
        make_cells(grid, fixed)


def test_yaml(tmp_path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text("model: pocket\nset: {guidance: 3}\ngrid:\n  steps: [1, 2]\n")
    assert read_config(path) == {"model": "pocket", "set": {"guidance": 3}, "grid": {"steps": [1, 2]}}
    for text, message in [
        ("- 1", "expected a mapping with 'grid'"),
        ("grid: 3", "expected a mapping with 'grid'"),
        ("grid: {steps: [1]}\nstep: 3", "expected keys of grid, .*got 'step'"),
        ("grid: {steps: [1]}\nset: 3", "set: expected a mapping"),
        ("grid: [", "expected YAML"),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_config(path)
    with pytest.raises(ValueError, match="expected a YAML file, got none"):
        read_config(tmp_path / "no.yaml")
