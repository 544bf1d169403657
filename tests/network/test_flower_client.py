"""The client side of a user's own Flower app: what of their model trains, and what goes back."""

import pytest
import torch

pytest.importorskip("flwr", reason="needs the extra flower")

from flower_grid import LocalGrid
from flwr.app import Message, RecordDict
from peft import PeftModel
from transformers import BertConfig, BertForSequenceClassification, BertModel, LlamaConfig, LlamaForCausalLM

from fedhello import flower
from fedhello.errors import DataError, EngineError, ModelError, UpdateError
from fedhello.network.flower_client import adapted, as_batches
from fedhello.network.flower_records import RECORD, as_arrays, describe_task
from fedhello.types import Allocation, Task

CONFIG = BertConfig(
    vocab_size=50, hidden_size=8, num_hidden_layers=3, num_attention_heads=2, intermediate_size=16,
    max_position_embeddings=32, num_labels=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)  # fmt: skip
BATCH = {"input_ids": torch.tensor([[3, 4, 5], [6, 7, 8]]), "labels": torch.tensor([0, 2])}


def plain(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return BertForSequenceClassification(CONFIG)


def message(allocation, server=None, **changes):
    found = adapted(server or flower.with_lora(plain(), rank=2))
    task = Task(0, 0, allocation, found.lora.snapshot(share_head=True))
    record = describe_task(task, found.weights)
    record.update(changes)
    return Message(RecordDict({"arrays": as_arrays(task.adapter.tensors), RECORD: record}), 7, "train")


@pytest.fixture(autouse=True)
def at_home(monkeypatch):
    LocalGrid(monkeypatch)


def step(model, parameters=None, lr=0.1):
    optimizer = torch.optim.SGD(model.parameters() if parameters is None else parameters, lr=lr)
    model(**BATCH).loss.backward()
    optimizer.step()


def test_the_adapter_goes_in_without_touching_what_the_model_does_or_who_owns_it():
    model = plain()
    head = model.classifier.weight.detach().clone()
    before = model(**BATCH).logits.detach()
    assert flower.with_lora(model) is model
    assert torch.equal(model(**BATCH).logits.detach(), before)
    assert torch.equal(model.classifier.weight.detach(), head)  # the user's own, not a fresh one


def test_exactly_the_allocated_tensors_train_and_return():
    model = flower.with_lora(plain(), rank=2)
    allotted = flower.prepare(model, message(Allocation((2,))))
    live = {id(p) for p in model.parameters() if p.requires_grad}
    assert live == {id(p) for p in allotted.parameters}
    assert len(live) == len(allotted.names) == 6  # A and B of query and value, and a head with bias
    untouched = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    step(model)
    returned = allotted.arrays()
    assert sorted(returned) == list(allotted.names)
    assert {adapted(model).lora.block_of[name] for name in returned} == {2, None}
    assert all(torch.equal(p, untouched[name]) for name, p in model.named_parameters() if name in untouched)


def test_one_factor_and_no_head():
    model = flower.with_lora(plain(), rank=2)
    allotted = flower.prepare(model, message(Allocation((0, 2), factors="B", head=False)))
    assert len(allotted.names) == 4
    assert all(name.endswith("lora_B.weight") for name in allotted.names)


def test_blocks_that_a_sub_model_leaves_out_are_back_afterwards_even_where_training_failed():
    model, ran = flower.with_lora(plain(), rank=2), []
    for l, block in enumerate(adapted(model).lora.block_modules()):
        block.register_forward_hook(lambda *_, l=l: ran.append(l))
    for there in (0, 2):  # the first one does not come to its end
        absent = tuple(l for l in range(3) if l != there)
        allotted = flower.prepare(model, message(Allocation((there,), absent=absent)))
        step(model)
        assert ran == [there]
        ran.clear()
    allotted.arrays()
    model(**BATCH)
    assert ran == [0, 1, 2]


def test_training_that_went_wrong_is_an_error_in_a_sentence():
    model = flower.with_lora(plain(), rank=2)
    allotted = flower.prepare(model, message(Allocation((2,))))
    step(model, lr=0.0)
    with pytest.raises(UpdateError, match="did not change block 2, the head"):
        allotted.arrays()
    allotted = flower.prepare(model, message(Allocation((2,))))
    step(model, lr=float("inf"))
    with pytest.raises(UpdateError, match="found NaN or infinity"):
        allotted.arrays()


def test_training_what_is_frozen_is_an_error_and_the_model_is_not_taken_again():
    model = flower.with_lora(plain(), rank=2)
    allotted = flower.prepare(model, message(Allocation((2,))))
    model.requires_grad_(True)
    step(model)
    with pytest.raises(UpdateError, match="train only allocated tensors"):
        allotted.arrays()
    with pytest.raises(ModelError, match="frozen weights of the server"):
        flower.prepare(model, message(Allocation((2,))))
    # What was free before a round is frozen by it, and what of an earlier round is left over does not count.
    model = flower.with_lora(plain(), rank=2)
    model.requires_grad_(True)
    model(**BATCH).loss.backward()
    allotted = flower.prepare(model, message(Allocation((2,), absent=(0,))))
    step(model)
    assert len(allotted.arrays()) == 6


def test_other_frozen_weights_and_other_messages_are_refused():
    with pytest.raises(ModelError, match="frozen weights of the server"):
        flower.prepare(flower.with_lora(plain(seed=1), rank=2), message(Allocation((2,))))
    ask = message(Allocation((2,)))
    del ask.content[RECORD]
    with pytest.raises(EngineError, match="holds no allocation"):
        flower.prepare(flower.with_lora(plain()), ask)
    # A head of one's own, drawn anew in every process, is no such weight.
    other = plain()
    torch.nn.init.normal_(other.classifier.weight)
    flower.prepare(flower.with_lora(other, rank=2), message(Allocation((2,))))


def test_arrays_of_a_higher_rank_or_other_shapes_are_refused_before_the_model_takes_them():
    for made in (lambda r: flower.with_lora(plain(), rank=r), lambda r: plain_net(rank=r, head="classifier")):
        model = made(2)
        flower.prepare(model, message(Allocation((2,)), made(1)))
        before = {name: tuple(value.shape) for name, value in model.named_parameters()}
        wide = message(Allocation((2,)), made(3))
        other = message(Allocation((2,)), made(2))
        name = next(name for name in other.content["arrays"] if name.endswith("lora_B.weight"))
        other.content["arrays"][name] = as_arrays({"x": torch.zeros(1, 2)})["x"]
        for odd in (wide, other):
            with pytest.raises(ModelError, match="this model's adapter, of no higher rank; found base_model"):
                flower.prepare(model, odd)
        assert {name: tuple(value.shape) for name, value in model.named_parameters()} == before


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (torch.nn.Linear(2, 2), "expected head= to name"),
        (BertModel(CONFIG), "a model with a head"),
        (flower.with_lora(plain()), "a model without adapters"),
    ],
)
def test_models_that_cannot_be_had_are_refused(model, sentence):
    with pytest.raises(ModelError, match=sentence):
        flower.with_lora(model)


