import os

from geneval_reward.generate.identity import identify


def test_a_folder_is_known_by_its_weights_and_not_by_its_place(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "unet").mkdir(parents=True)
        (tmp_path / name / "unet" / "w.safetensors").write_bytes(b"one")
        (tmp_path / name / "model_index.json").write_text("{}")
    first = identify(str(tmp_path / "a"))
    assert first == identify(str(tmp_path / "b"))
    os.utime(tmp_path / "a" / "unet" / "w.safetensors", (1, 1))
    (tmp_path / "a" / "README.md").write_text("notes do not matter")
    assert identify(str(tmp_path / "a")) == first
    (tmp_path / "a" / "unet" / "w.safetensors").write_bytes(b"two")
    assert identify(str(tmp_path / "a")) != first
    (tmp_path / "b" / "unet" / "w.safetensors").rename(tmp_path / "b" / "unet" / "v.safetensors")
    assert identify(str(tmp_path / "b")) != first


def test_files_and_functions_are_known_by_their_content(tmp_path, monkeypatch):
    file = tmp_path / "m.py"
    file.write_text("def make(): return 1\n")
    first = identify(f"{file}:make")
    assert len(first) == 64
    file.write_text("def make(): return 2\n")
    assert identify(f"{file}:make") not in ("", first)
    assert len(identify("geneval_reward.train.tiny:tiny_sd3")) == 64
    assert len(identify("pocket")) == 64


def test_names_of_a_hub_are_known_by_the_commit_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert identify("owner/name") == ""
    (tmp_path / "models--owner--name" / "refs").mkdir(parents=True)
    (tmp_path / "models--owner--name" / "refs" / "main").write_text("abc123")
    assert identify("owner/name") == "abc123"
    assert identify("no.such.module:make") == ""


def test_weights_in_a_linked_folder_are_part_of_a_pipeline(tmp_path):
    """A pipeline is often put together from a base model and the checkpoint of one part."""
    (tmp_path / "checkpoint").mkdir()
    weights = tmp_path / "checkpoint" / "w.safetensors"
    weights.write_bytes(b"one")
    (tmp_path / "pipe").mkdir()
    (tmp_path / "pipe" / "model_index.json").write_text("{}")
    (tmp_path / "pipe" / "transformer").symlink_to(tmp_path / "checkpoint")
    first = identify(str(tmp_path / "pipe"))
    weights.write_bytes(b"two")
    assert identify(str(tmp_path / "pipe")) != first
