"""A plain module with blocks is fine-tuned, used, saved, read back and exported like a model of transformers."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import fedhello as fh

CONFIG = {
    "model": {"lora": {"rank": 2, "alpha": 4, "targets": "all-linear"}},
    "data": {"tensor": "x", "label": "y", "clients": 3, "partition": {"kind": "iid"}, "proxy": 6},
    "clients": {"tiers": [{"share": 0.5, "blocks": 1}, {"share": 0.5, "blocks": 3}]},
    "train": {"rounds": 2, "clients_per_round": 2, "lr": 1e-2, "lr_schedule": "constant"},
}


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Network(nn.Module):
    """Three blocks on rows of numbers; with a head logits come out, without it features."""

    def __init__(self, seen=6, width=8, classes=3, head=True):
        super().__init__()
        self.stem = nn.Linear(seen, width)
        self.trunk = nn.ModuleList(Block(width) for _ in range(3))
        self.classifier = nn.Linear(width, classes) if head else nn.Identity()

    def forward(self, x):
        x = self.stem(x)
        for block in self.trunk:
            x = block(x)
        return self.classifier(x)


class Chained(Network):
    """The same, its blocks called as one."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(*self.trunk)

    def forward(self, x):
        return self.classifier(self.trunk(self.stem(x)))


class Attentive(nn.Module):
    """torch's own transformer layers on token ids: features of all tokens."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)

    def forward(self, ids):
        return self.encoder(self.embedding(ids))


def made(kind=Network, **how):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(**how)


def numbers(n=90, seed=0):
    """Three clouds of points."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    x = rng.normal(size=(n, 6)) + 2 * np.eye(6)[y]
    return TensorDataset(torch.tensor(x, dtype=torch.float32), torch.tensor(y))


def tokens(n=90):
    rng = np.random.default_rng(0)
    y = np.arange(n) % 2
    return [{"x": torch.tensor(rng.integers(10, size=5) + 10 * c), "y": int(c)} for c in y]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    torch.backends.mha.set_fastpath_enabled(True)


