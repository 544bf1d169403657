"""What people bring, by name: a file outside the package serves from Python, from YAML and on the command line."""

import dataclasses
import json
import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

import fedhello as fh
from fedhello import registry
from fedhello.client.loss import LOSSES
from fedhello.config.load import parse_config
from fedhello.data.partition import PARTITIONS
from fedhello.model.evaluation import METRICS

OWN = """
import dataclasses
import fedhello as fh
import torch
from fedhello.aggregation.layerwise import add_part
from fedhello.aggregation.mean import WeightedMean

def in_turn(labels, clients, rng, *, first: int = 0):
    return [range((first + k) % clients, len(labels), clients) for k in range(clients)]

def margins(z, y):
    return torch.nn.functional.multi_margin_loss(z, y, reduction="none")

def surest(z, y):
    p = z.softmax(dim=1).max(dim=1).values
    return {"mean": p.mean(), "least": p.min()}

def alike(context, updates, *, power: float = 0.0):
    mean = WeightedMean()
    for update in updates:
        for name, value in update.tensors.items():
            add_part(mean, context, update, name, value, update.samples ** power)
    return context.then(mean.result(context.adapter.tensors))

unweighted = dataclasses.replace(fh.METHODS["rgd-hla"], aggregate=alike, summary="rgd-hla, clients weigh alike")
"""

YAML = """
model: {name: ./tiny, head: aggregate, lora: {rank: 4, alpha: 4}}
data: {name: texts.csv, clients: 4, proxy: 0, max_length: 16, partition: {kind: "outside:in_turn", first: 1}}
clients: {tiers: [{share: 1/2, blocks: 1}, {share: 1/2, blocks: 3}]}
method: {name: "outside:unweighted", power: 0.5}
train: {rounds: 2, clients_per_round: 2, lr: 1e-2, loss: "outside:margins"}
run: {metrics: ["outside:surest"]}
"""


@pytest.fixture
def place(workplace, tmp_path, monkeypatch):
    """A working directory with the workplace's files and ``outside.py``; what is entered is forgotten afterwards."""
    for name in ("tiny", "tiny.yaml", "texts.csv"):  # and not what other tests have left there
        (tmp_path / name).symlink_to(workplace / name)
    (tmp_path / "outside.py").write_text(OWN)
    (tmp_path / "own.yaml").write_text(YAML)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = [(table, dict(table)) for table in tables()]
    yield tmp_path
    for table, names in before:
        table.clear()
        table.update(names)
    sys.modules.pop("outside", None)


def tables():
    return fh.METHODS, PARTITIONS.table, LOSSES.table, METRICS.table


def forget():
    """Be another process, which has imported nothing from outside yet."""
    for table in tables():
        for name in [name for name in table if name.startswith(("outside:", "mine"))]:
            del table[name]
    sys.modules.pop("outside", None)


def rounds_of(folder):
    return [json.loads(line) for line in (Path(folder) / "rounds.jsonl").read_text().splitlines()]


def adapter(folder):
    return (Path(folder) / "adapter" / "adapter_model.safetensors").read_bytes()


