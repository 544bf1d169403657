"""Features are those of sentence-transformers, and of what a model's own files ask for."""

import json
import math

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from fedhello.errors import ModelError
from fedhello.model.injection import attach_lora
from fedhello.model.loading import load_foundation
from fedhello.model.pooling import class_tokens, of_one_length, pool
from fedhello.model.sources import resolve

LABELS = ["a", "b", "c"]
ENCODER = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
WORDS = {**ENCODER, "vocab_size": 40, "max_position_embeddings": 32, "pad_token_id": 0}
TOWER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
IDS = torch.randint(3, 40, (4, 7), generator=torch.Generator().manual_seed(0))
MASK = (torch.arange(7) < torch.tensor([[7], [3], [1], [5]])).long()
PIXELS = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def saved(folder, model, **files):
    """Save a model, the tokenizer that a model of text has, and files in JSON."""
    model.save_pretrained(folder)
    if model.main_input_name != "pixel_values":
        words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(40)}, unk_token="w3"))
        PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0").save_pretrained(folder)
    for name, content in files.items():
        file = folder / f"{name.replace('__', '/')}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))
    return resolve(str(folder))


def bert():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.BertModel(transformers.BertConfig(**WORDS))


def random_model(auto, config, **values):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(transformers, auto)(getattr(transformers, config)(**values))


def classifier(source, kind="text-classification", pooling="auto", targets="attention-qv"):
    base = load_foundation(source, kind, LABELS, seed=0, pooling=pooling)
    return attach_lora(base, num_labels=3, rank=2, alpha=2, dropout=0.0, targets=targets, seed=0)


def features_of(model, **inputs):
    """What enters the logits layer."""
    seen = []
    hook = model.logits_layer.register_forward_pre_hook(lambda _, entering: seen.append(entering[0]))
    model.module.eval()
    with torch.no_grad():
        z = model.module(**inputs).logits
    hook.remove()
    assert torch.allclose(z, model.logits_layer(seen[0]))
    return seen[0]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(("mode", "theirs"), [("cls", "cls"), ("mean", "mean"), ("last", "lasttoken")])
def test_pooling_is_the_one_of_sentence_transformers(mode, theirs, side):
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    hidden = torch.randn(4, 7, 5, generator=torch.Generator().manual_seed(0))
    mask = MASK if side == "right" else MASK.flip(1)
    expected = modules.Pooling(5, pooling_mode=theirs)({"token_embeddings": hidden, "attention_mask": mask})
    found = pool(hidden, mask, mode)
    assert torch.allclose(found, expected["sentence_embedding"], atol=1e-6)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("mode", ["cls", "mean", "last"])
def test_padding_changes_nothing(mode, side):
    """Three tokens with four of padding on either side are the three tokens."""
    h = torch.randn(1, 3, 5, generator=torch.Generator().manual_seed(0))
    noise = torch.full((1, 4, 5), 99.0)
    padded = torch.cat([h, noise] if side == "right" else [noise, h], dim=1)
    mask = torch.tensor([[1, 1, 1, 0, 0, 0, 0]])
    found = pool(padded, mask if side == "right" else mask.flip(1), mode)
    assert torch.allclose(found, pool(h, None, mode))
    assert torch.allclose(found, {"cls": h[:, 0], "last": h[:, 2], "mean": h.mean(dim=1)}[mode])


def test_a_mean_without_the_first_tokens():
    h = torch.arange(8.0).reshape(1, 4, 2)
    assert pool(h, None, "mean", prefix=1).tolist() == [[4.0, 5.0]]
    with pytest.raises(ValueError, match="expected cls, mean or last; found 'pooler'"):
        pool(h, None, "pooler")


def test_features_are_as_long_as_the_root_of_their_number():
    found = of_one_length(torch.tensor([[3.0, 4.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1e-3]], dtype=torch.bfloat16))
    assert found.dtype == torch.float32
    assert torch.allclose(found.norm(dim=1), torch.tensor([2.0, 2.0]), atol=1e-2)


MODULES = [{"type": "sentence_transformers.models.Transformer", "path": ""},
           {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]  # fmt: skip


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": "cls", "include_prompt": True}, "cls"),
        ({"pooling_mode": ["lasttoken"]}, "last"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True, "include_prompt": True}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False, "word_embedding_dimension": 16}, "cls"),
        ({"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}, "last"),
    ],
)
def test_what_sentence_transformers_wrote_is_read(stated, expected, tmp_path):
    source = saved(tmp_path, bert(), modules=MODULES, **{"1_Pooling__config": stated})
    model = classifier(source)
    assert model.pooling == expected
    found = features_of(model, input_ids=IDS, attention_mask=MASK)
    with torch.no_grad():
        hidden = bert().eval()(input_ids=IDS, attention_mask=MASK).last_hidden_state
    assert torch.allclose(found, of_one_length(pool(hidden, MASK, expected)), atol=1e-5)
    assert torch.allclose(found.norm(dim=1), torch.full((4,), math.sqrt(16)), atol=1e-5)