def test_a_language_model_has_no_head_of_its_own():
    config = LlamaConfig(
        vocab_size=30, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=32, pad_token_id=0,
    )  # fmt: skip
    model = flower.with_lora(LlamaForCausalLM(config), rank=2)
    allotted = flower.prepare(model, message(Allocation((1,)), server=model))
    assert {adapted(model).lora.block_of[name] for name in allotted.names} == {1}


def test_what_a_run_led_to_is_an_adapter_that_peft_loads(tmp_path):
    model = flower.with_lora(plain(), rank=2)
    allotted = flower.prepare(model, message(Allocation((0, 1, 2))))
    step(model)
    flower.save(model, allotted.arrays(), tmp_path / "adapter")
    again = PeftModel.from_pretrained(plain(), tmp_path / "adapter")
    model.eval(), again.eval()
    assert torch.equal(again(**BATCH).logits, model(**BATCH).logits)


def test_batches_for_scores_are_those_of_transformers_and_no_more_than_asked_for():
    assert [len(batch.labels) for batch in as_batches([BATCH, BATCH, BATCH], most=3)] == [2, 1]
    assert [sorted(batch.inputs) for batch in as_batches([BATCH])] == [["input_ids"]]
    for odd in ([(1, 2)], [{"img": torch.zeros(1)}]):
        with pytest.raises(DataError, match="a mapping with the model's inputs and labels"):
            list(as_batches(odd))


class Net(torch.nn.Module):
    """A plain transformer: called with one tensor, it returns logits."""

    def __init__(self):
        super().__init__()
        layer = torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.body = torch.nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.classifier = torch.nn.Linear(8, 3)

    def forward(self, x):
        return self.classifier(self.body(x).mean(dim=1))


def plain_net(rank=2, **more):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return flower.with_lora(Net(), rank=rank, targets=["linear1", "linear2"], **more)


def test_a_plain_module_trains_what_is_allocated_and_its_adapter_counts_in_evaluation():
    x, y = torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0])
    model = plain_net(head="classifier")
    head = model.classifier.weight.detach().clone()
    before = model.eval()(x).detach()
    allotted = flower.prepare(model, message(Allocation((1,)), plain_net(head="classifier")))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(2):
        torch.nn.functional.cross_entropy(model.train()(x), y).backward()
        optimizer.step()
    found = allotted.arrays()
    assert {adapted(model).lora.block_of[name] for name in found} == {1, None}
    assert not torch.equal(model.classifier.weight.detach(), head)
    with torch.no_grad():
        trained = model.eval()(x)
        model.train()
        assert torch.allclose(trained, model(x), atol=1e-6)  # torch's fast path would leave the adapter out
    assert not torch.allclose(trained, before)


def test_a_plain_module_needs_the_path_of_its_head():
    with pytest.raises(
        ModelError,
        match=r"expected head= to name the linear layer of Net that makes logits; found 'x'. .*classifier \(3\)",
    ):
        plain_net(head="x")
    with pytest.raises(ModelError, match="found None"):
        plain_net()
    with pytest.raises(ModelError, match="with a plain module alone; found it with a BertFor"):
        flower.with_lora(plain(), head="classifier")