def test_a_file_outside_the_package_is_used_by_name_from_yaml_and_the_command_line(place, call):
    code, _, err = call(place, "run", "own.yaml", "run.name=a", "--quiet")
    assert code == 0, err
    last = rounds_of("runs/a")[-1]
    assert 0.5 <= last["test"]["more"]["surest/least"] <= last["test"]["more"]["surest/mean"] <= 1
    assert json.loads(Path("runs/a/summary.json").read_text())["final_scores"]["more"]["surest/mean"]
    sizes = [client["samples"] for client in json.loads(Path("runs/a/clients.json").read_text())["clients"]]
    assert sizes == [14, 14, 14, 14]
    config = fh.load_config("runs/a/config.yaml")
    assert config.data.partition.options == {"first": 1}
    assert config.method.options["power"] == 0.5

    # The same from Python, by names that a program registers.
    import outside

    fh.register_partition("mine-partition", outside.in_turn)
    fh.register_loss("mine-loss", outside.margins)
    fh.register_metric("mine-metric", lambda z, y: (z.argmax(dim=1) == y).float().mean())
    method = fh.register_method(dataclasses.replace(outside.unweighted, name="mine"))
    words = {
        "data.partition": {"kind": "mine-partition", "first": 1}, "train.loss": "mine-loss",
        "run.metrics": ["mine-metric"], "method": {"name": method.name, "power": 0.5}, "run.name": "b",
    }  # fmt: skip
    run = fh.run("own.yaml", words)
    assert adapter(run.path) == adapter("runs/a")
    for record in run.rounds:
        assert record.test.more["mine-metric"] == pytest.approx(record.test.accuracy)
    assert run.rounds.to_dicts()[0]["test/more/mine-metric"] == pytest.approx(run.rounds[0].test.accuracy)

    # Each of them changes what comes out.
    for key, plain in [("data.partition", {"kind": "iid"}), ("train.loss", "cross_entropy"), ("method.power", 1.0)]:
        other = fh.run("own.yaml", {key: plain, "run.name": f"without-{key}", "data.test": 0.15})
        whole = fh.run("own.yaml", {"run.name": f"with-{key}", "data.test": 0.15})
        assert adapter(other.path) != adapter(whole.path)