CASES = {
    "own head": (Network, {}, numbers, {"model.head_module": "classifier"}, "native"),
    "own head that trains": (
        Network, {}, numbers, {"model.head_module": "classifier", "model.head": "aggregate"}, "native",
    ),
    "features": (Network, {"head": False}, numbers, {}, "pooler"),
    "features of tokens": (Attentive, {}, tokens, {"model.pooling": "mean"}, "mean"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_plain_module_does_all_that_a_model_of_transformers_does(case):
    kind, how, data, words, pooling = CASES[case]
    rows = data()
    whole = made(kind, **how)
    frozen = {name: value.clone() for name, value in whole.state_dict().items() if "classifier" not in name}
    run = fh.run(CONFIG, {**words, "run.name": "a", "train.selection": "last"}, model=whole, data=rows)
    assert (run.summary.status, run.config.model.pooling) == ("finished", pooling)
    assert {l for record in run.rounds for client in record.report.clients for l in client.blocks} == {0, 1, 2}
    inputs = [rows[i][0] if isinstance(rows[i], tuple) else rows[i]["x"] for i in range(4)]
    found = [one.probability for one in run.predict(inputs, probabilities=True)]
    scores = run.evaluate()
    assert scores.test.accuracy == run.summary.final > 0.4
    assert all(torch.equal(value, frozen[name]) for name, value in base_weights(run).items())

    # In another process, with the module made anew.
    with pytest.raises(fh.ModelError, match="which was passed as an object"):
        fh.load_run(run.path).predict(inputs)
    again = fh.load_run(run.path, model=made(kind, **how), data=rows)
    assert [one.probability for one in again.predict(inputs)] == pytest.approx(found, abs=1e-6)
    assert again.evaluate() == scores
    if data is numbers:
        with pytest.raises(fh.ModelError):
            fh.load_run(run.path, model=made(kind, width=4, **how)).predict(inputs)
    longer = fh.resume(run.path, {"train.rounds": 3}, model=made(kind, **how), data=rows)
    assert longer.summary.rounds == 3

    # PEFT puts what is exported into the module itself, whose logits are then the run's.
    found = torch.tensor([list(one.probabilities.values()) for one in longer.predict(inputs, probabilities=True)])
    code = (longer.export("adapter") / "README.md").read_text().split("```python")[1].split("```")[0]
    logits = performed(code.replace("...  #", "made(kind, **how)  #"), "adapter", kind, how)
    torch.testing.assert_close(logits(torch.stack(inputs)).softmax(dim=1), found)
    code = (longer.export("merged", merge=True) / "README.md").read_text().split("```python")[1].split("```")[0]
    logits = performed(code.replace("...  #", "made(kind, **how)  #"), "merged", kind, how)
    torch.testing.assert_close(logits(torch.stack(inputs)).softmax(dim=1), found, atol=1e-5, rtol=1e-4)
    assert [one.probability for one in longer.predict(inputs)] == pytest.approx(found.max(dim=1).values.tolist())


def base_weights(run):
    """The frozen weights of a run's module, by the names that they have without an adapter."""
    state = run.peft_model().get_base_model().state_dict()
    return {
        name.replace(".base_layer", ""): value
        for name, value in state.items()
        if "lora_" not in name and "classifier" not in name
    }


def performed(code, folder, kind, how):
    """Run a model card's code in its folder; return what makes logits."""
    space = {"made": made, "kind": kind, "how": how}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(compile(code, "card", "exec"), space)
    return torch.inference_mode()(space.get("logits", space["model"]))


def test_an_adapter_counts_in_evaluation_within_torchs_own_layers():
    session = fh.prepare(CONFIG, {"model.pooling": "cls"}, model=made(Attentive), data=tokens())
    model, batch = session.model, session.server.test.batch(np.arange(4))
    assert not any("out_proj" in name for name in model.block_of)  # attention reads its weight, and calls it never
    model.module.eval()
    with torch.inference_mode():
        before = model.module(**batch.inputs).logits
        model.write(
            {name: torch.ones_like(value) for name, value in model.read(model.block_of).items() if "lora_B" in name}
        )
        assert not torch.allclose(model.module(**batch.inputs).logits, before, atol=1e-3)
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_comparison_of_a_plain_module_leaves_it_as_it_is():
    module = made(Chained)
    before = copy.deepcopy(module.state_dict())
    words = {"model.head_module": "classifier", "data.proxy": 0, "train.rounds": 1}
    found = fh.compare(CONFIG, words, methods=["rgd-hla", "fedra"], seeds=[0], model=module, data=numbers())
    assert list(found.runs) == ["head-only", "server-only", "rgd-hla", "fedra"]
    after = module.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    again = fh.compare(CONFIG, words, methods=["rgd-hla", "fedra"], seeds=[0], model=module, data=numbers())
    assert again.runs["rgd-hla"][0].summary == found.runs["rgd-hla"][0].summary


class Wrong(Network):
    """A module that differs in one thing."""

    def __init__(self, change):
        super().__init__()
        self.change = change
        if change == "batch norm":
            self.stem = nn.Sequential(self.stem, nn.BatchNorm1d(8))
        if change == "no blocks":
            self.trunk = nn.ModuleList([nn.Linear(8, 8)])
        if change == "two heads":
            self.other_classifier = nn.Linear(8, 3)

    def forward(self, x):
        if self.change == "raises":
            raise ValueError("no such thing")
        z = super().forward(x)
        return {"scaled": lambda: 2 * z, "a mapping": lambda: {"logits": z}, "one row": lambda: z[:1]}.get(
            self.change, lambda: z
        )()


@pytest.mark.parametrize(
    ("change", "words", "sentence"),
    [
        ("batch norm", {}, r"no batch normalisation with running statistics .* found stem\.1"),
        ("no blocks", {}, "expected a transformer with a list of blocks"),
        ("two heads", {}, "whose path ends with that of the head"),
        ("raises", {}, "it raised ValueError: no such thing"),
        ("scaled", {}, "layer classifier once, .* and to return its output"),
        ("a mapping", {}, "expected Wrong to return one tensor.* found a dict"),
        ("one row", {}, r"found a tensor of shape \(1, 3\)"),
        ("", {"model.head_module": "stem"}, r"a linear layer of Wrong with 3 outputs.* one with 8 at 'stem'"),
        ("", {"model.head_module": "head"}, r"found none at 'head'"),
        ("", {"model.head_module": None, "model.pooling": "mean"}, r"found \(b, 3\) with model\.pooling=mean"),
        ("", {"model.pooling": "mean"}, "expected model.pooling=auto with model.head_module"),
        ("", {"model.lora.targets": "attention-qv"}, "or set it to all-linear"),
        ("", {"data.tensor": None}, "expected data.tensor together with model.head_module"),
        ("", {"data.tensor": None, "model.head_module": None}, "plain module, name the column in data.tensor"),
        ("", {"clients.tiers": [{"share": 1, "memory": "1GB"}]}, "whose bytes and seconds are not predicted"),
    ],
)
def test_what_a_module_cannot_do_is_said_in_one_sentence(change, words, sentence):
    with pytest.raises(fh.FedhelloError, match=sentence):
        fh.prepare(CONFIG, {"model.head_module": "classifier", **words}, model=Wrong(change), data=numbers())


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ([1.0] * 5, r"\(6,\) and float32; row 91 has \(5,\)"),
        ([float("nan")] * 6, "expected finite numbers"),
        ("text", "expected numbers in the column 'x'"),
        (None, "expected a value of 'x'"),
    ],
)
def test_numbers_are_of_one_shape_and_finite(value, sentence):
    rows = [{"x": x, "y": y} for x, y in numbers()]
    with pytest.raises(fh.DataError, match=sentence):
        fh.prepare(CONFIG, {"model.head_module": "classifier"}, model=made(), data=[*rows, {"x": value, "y": 1}])


