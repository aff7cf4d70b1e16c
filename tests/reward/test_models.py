"""Adapters of other rewards, on tiny random models: values against the formula, loading from folders and files, one a sample."""

import copy
import json
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import (
    BertTokenizer,
    BlipConfig,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
)

from geneval_reward.errors import GenEvalError, ImageError
from geneval_reward.reward import CompositeReward
from geneval_reward.reward.models import HPS, CLIPScoreReward, ImageReward, PickScore, model_reward
from geneval_reward.reward.models.image_reward import ImageRewardNet, image_processor, load_image_reward

rng = np.random.default_rng(0)
IMAGES = [rng.integers(0, 256, (40, 56, 3), np.uint8), rng.integers(0, 256, (48, 32, 3), np.uint8)]
TEXTS = ["a photo of a bench", "two cows"]


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A CLIP model of transformers with random weights and a tokenizer of single letters, saved as hub models are."""
    folder = tmp_path_factory.mktemp("clip")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"eos_token_id": 189, "bos_token_id": 188, "pad_token_id": 189}
    config = CLIPConfig(
        text_config={**small, "vocab_size": 190, "max_position_embeddings": 24, **ends},
        vision_config={**small, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    letters = [chr(c) for c in range(33, 127)]
    vocabulary = {token: i for i, token in enumerate([*letters, *(letter + "</w>" for letter in letters)])}
    vocabulary |= {"<|startoftext|>": 188, "<|endoftext|>": 189}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=24)
    processor = CLIPProcessor(CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32), tokenizer)
    torch.manual_seed(0)
    model = CLIPModel(config).eval()
    for tensor in model.parameters():  # the usual init makes all features nearly the same
        tensor.data.normal_(0, 0.3) if tensor.ndim else tensor.data.fill_(2.0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def embeddings(folder, images, texts):
    """Unit features by hand."""
    model, processor = CLIPModel.from_pretrained(folder).eval(), CLIPProcessor.from_pretrained(folder)
    with torch.no_grad():
        found = []
        for image, text in zip(images, texts, strict=True):
            inputs = processor(text=[text], images=[Image.fromarray(image)], return_tensors="pt", truncation=True)
            out = model(**inputs)
            found.append((F.normalize(out.image_embeds, dim=-1)[0], F.normalize(out.text_embeds, dim=-1)[0]))
    image, text = (torch.stack(side) for side in zip(*found, strict=True))
    return image, text, float(model.logit_scale.detach().exp())


def test_clip_score_is_torchmetrics_per_sample(clip_folder):
    reward = CLIPScoreReward(str(clip_folder), device="cpu")
    image, text, _ = embeddings(clip_folder, IMAGES, TEXTS)
    values = reward(IMAGES, TEXTS)
    assert values == pytest.approx((100 * (image * text).sum(-1)).clamp(min=0).tolist(), abs=0.05)
    assert reward([IMAGES[1]], [TEXTS[1]]) == pytest.approx(values[1:], abs=1e-4)
    assert reward(IMAGES, metadata=[{"prompt": text} for text in TEXTS]) == values
    swapped = reward(IMAGES, TEXTS[::-1])
    assert any(abs(a - b) > 1e-3 for a, b in zip(values, swapped, strict=True))


def test_clip_score_agrees_with_the_metric_itself(clip_folder):
    from torchmetrics.multimodal import CLIPScore

    class Module(torch.nn.Module):  # the metric wants a module whose features are tensors
        def __init__(self, model):
            super().__init__()
            self.inner, self.config = model, model.config

        def get_image_features(self, *args):
            return features_of(self.inner.get_image_features(*args))

        def get_text_features(self, ids, mask):
            return features_of(self.inner.get_text_features(input_ids=ids, attention_mask=mask))

    def features_of(found):
        return found if isinstance(found, torch.Tensor) else found.pooler_output

    pair = CLIPModel.from_pretrained(clip_folder), CLIPProcessor.from_pretrained(clip_folder)
    metric = CLIPScore(model_name_or_path=lambda: (Module(pair[0]), pair[1]))
    tensors = [torch.from_numpy(image).permute(2, 0, 1) for image in IMAGES]
    values = CLIPScoreReward(str(clip_folder), device="cpu")(IMAGES, TEXTS)
    for tensor, text, value in zip(tensors, TEXTS, values, strict=True):
        assert float(metric(tensor, text).detach()) == pytest.approx(value, abs=1e-3)


def test_captions_beyond_the_context_still_count(clip_folder):
    reward = CLIPScoreReward(str(clip_folder), device="cpu")
    long = ["abcdefgh" * 20, "zyxwvuts" * 20]
    first, second = reward([IMAGES[0]] * 2, long)
    assert abs(first - second) > 1e-3
    assert reward([IMAGES[0]], [long[0] + " and more"]) == pytest.approx([first], abs=1e-4)  # cut, and read to the cut
    image, text, _ = embeddings(clip_folder, [IMAGES[0]] * 2, long)
    assert [first, second] == pytest.approx((100 * (image * text).sum(-1)).clamp(min=0).tolist(), abs=0.05)


def test_missing_libraries_are_named():
    def load():
        raise ModuleNotFoundError("No module named 'transformers'", name="transformers")

    with pytest.raises(
        GenEvalError, match=r"expected transformers to be installed.*pip install 'geneval-reward\[paper\]'"
    ):
        PickScore(loader=load, device="cpu")(IMAGES, TEXTS)


def test_pick_score(clip_folder):
    reward = PickScore(str(clip_folder), str(clip_folder), device="cpu")
    image, text, scale = embeddings(clip_folder, IMAGES, TEXTS)
    assert reward(IMAGES, TEXTS) == pytest.approx((scale * (image * text).sum(-1) / 26).tolist(), abs=0.005)
    whole = PickScore(str(clip_folder), str(clip_folder), scale=1.0, device="cpu", batch_size=1)(IMAGES, TEXTS)
    assert whole == pytest.approx([26 * value for value in reward(IMAGES, TEXTS)], rel=1e-3)
    assert len(reward([IMAGES[0]], ["a very long prompt " * 20])) == 1  # cut, not an error


def tiny_open_clip():
    torch.manual_seed(0)
    vision = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    return open_clip.CLIP(embed_dim=8, vision_cfg=vision, text_cfg=text).eval()


def test_hps(tmp_path, monkeypatch):
    net = tiny_open_clip()
    monkeypatch.setattr(open_clip, "create_model", {"ViT-H-14": tiny_open_clip_of_zeros()}.get)
    for version, file in {"2": "HPS_v2_compressed.pt", "2.1": "HPS_v2.1_compressed.pt"}.items():
        torch.save({"epoch": 1, "state_dict": net.state_dict()}, tmp_path / file)
        reward = HPS(version, str(tmp_path), device="cpu")
        assert reward.__name__ == f"hps_v{version}"
        with torch.no_grad():
            pixels = [reward._fitted(torch.from_numpy(image).permute(2, 0, 1), net.visual) for image in IMAGES]
            image = F.normalize(net.encode_image(torch.stack(pixels)), dim=-1)
            text = F.normalize(net.encode_text(open_clip.get_tokenizer("ViT-H-14")(TEXTS)), dim=-1)
        assert reward(IMAGES, TEXTS) == pytest.approx((image * text).sum(-1).tolist(), abs=1e-5)
    assert HPS("2", str(tmp_path / "HPS_v2_compressed.pt"))._file().name == "HPS_v2_compressed.pt"


def tiny_open_clip_of_zeros():
    net = tiny_open_clip()
    for tensor in net.parameters():
        tensor.data.zero_()
    return net


def test_hps_fits_the_whole_picture():
    wide = torch.full((3, 20, 60), 255, dtype=torch.uint8)
    fitted = HPS._fitted(wide, tiny_open_clip().visual)
    assert fitted.shape == (3, 32, 32)
    white = fitted[0] > 1
    assert white[11:21].all()  # 32 / 60 * 20 = 11 rows, in the middle
    assert not white[:10].any()
    assert not white[22:].any()


def tiny_blip():
    small = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    words = {"vocab_size": 60, "bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0}
    return BlipConfig(
        text_config={**small, **words, "hidden_size": 16, "encoder_hidden_size": 24, "max_position_embeddings": 40},
        vision_config={**small, "hidden_size": 24, "image_size": 32, "patch_size": 16, "layer_norm_eps": 1e-6},
    )


def original_name(name):
    """Names of BLIP's own code, written down apart from the adapter's table."""
    if name.startswith("head."):
        return name.replace("head.", "mlp.layers.", 1)
    if name.startswith("text."):
        return "blip.text_encoder." + name.removeprefix("text.")
    name = name.removeprefix("vision.")
    for ours, theirs in {
        "embeddings.class_embedding": "cls_token",
        "embeddings.position_embedding": "pos_embed",
        "embeddings.patch_embedding": "patch_embed.proj",
        "encoder.layers": "blocks",
        "self_attn.projection": "attn.proj",
        "self_attn.qkv": "attn.qkv",
        "layer_norm1": "norm1",
        "layer_norm2": "norm2",
        "post_layernorm": "norm",
    }.items():
        name = name.replace(ours, theirs)
    return "blip.visual_encoder." + name


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    """A network, its checkpoint under the authors' names, and a loader."""
    folder = tmp_path_factory.mktemp("blip")
    torch.manual_seed(0)
    net = ImageRewardNet(tiny_blip()).eval()
    state = {original_name(name): tensor for name, tensor in net.state_dict().items()}
    state |= {
        "blip.text_encoder.embeddings.position_ids": torch.arange(40)[None],
        "blip.text_proj.weight": torch.ones(2),
    }
    torch.save(state, folder / "ImageReward.pt")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", "bench", "two", "cow", "##s"]
    (folder / "vocab.txt").write_text("\n".join(words + [f"w{n}" for n in range(60 - len(words))]))
    return net, folder