@pytest.mark.parametrize("folder", ["new", "old"])
def test_what_sentence_transformers_saves_is_read(folder, tmp_path):
    """As the installed version writes it, and as version 2 did."""
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    written = tmp_path / "1_Pooling"
    written.mkdir()
    if folder == "new":
        modules.Pooling(16, pooling_mode="lasttoken").save(str(written))
    else:
        flags = {"cls_token": False, "mean_tokens": False, "max_tokens": False, "lasttoken": True}
        old = {"word_embedding_dimension": 16} | {f"pooling_mode_{key}": value for key, value in flags.items()}
        (written / "config.json").write_text(json.dumps(old))
    assert classifier(saved(tmp_path, bert(), modules=MODULES)).pooling == "last"


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({"pooling_mode": "max"}, "names max"),
        ({"pooling_mode": ["cls", "mean"]}, "names cls and mean"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, "names mean and max"),
        ({"pooling_mode_weightedmean_tokens": True}, "names weightedmean"),
        ({}, "names nothing"),
    ],
)
def test_pooling_that_is_not_known_is_one_sentence(stated, words, tmp_path):
    source = saved(tmp_path, bert(), modules=MODULES, **{"1_Pooling__config": stated})
    with pytest.raises(ModelError) as found:
        classifier(source)
    assert words in str(found.value)
    assert "Set model.pooling to one of cls, mean, last, pooler, native." in str(found.value)
    assert "\n" not in str(found.value)
    assert classifier(source, pooling="mean").pooling == "mean"


def test_where_files_say_nothing_the_architecture_decides(tmp_path):
    assert classifier(saved(tmp_path / "plain", bert())).pooling == "native"
    no_pooling = saved(tmp_path / "odd", bert(), modules=MODULES[:1])
    assert classifier(no_pooling).pooling == "native"


@pytest.mark.parametrize("stated", ["cls", "mean"])
def test_modernbert_says_how_it_pools(stated, tmp_path):
    model = random_model("ModernBertModel", "ModernBertConfig", vocab_size=40, hidden_size=16, num_hidden_layers=2,
                         num_attention_heads=2, intermediate_size=24, max_position_embeddings=32, pad_token_id=0,
                         classifier_pooling=stated, reference_compile=False)  # fmt: skip
    found = classifier(saved(tmp_path, model), targets="attention")
    assert found.pooling == stated
    x = features_of(found, input_ids=IDS, attention_mask=MASK)
    with torch.no_grad():
        hidden = model.eval()(input_ids=IDS, attention_mask=MASK).last_hidden_state
    assert torch.allclose(x, of_one_length(pool(hidden, MASK, stated)), atol=1e-5)


TOWERS = {
    "clip": ("CLIPModel", "CLIPConfig", {"projection_dim": 8}),
    "siglip": ("SiglipModel", "SiglipConfig", {}),
}


@pytest.mark.parametrize("name", sorted(TOWERS))
@pytest.mark.parametrize("alone", [False, True], ids=["both towers", "the image tower"])
def test_of_texts_and_images_the_image_tower_is_pooled_as_it_pools(name, alone, tmp_path):
    auto, config, more = TOWERS[name]
    vision = {**TOWER, "image_size": 8, "patch_size": 4}
    text = {**TOWER, "vocab_size": 40, "max_position_embeddings": 16}
    if name == "clip":
        text |= {"eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0}
    whole = random_model(auto, config, vision_config=vision, text_config=text, **more)
    if alone:
        kind = auto.replace("Model", "VisionModel")
        tower = random_model(kind, f"{auto.removesuffix('Model')}VisionConfig", **vision)
        getattr(tower, "vision_model", tower).load_state_dict(whole.vision_model.state_dict())
    source = saved(tmp_path, tower if alone else whole)
    model = classifier(source, "image-classification")
    assert model.pooling == "pooler"
    with torch.no_grad():
        expected = whole.eval().vision_model(pixel_values=PIXELS).pooler_output
    assert torch.allclose(features_of(model, pixel_values=PIXELS), of_one_length(expected), atol=1e-5)
    assert {block for block in model.block_of.values() if block is not None} == {0, 1}


IMAGES = {
    "vit": ("ViTModel", "ViTConfig", {**ENCODER, "image_size": 8, "patch_size": 4}, 1),
    "dinov2": ("Dinov2Model", "Dinov2Config", {**ENCODER, "image_size": 8, "patch_size": 4}, 1),
    "registers": ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig",
                  {**ENCODER, "image_size": 8, "patch_size": 4, "num_register_tokens": 2}, 3),
    "siglip": ("SiglipVisionModel", "SiglipVisionConfig", {**TOWER, "image_size": 8, "patch_size": 4}, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(IMAGES))
def test_the_mean_of_an_image_is_over_its_patches(name, tmp_path):
    """Four patches of 4 × 4 pixels, and before them a class token and registers, if any."""
    auto, config, values, first = IMAGES[name]
    module = random_model(auto, config, **values)
    model = classifier(saved(tmp_path, module), "image-classification", "mean")
    with torch.no_grad():
        hidden = module.eval()(pixel_values=PIXELS).last_hidden_state
    assert hidden.shape[1] - first == 4
    assert class_tokens(module) == first
    expected = of_one_length(hidden[:, first:].mean(dim=1))
    assert torch.allclose(features_of(model, pixel_values=PIXELS), expected, atol=1e-5)


def test_images_have_no_last_token(tmp_path):
    auto, config, values, _ = IMAGES["vit"]
    source = saved(tmp_path, random_model(auto, config, **values))
    with pytest.raises(ModelError, match="native for images; found last"):
        classifier(source, "image-classification", "last")


def test_the_head_starts_from_the_seed_alone(tmp_path):
    source = saved(tmp_path, bert())

    def head(seed):
        before = torch.random.get_rng_state()
        base = load_foundation(source, "text-classification", LABELS, seed=seed, pooling="mean")
        assert torch.equal(torch.random.get_rng_state(), before)
        return base.head.weight

    assert torch.equal(head(0), head(0))
    assert not torch.equal(head(0), head(1))
    assert head(0).shape == (3, 16)