def test_each_client_may_have_a_data_set_of_torchs():
    words = {"model.head_module": "classifier", "data.validation": 0.1, "data.test": 0.1}
    clients = [numbers(30, seed=k) for k in range(3)]
    session = fh.prepare(CONFIG, words, model=made(), data=clients)
    assert session.histogram.sum() == 90 - 9 - 9 - 6
    found = {tuple(row) for k in session.engine.data for row in session.engine.data[k].values.tolist()}
    mine = {tuple(row) for row in clients[1].tensors[0].tolist()}
    assert {tuple(row) for row in session.engine.data[1].values.tolist()} == found & mine


def test_names_of_models_take_no_tensors():
    with pytest.raises(fh.ConfigError, match=r"expected a plain torch\.nn\.Module in memory"):
        fh.prepare(CONFIG, data=numbers())


class Called(nn.Module):
    """A network whose head has any name."""

    def __init__(self, name):
        super().__init__()
        self.body, self.name = made(head=False), name
        self.add_module(name, nn.Linear(8, 3))

    def forward(self, x):
        return self.get_submodule(self.name)(self.body(x))


@pytest.mark.parametrize("name", ["out", "dropout", "t", "A", "default"])
def test_a_head_whose_name_ends_what_lora_adds_is_refused(name):
    with pytest.raises(fh.ModelError, match=r"which LoRA adds\. Rename the head"):
        fh.prepare(CONFIG, {"model.head_module": name}, model=Called(name), data=numbers())


@pytest.mark.parametrize("words", [{"data.clients": 5000}, {"clients.tiers": [{"share": 1, "blocks": 9}]}])
def test_a_module_is_as_it_was_after_preparing_has_failed(words):
    module = made()
    hook = module.stem.register_forward_hook(lambda *_: None)
    module.stem.weight.requires_grad_(False)
    before = {name: (value, value.clone()) for name, value in module.state_dict(keep_vars=True).items()}
    trains = [weight.requires_grad for weight in module.parameters()]
    words = {"model.head_module": "classifier", **words}
    with pytest.raises(fh.FedhelloError):
        fh.prepare(CONFIG, words, model=module, data=numbers())
    after = module.state_dict(keep_vars=True)
    assert after.keys() == before.keys()
    assert all(after[name] is weight and torch.equal(weight, value) for name, (weight, value) in before.items())
    assert [weight.requires_grad for weight in module.parameters()] == trains
    hook.remove()
    assert not module.stem._forward_hooks
    assert not hasattr(module, "peft_config")
    fh.prepare(CONFIG, {"model.head_module": "classifier"}, model=module, data=numbers())


def test_tensors_that_a_module_does_not_take_are_one_sentence():
    run = fh.run(CONFIG, {"model.head_module": "classifier", "train.rounds": 1}, model=made(), data=numbers())
    for wrong in (torch.zeros(5), torch.zeros(6, dtype=torch.int64)):
        with pytest.raises(fh.DataError, match=r"expected tensors such as Network .* RuntimeError on samples of shape"):
            run.predict([wrong])
    rows = [{"x": torch.zeros(5), "y": 0}, {"x": torch.ones(5), "y": 1}]
    with pytest.raises(fh.DataError, match=r"samples of shape \(5,\)"):
        run.evaluate(rows)
