import json

import pytest
from judge_fakes import Oracle, make_model


@pytest.fixture(scope="session")
def qwen():
    """A local model of the smallest kind; shared, since nothing changes it."""
    from geneval_reward.judges import LocalModel

    return LocalModel(*make_model("Qwen2VL"), name="tiny")


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """A folder as `save_pretrained` writes it."""
    folder = tmp_path_factory.mktemp("tiny_qwen")
    model, processor = make_model("Qwen2VL")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def oracle():
    return Oracle


@pytest.fixture
def write_json(tmp_path):
    def write(name, value):
        path = tmp_path / name
        path.write_text(
            "".join(json.dumps(one) + "\n" for one in value) if isinstance(value, list) else json.dumps(value)
        )
        return path

    return write
