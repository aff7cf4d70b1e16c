import subprocess
import sys

import pytest

import geneval_reward

HEAVY = (
    "torch torchvision torchmetrics lightning pytorch_lightning transformers open_clip diffusers wandb cv2 matplotlib "
    "PIL scipy pandas fastapi ray mmdet onnxruntime safetensors"
).split()


def imported(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after a statement."""
    code = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import geneval_reward", {*HEAVY, "numpy"}),
        ("import geneval_reward; dir(geneval_reward); geneval_reward.__version__", {*HEAVY, "numpy"}),
        ("import geneval_reward.prompts as p; p.official_suite(); p.training_prompts(9)", {*HEAVY, "numpy"}),
        ("import geneval_reward.cli", {*HEAVY, "numpy"}),
        ("from geneval_reward import PromptSpec, Rules, Verdict; import geneval_reward.judge", set(HEAVY)),
        (
            "from geneval_reward import GenEvalScorer; import geneval_reward.testing",
            {*HEAVY} - {"torch", "PIL", "torchvision", "scipy", "safetensors"},
        ),
    ],
)
def test_nothing_heavy_is_imported_unasked(statement: str, forbidden: set[str]) -> None:
    found = imported(statement)
    assert "geneval_reward" in found
    assert not found & forbidden


def test_the_check_can_fail() -> None:
    assert "numpy" in imported("import geneval_reward; geneval_reward.Rules")


def test_public_names() -> None:
    assert list(geneval_reward.__all__) == sorted(geneval_reward.__all__)
    assert set(geneval_reward._HOMES) == set(geneval_reward.__all__)
    for name in geneval_reward.__all__:
        value = getattr(geneval_reward, name)
        home = sys.modules[geneval_reward._HOMES[name]]
        assert getattr(home, name) is value
    assert set(geneval_reward.__all__) <= set(dir(geneval_reward))
    assert len(dir(geneval_reward)) == len(set(dir(geneval_reward)))


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="module 'geneval_reward' has no attribute 'GenEvalScores'"):
        geneval_reward.GenEvalScores  # noqa: B018
    with pytest.raises(ImportError):
        from geneval_reward import nothing  # noqa: F401


def test_packages_export_what_they_say() -> None:
    import geneval_reward.judge
    import geneval_reward.prompts

    for package in (geneval_reward.judge, geneval_reward.prompts):
        assert len(set(package.__all__)) == len(package.__all__)
        assert all(hasattr(package, name) for name in package.__all__)