def test_the_page_on_what_one_brings_runs(place):
    page = (Path(__file__).parents[1] / "docs" / "how-to" / "add-your-own-method.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    for block in blocks:
        exec(compile(block, "page", "exec"), {})
    assert {path.name for path in Path("runs").iterdir()} == {"rooted", "dealt", "margins", "calibrated"}
    assert "test 0." in (log := Path("runs/calibrated/log.txt").read_text())
    assert "(calibration/sure 0." in log
    assert "; calibration/sure 0." in log


def test_reading_a_run_runs_no_code_from_outside_and_going_on_does(place):
    run = fh.run("own.yaml", {"run.name": "a", "train.lr_schedule": "constant"})
    final = run.summary.final
    forget()
    (place / "outside.py").write_text("open('was-here', 'w').close()\n" + OWN)
    read = fh.load_run(run.path)
    assert read.config.train.loss == "outside:margins"
    assert read.predict(["apple number 1"])[0].label
    assert read.evaluate().test.accuracy == final
    assert not (place / "was-here").exists()
    longer = fh.resume(run.path, {"train.rounds": 3})
    assert (longer.summary.rounds, longer.summary.status) == (3, "finished")
    assert (place / "was-here").exists()


def test_scores_without_a_metrics_code_say_so(place, caplog):
    run = fh.run("tiny.yaml", {"run.name": "a", "run.metrics": ["outside:surest"]})
    scored = run.evaluate().test
    forget()
    with caplog.at_level("WARNING", logger="fedhello"):
        again = fh.load_run(run.path).evaluate().test
    assert "without outside:surest of run.metrics" in caplog.text
    assert again == dataclasses.replace(scored, more=again.more) != scored
    assert again.more == {name: value for name, value in scored.more.items() if not name.startswith("surest")}


def test_a_method_that_was_an_object_is_read_without_it_and_asked_for_when_the_run_goes_on(place):
    import outside

    method = dataclasses.replace(outside.unweighted, name="mine")
    run = fh.run("tiny.yaml", {"run.name": "a", "train.lr_schedule": "constant"}, method=method)
    forget()
    assert fh.load_run(run.path).predict(["apple number 1"])[0].label
    for _ in range(2):
        with pytest.raises(fh.ConfigError, match=r"Register it before resuming: fedhello\.register_method"):
            fh.resume(run.path, {"train.rounds": 3})
    fh.register_method(method)
    assert fh.resume(run.path, {"train.rounds": 3}).summary.rounds == 3


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"data.partition": {"kind": "dirichlett"}}, r"data\.partition\.kind.* Did you mean dirichlet\?"),
        ({"data.partition": {"kind": "outside:in_turn", "frist": 1}}, r"unknown key data\.partition .*frist"),
        ({"data.partition": {"kind": "outside:in_turn", "first": "one"}}, r"data\.partition .*first"),
        ({"data.partition": {"kind": "outside:nothing"}}, "no attribute 'nothing'"),
        ({"train.loss": "cross_entropie"}, r"train\.loss.* Did you mean cross_entropy\?"),
        ({"train.loss": "outside:unweighted"}, "expected a function at outside:unweighted; found a Method"),
        ({"run.metrics": ["nowhere:f1"]}, "No module named 'nowhere'"),
        ({"run.metrics": ["a"]}, r"expected run\.metrics to be (one of .+, or )?package\.module:attribute; found 'a'"),
        ({"run.metrics": ["outside:surest", "outside:surest"]}, "unique names.* found surest twice"),
        ({"run.metrics": ["outside:surest"], "parity": "published"}, r"expected a method that averages"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_anything_is_loaded(place, words, sentence):
    with pytest.raises(fh.ConfigError, match=sentence):
        fh.load_config("own.yaml", words)


def test_names_of_fedhellos_own_stay_its_own():
    for register, name in [(fh.register_partition, "iid"), (fh.register_loss, "auto")]:
        with pytest.raises(fh.ConfigError, match="expected a new name"):
            register(name, len)
    with pytest.raises(fh.ConfigError, match="expected a function at mine; found a int"):
        fh.register_metric("mine", 5)


def test_names_from_elsewhere_are_looked_up_and_never_imported(place):
    from fedhello.network.server import served

    (place / "outside.py").write_text("open('was-here', 'w').close()\n")
    raw = {"train": {"loss": "outside:margins"}, "data": {"partition": {"kind": "outside:in_turn"}}}
    config = parse_config(raw)
    for registry_, name in [(LOSSES, config.train.loss), (PARTITIONS, config.data.partition.kind)]:
        with pytest.raises(fh.ConfigError, match=r"to be registered.* fedhello\.register_"):
            registry_[name]
    assert not (place / "was-here").exists()
    with pytest.raises(fh.ConfigError, match="runs on the clients, which import no code"):
        served(config)


def test_an_entry_point_has_a_name_of_its_own(place, monkeypatch):
    points = {"fedhello.losses": EntryPoint("mine-margins", "outside:margins", "fedhello.losses")}
    monkeypatch.setattr(
        registry, "entry_points", lambda group, name: [p for g, p in points.items() if g == group and p.name == name]
    )
    assert fh.load_config("tiny.yaml", {"train.loss": "mine-margins"}).train.loss == "mine-margins"
    z = torch.zeros(2, 3)
    assert LOSSES.call("mine-margins", z, torch.tensor([0, 1])).shape == (2,)


def test_what_stands_in_for_a_method_is_for_one_folder_alone(place):
    import outside

    method = dataclasses.replace(outside.unweighted, name="mine")
    words = {"train.rounds": 1, "method": {"name": "rgd-hla"}}
    first = fh.run("tiny.yaml", {**words, "run.name": "a"}, method=method)

    def wider(context, *, width: int = 1):
        return method.allocate(context)

    fh.METHODS.pop("mine")
    other = fh.Method("mine", "the same, with an option", "-", wider)
    second = fh.run("tiny.yaml", {**words, "run.name": "b"}, method=other)
    forget()
    found = [fh.load_run(run.path) for run in (first, second)]
    assert [one.config.method.options.get("width") for one in found] == [None, 1]
    assert all(one.evaluate().test.accuracy == one.summary.final for one in found)
    assert "mine" not in fh.METHODS
    with pytest.raises(fh.ConfigError, match=r"expected method\.name to be one of"):
        fh.prepare(found[0].config)
