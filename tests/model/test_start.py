"""A run starts from an adapter that PEFT, or an earlier run, wrote."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForSequenceClassification

import fedhello as fh
from fedhello.methods import METHODS
from fedhello.runs.selection import first_selection

WORDS = {"train.measure_memory": False, "train.rounds": 1, "model.pooling": "mean"}


def peft_adapter(folder, auto=AutoModel, task=TaskType.FEATURE_EXTRACTION, **changes):
    """Return a model with an adapter of random values, which PEFT has written to a folder."""
    keys = {"r": 4, "lora_alpha": 4, "target_modules": ["query", "value"], "lora_dropout": 0.0, **changes}
    model = get_peft_model(auto.from_pretrained("tiny"), LoraConfig(task_type=task, **keys))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_" in name:
                value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(len(name))) / 3)
    model.save_pretrained(folder, save_embedding_layers=False)
    return model.eval()


@pytest.mark.parametrize("policy", ["solved", "prototypes", "aggregate"])
def test_a_run_starts_from_an_adapter_that_peft_wrote(place, policy):
    model = peft_adapter("given")
    session = fh.prepare("tiny.yaml", WORDS | {"model.adapter": "given", "model.head": policy})
    saved = load_file("given/adapter_model.safetensors")
    assert saved and all(session.initial[name].equal(value) for name, value in saved.items())
    assert "training starts from the adapter in given, not from its head, since it has none for this model" in "".join(
        session.notes
    )
    # Its features are those of PEFT's own model.
    batch = session.model.processor(["apple number 1", "iron number 2"], return_tensors="pt", padding=True)
    with torch.no_grad():
        ours = session.model.peft(**batch).last_hidden_state
        assert torch.allclose(ours, model(**batch).last_hidden_state, atol=1e-6)
    start = fh.start(session)
    plain = fh.start(fh.prepare("tiny.yaml", WORDS | {"model.head": policy}))
    assert start.validation.loss != plain.validation.loss
    if policy != "aggregate":
        assert start.head.bytes_down > 0, "clients are sent the adapter for the features of their sums"
        sums = start.state.head_sums["features"]
        assert not sums.equal(plain.state.head_sums["features"])


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({}, {}),
        ({"model.pooling": "native"}, {}),
        ({"model.head": "aggregate"}, {}),
        ({"model.train_head": True}, {"train.selection": "last"}),
        ({"method.name": "flexlora", "clients.tiers": [{"share": 1, "rank": 2}]}, {}),
        ({}, {"method.name": "flexlora", "clients.tiers": [{"share": 1, "rank": 2}]}),
    ],
)
def test_a_run_starts_where_another_ended(place, first, then):
    words = WORDS | {"train.rounds": 3, **first}
    one = fh.run("tiny.yaml", words | {"run.name": "a"})
    other = fh.run("tiny.yaml", words | then | {"run.name": "b", "model.adapter": "runs/a", "run.seed": 5})
    before, after = one.summary.final_scores, other.summary.start_scores
    assert (after.accuracy, after.loss) == (before.accuracy, before.loss)
    assert any(
        note.startswith("training starts from the adapter in runs/a/adapter and its head")
        for note in other.summary.notes
    )
    assert other.evaluate().test.accuracy == other.summary.final
    if other.summary.selection is not None:
        begun = fh.start(other.session)
        chosen = first_selection(other.session, begun.state)
        assert chosen.selected_losses.mean().item() == pytest.approx(begun.validation.loss, rel=1e-5), (
            "of the head it has"
        )
    # It goes on after an interruption, and needs its own adapter alone once it has ended.
    shutil.rmtree("runs/a")
    assert fh.load_run("runs/b").evaluate().test == other.evaluate().test


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_starts_from_it(place, name):
    peft_adapter("given")
    method, words = METHODS[name], WORDS | {"method.name": name, "model.adapter": "given", "train.lr": 1e-6}
    if method.allocates != "blocks":
        words["clients.tiers"] = [{"share": 1, "rank": 4, "blocks": 3}]
    words |= {"model.drift_compensation": False, "model.final": False, "train.selection": "last"}
    run = fh.run(
        "tiny.yaml",
        words | {"run.name": "a", "model.head": "aggregate", "train.clients_per_round": 4, "data.public": 8},
    )
    start, end = run.summary.start_scores, run.summary.final_scores
    if not method.server_alone and not method.head_alone and name not in ("hetlora", "helora-kd"):  # prunes, distils
        assert end.loss == pytest.approx(start.loss, abs=1e-4), "steps of 1e-6 leave the model where it started"


def test_a_head_of_the_same_labels_in_another_order_is_put_in_order(place):
    fh.run("tiny.yaml", WORDS | {"run.name": "a"})
    right = fh.prepare("tiny.yaml", WORDS | {"model.adapter": "runs/a/adapter"})
    file = "runs/a/adapter/head.safetensors"
    values = load_file(file)
    turned = {name: value.flip(0) for name, value in values.items()}
    save_file(turned, file, {"head": json.dumps({"labels": ["metal", "fruit"], "pooling": "mean"})})
    session = fh.prepare("tiny.yaml", WORDS | {"model.adapter": "runs/a/adapter"})
    assert session.start.head
    assert all(session.initial[name].equal(right.initial[name]) for name in values)
    save_file(turned, file, {"head": json.dumps({"labels": ["metal", "wood"], "pooling": "mean"})})
    session = fh.prepare("tiny.yaml", WORDS | {"model.adapter": "runs/a/adapter"})
    assert not session.start.head
    assert any("not from its head, since its labels are others: metal, wood" in note for note in session.notes)


def test_a_head_of_which_nothing_says_the_labels_is_solved_anew(place):
    peft_adapter("given", AutoModelForSequenceClassification, TaskType.SEQ_CLS)
    session = fh.prepare("tiny.yaml", WORDS | {"model.pooling": "native", "model.adapter": "given"})
    assert not session.start.head
    assert any("since nothing says which labels it is for" in note for note in session.notes)


@pytest.mark.parametrize(
    ("changes", "words", "said"),
    [
        ({"r": 8}, {}, "of model.lora.rank=4, as is set; it is of model.lora.rank=8. Set that"),
        (
            {"r": 8, "lora_alpha": 16, "use_rslora": True}, {},
            "it is of model.lora.rank=8 model.lora.alpha=16 model.lora.rslora=true. Set that",
        ),
        ({"target_modules": ["query"]}, {}, r"it lacks 6 of 12 tensors, .* Its target_modules are \['query'\]"),
        ({"target_modules": ["query", "value", "key"]}, {}, r"and has|it has 6 others, such as .*key"),
        ({}, {"model.pooling": "native"}, "it lacks 12 of 12 tensors"),
        ({"bias": "lora_only"}, {}, "of plain LoRA in given"),
        ({"rank_pattern": {"layer.0.attention.self.query": 2}}, {}, "of plain LoRA in given"),
    ],
)  # fmt: skip
def test_an_adapter_of_another_kind_is_refused_in_one_sentence(place, changes, words, said):
    peft_adapter("given", **changes)
    with pytest.raises(fh.ModelError, match=said):
        fh.prepare("tiny.yaml", WORDS | {"model.adapter": "given", **words})


def test_a_folder_without_safe_weights_is_refused(place):
    peft_adapter("given")
    config, weights = place / "given" / "adapter_config.json", place / "given" / "adapter_model.safetensors"
    words = WORDS | {"model.adapter": "given"}
    weights.rename(place / "given" / "adapter_model.bin")
    with pytest.raises(fh.ModelError, match=r"found adapter_model\.bin, a pickle, which can run code and is not read"):
        fh.prepare("tiny.yaml", words)
    (place / "given" / "adapter_model.bin").unlink()
    with pytest.raises(fh.ModelError, match=r"expected adapter_model\.safetensors in given; there is none"):
        fh.prepare("tiny.yaml", words)
    weights.write_bytes(b"no tensors")
    with pytest.raises(fh.ModelError, match="the file is damaged or cannot be read"):
        fh.prepare("tiny.yaml", words)
    for text, said in (
        ("{", "expected JSON"),
        ("[]", "expected a JSON object"),
        ('{"peft_type": "IA3"}', "plain LoRA"),
    ):
        config.write_text(text)
        with pytest.raises(fh.ModelError, match=said):
            fh.prepare("tiny.yaml", words)
    config.unlink()
    with pytest.raises(fh.ModelError, match=r"given has no adapter_config\.json"):
        fh.prepare("tiny.yaml", words)


def test_a_run_goes_on_only_from_the_adapter_that_it_started_from(place):
    class Once(fh.Callback):
        def on_round(self, state, record):
            return True

    peft_adapter("given")
    words = WORDS | {"model.adapter": "given", "train.rounds": 2}
    fh.run("tiny.yaml", words | {"run.name": "a"})
    for name in "bc":
        fh.run("tiny.yaml", words | {"run.name": name}, callbacks=[Once()])
    fh.resume("runs/b")
    one, other = (place / "runs" / name / "adapter" / "adapter_model.safetensors" for name in "ab")
    assert one.read_bytes() == other.read_bytes()
    file = place / "given" / "adapter_model.safetensors"
    save_file({name: value + 1 for name, value in load_file(file).items()}, file)
    with pytest.raises(fh.RunFolderError, match=r"the adapter in model\.adapter is another now"):
        fh.resume("runs/c")


def test_what_is_exported_loads_in_peft(place):
    peft_adapter("given")
    run = fh.run("tiny.yaml", WORDS | {"model.adapter": "given", "run.name": "a"})
    model = PeftModel.from_pretrained(AutoModel.from_pretrained("tiny"), run.path / "adapter")
    assert model.peft_config["default"].r == 4