def blip_parts(folder):
    torch.manual_seed(1)
    net = load_image_reward(ImageRewardNet(tiny_blip()), folder / "ImageReward.pt")
    return net, BertTokenizer(str(folder / "vocab.txt")), image_processor(32)


def test_image_reward_from_the_authors_names(blip):
    net, folder = blip
    reward = ImageReward(str(folder), device="cpu", loader=lambda: blip_parts(folder))
    values = reward(IMAGES, TEXTS)
    tokenizer = BertTokenizer(str(folder / "vocab.txt"))
    tokens = tokenizer(TEXTS, padding="max_length", max_length=35, truncation=True, return_tensors="pt")
    pixels = image_processor(32)([Image.fromarray(image) for image in IMAGES], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        image = net.vision(pixel_values=pixels).last_hidden_state
        text = net.text(
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            encoder_hidden_states=image,
            encoder_attention_mask=torch.ones(2, image.shape[1], dtype=torch.long),
        ).last_hidden_state[:, 0]
        expected = (net.head(text)[:, 0] - 0.16717362830052426) / 1.0333394966054072
    assert values == pytest.approx(expected.tolist(), abs=0.01)
    assert values != pytest.approx(reward(IMAGES, TEXTS[::-1]), abs=1e-6)  # the text is read
    assert reward([IMAGES[1]], [TEXTS[1]]) == pytest.approx(values[1:], abs=1e-5)


def test_image_reward_as_it_is_loaded(blip, monkeypatch):
    """The path of the published weights, of which only the sizes are others."""
    folder = blip[1]
    monkeypatch.setattr("geneval_reward.reward.models.image_reward._published", tiny_blip)
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    reward = ImageReward(str(folder), str(folder), device="cpu")
    by_hand = ImageReward(str(folder), device="cpu", loader=lambda: blip_parts(folder))
    assert reward(IMAGES, TEXTS) == pytest.approx(by_hand(IMAGES, TEXTS), abs=1e-5)
    assert not any(tensor.is_meta for tensor in [*reward._loaded[0].parameters(), *reward._loaded[0].buffers()])


def test_image_reward_of_another_checkpoint(blip, tmp_path):
    _, folder = blip
    state = torch.load(folder / "ImageReward.pt")
    torch.save({k: v for k, v in state.items() if "norm1" not in k}, tmp_path / "less.pt")
    with pytest.raises(OSError, match=r"expected the tensors of ImageReward, got 4 missing and 0 of another shape"):
        load_image_reward(ImageRewardNet(tiny_blip()), tmp_path / "less.pt")


def test_image_reward_has_the_published_sizes():
    with torch.device("meta"):
        net = ImageRewardNet()
    count = sum(tensor.numel() for tensor in net.parameters())
    assert 440e6 < count < 455e6
    assert net.vision.embeddings.position_embedding.shape == (1, 197, 1024)
    assert net.text.embeddings.word_embeddings.weight.shape == (30524, 768)


class TestAll:
    """What they have in common."""

    @pytest.fixture
    def reward(self, clip_folder):
        return PickScore(str(clip_folder), str(clip_folder), device="cpu")

    def test_a_broken_image_is_none_and_a_broken_batch_an_error(self, reward):
        broken = np.full((8, 8, 3), np.nan)
        values = reward([IMAGES[0], broken, IMAGES[1]], [TEXTS[0], "x", TEXTS[1]])
        assert values[1] is None
        assert [values[0], values[2]] == pytest.approx(reward(IMAGES, TEXTS), abs=1e-5)
        with pytest.raises(ImageError, match=r"images\[0\]: expected finite"):
            reward([broken], ["x"])
        with pytest.raises(ValueError, match="prompts: expected 2, one per image, got 1"):
            reward(IMAGES, ["x"])
        with pytest.raises(ValueError, match="prompts: expected prompts or records"):
            reward(IMAGES)
        assert reward([], []) == []

    def test_images_of_every_kind(self, reward):
        whole = reward([IMAGES[0]], [TEXTS[0]])
        assert reward([Image.fromarray(IMAGES[0])], [TEXTS[0]]) == pytest.approx(whole)
        floats = torch.from_numpy(IMAGES[0]).permute(2, 0, 1)[None] / 255
        assert reward(floats, [[{"role": "user", "content": TEXTS[0]}]]) == pytest.approx(whole, abs=1e-4)

    def test_threads_pickle_and_copies(self, reward):
        expected = reward(IMAGES, TEXTS)
        again = pickle.loads(pickle.dumps(reward))
        assert again._loaded is None
        assert copy.deepcopy(reward) is reward
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(lambda _: again(IMAGES, TEXTS) == pytest.approx(expected, abs=1e-5), range(16)))

    def test_under_the_trainers_autocast_and_gradient(self, reward):
        expected = reward(IMAGES, TEXTS)
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.enable_grad():
            assert reward(IMAGES, TEXTS) == pytest.approx(expected, abs=1e-6)

    def test_weights_that_are_not_there(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for reward in (PickScore(str(tmp_path), device="cpu"), ImageReward(str(tmp_path), device="cpu")):
                with pytest.raises(GenEvalError, match=r"expected the weights of .* on the hub or in that folder"):
                    reward(IMAGES, TEXTS)

    def test_by_name(self):
        for name in ("clip_score", "pick_score", "hps_v2", "hps_v2.1", "image_reward"):
            assert model_reward(name, device="cpu").__name__ == name
        with pytest.raises(ValueError, match=r"name: expected one of clip_score, .*got 'aesthetic'"):
            model_reward("aesthetic")
        with pytest.raises(ValueError, match=r"version: expected one of 2, 2\.1"):
            HPS("3")
        with pytest.raises(ValueError, match="batch_size: expected an integer >= 1"):
            PickScore(batch_size=0)

    def test_in_a_composite(self, reward, clip_folder):
        clip = CLIPScoreReward(str(clip_folder), device="cpu")
        batch = CompositeReward({"pick": reward, "clip": clip}, {"clip": 0.5}).score(IMAGES, TEXTS)
        assert batch.rewards == pytest.approx([a + 0.5 * b for a, b in zip(*batch.parts.values(), strict=True)])
