"""The library as people use it: on a model of three blocks and 80 texts."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

import fedhello as fh
from fedhello.runs.folder import RunFolder

OWN = '''
import fedhello as fh
from fedhello.allocation.planner import fit

def topmost(context: fh.AllocationContext) -> fh.Allocation:
    """Train the last block, whatever the budget."""
    return fit(context, [0.0] * (context.federation.num_blocks - 1) + [1.0])

mine = fh.Method(name="mine", summary="the last block alone", paper="-", allocate=topmost)
'''


def test_importing_loads_nothing_heavy_and_gives_the_public_names_alone():
    code = "import sys, fedhello; print(sorted({'torch', 'transformers', 'numpy', 'rich'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
    for name in fh.__all__:
        found = getattr(fh, name)
        assert found.__doc__ or name == "METHODS", name
    with pytest.raises(AttributeError, match="no attribute 'torch'"):
        fh.torch  # noqa: B018
    assert dir(fh) == sorted(fh.__all__)


def test_callbacks_watch_stop_and_record(place):
    class Watching(fh.Callback):
        seen = ()

        def on_start(self, session, start):
            self.seen += (("start", start.state.round),)

        def on_round(self, state, record):
            self.seen += ((state.round, record.report.round),)

        def on_end(self, summary):
            self.seen += ((summary.status,),)

    watching = Watching()
    stop = fh.EarlyStopping(patience=2, metric="validation_accuracy", min_delta=1.0)  # nothing is ever so much better
    files = [fh.JsonLinesFile("rounds.jsonl"), fh.CsvFile("rounds.csv")]
    run = fh.run("tiny.yaml", {"run.name": "b", "train.rounds": 5}, callbacks=[watching, stop, *files])
    assert watching.seen == (("start", 0), (1, 0), (2, 1), ("stopped",))
    assert run.summary.status == "stopped"
    assert "stopped after round 2 of 5 by EarlyStopping" in run.summary.notes
    assert [json.loads(line)["round"] for line in lines("rounds.jsonl")] == [1, 2]
    assert [line.split(",")[0] for line in lines("rounds.csv")] == ["round", "1", "2"]

    # It goes on to what it would have been.
    done = fh.resume(run.path, callbacks=[watching, *files])
    whole = fh.run("tiny.yaml", {"run.name": "c", "train.rounds": 5})
    assert (done.summary.status, done.summary.rounds) == ("finished", 5)
    assert done.summary.final == whole.summary.final
    assert adapter(done) == adapter(whole)
    assert len(lines("rounds.jsonl")) == 5
    assert len(lines("rounds.csv")) == 6
    assert fh.resume(run.path).summary == done.summary  # there is nothing left


def lines(name):
    return Path(name).read_text().splitlines()


def adapter(run):
    return (run.path / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("method", "error"),
    [
        ("on_start", ZeroDivisionError("no such number")),
        ("on_round", fh.RunFolderError("expected a folder; x is none")),  # an error of ours is the callback's, too
        ("on_end", fh.CallbackError("the callback Inner failed")),
    ],
)
def test_a_callback_that_raises_ends_the_run_in_order_with_its_name(place, method, error):
    class Broken(fh.Callback):
        pass

    def fail(self, *_):
        raise error

    setattr(Broken, method, fail)
    ended = []

    class Last(fh.Callback):
        def on_end(self, summary):
            ended.append(summary.status)

    with pytest.raises(fh.CallbackError, match=rf"Broken failed in {method}: {type(error).__name__}: {error}") as found:
        fh.run("tiny.yaml", {"run.name": "d"}, callbacks=[Last(), Broken()])
    assert found.value.__cause__ is error
    assert ended == ["finished" if method == "on_end" else "failed"]
    assert len(RunFolder(place / "runs" / "d").rounds()) == {"on_start": 0, "on_round": 1, "on_end": 2}[method]
    assert fh.resume("runs/d").summary.status == "finished"
    assert adapter(fh.load_run("runs/d")) == adapter(fh.run("tiny.yaml", {"run.name": "e"}))


def test_the_loop_by_hand_leads_to_what_the_run_does(place):
    session = fh.prepare("tiny.yaml")
    assert "tier" in str(fh.plan(session))
    start, records = fh.start(session), []
    for state, record in fh.rounds(session, start.state):
        records.append(record)
        if state.round == 1:
            break
    half = fh.save(session, state, "half", start=start, records=records)
    assert half.summary.status == "saved"
    assert half.summary.rounds == len(half.rounds) == 1
    texts = ["iron number 1", "plum number 2"]
    before = half.predict(texts)
    assert before == fh.load_run("half").predict(texts)
    *_, (last, _) = fh.rounds(session, state)
    by_hand = fh.save(session, last, "by-hand")
    whole = fh.run("tiny.yaml", {"run.name": "f"})
    assert adapter(by_hand) == adapter(whole)
    assert by_hand.summary.final == whole.summary.final
    assert half.predict(texts) == before  # the model in memory has gone on; what was saved has not
    done = fh.resume("half")
    assert adapter(done) == adapter(whole)
    differ = {"wall_seconds", "train_seconds", "evaluation_seconds", "samples_per_second", "tiers"}
    mine, its = (run.summary.model_dump(exclude=differ) for run in (done, whole))
    assert mine == its
    assert by_hand.summary.start is None
    with pytest.raises(fh.RunFolderError, match="without its start and records"):
        fh.resume("by-hand")
    for wrong in ({"records": records}, {"start": start}, {"start": start, "records": records * 2}):
        with pytest.raises(fh.ConfigError, match=r"records|start"):
            fh.save(session, last, "never", **wrong)
    assert not Path("never").exists()
    with pytest.raises(fh.RunFolderError):
        fh.save(session, last, "half")


def test_a_stop_in_the_last_round_is_an_end_and_patience_outlives_a_process(place):
    class At(fh.Callback):
        def __init__(self, last):
            self.last = last

        def on_round(self, state, record):
            return state.round == self.last

    assert fh.run("tiny.yaml", {"run.name": "i"}, callbacks=[At(2)]).summary.status == "finished"
    patient = {"patience": 3, "min_delta": 1.0}
    words = {"train.rounds": 6, "train.lr_schedule": "constant"}
    whole = fh.run("tiny.yaml", {**words, "run.name": "j"}, callbacks=[fh.EarlyStopping(**patient)])
    fh.run("tiny.yaml", {**words, "run.name": "k"}, callbacks=[fh.EarlyStopping(**patient), At(2)])
    assert fh.resume("runs/k", callbacks=[fh.EarlyStopping(**patient)]).summary.rounds == whole.summary.rounds == 3
    with pytest.raises(fh.ConfigError, match="metric one of"):
        fh.EarlyStopping(3, metric="test_accuracy")


def test_files_of_rounds_are_complete_whatever_is_scored_and_whenever_they_begin(place):
    file = fh.CsvFile("rounds.csv")
    words = {"train.rounds": 3, "train.evaluate_every": 2}
    for name in ("l", "m"):  # one object may serve two runs
        fh.run("tiny.yaml", {**words, "run.name": name}, callbacks=[file])
        table = pytest.importorskip("pandas").read_csv("rounds.csv")
        assert table["round"].tolist() == [1, 2, 3]
        assert table["test/accuracy"].notna().tolist() == [False, True, True]


def test_clients_own_heads_are_those_asked_for_whatever_was_asked_before(place):
    run = fh.run("tiny.yaml", {"run.name": "n", "model.head": "local", "train.clients_per_round": 4})
    texts, fresh = ["iron number 1"], fh.load_run(run.path)
    right = {k: fresh.predict(texts, client=k)[0].probability for k in (0, 3)}
    assert right[0] != right[3]
    for k in (0, 3, 0):
        assert run.predict(texts, client=k)[0].probability == right[k]
        run.evaluate()


def test_a_loop_by_hand_sees_updates_and_changes_the_learning_rate(place):
    def seen_of(rate=None):
        session, seen = fh.prepare("tiny.yaml", {"train.rounds": 3, "train.lr_schedule": "constant"}), []
        for _, record in fh.rounds(session, watch=seen.append):
            came = [update.client for update in seen if update.round == record.report.round]
            assert came == [client.client for client in record.report.clients]
            if record.report.round == 1 and rate is not None:
                session.engine.settings = replace(session.engine.settings, lr=rate)
        return seen

    def values(seen, t):
        return [u.tensors[name] for u in seen if u.round == t for name in sorted(u.tensors)]

    same, slower = seen_of(), seen_of(1e-9)
    equal = [all(map(torch.equal, values(same, t), values(slower, t))) for t in range(3)]
    assert equal == [True, True, False]


def test_a_loop_by_hand_keeps_the_clients_own_heads_and_goes_on_with_them(place):
    words = {"run.name": "whole", "model.head": "local", "train.clients_per_round": 4, "train.rounds": 2}
    whole = fh.run("tiny.yaml", words)
    session = fh.prepare("tiny.yaml", words | {"run.name": "half"})
    begun = fh.start(session)
    state, record = next(fh.rounds(session, begun.state))
    assert begun.state.personal_heads == {}
    assert sorted(state.personal_heads) == [0, 1, 2, 3]
    half = fh.save(session, state, "runs/half", start=begun, records=[record])
    assert half.predict(["iron number 1"], client=0)
    again = fh.resume("runs/half")
    assert [again.summary.start, again.summary.final] == [whole.summary.start, whole.summary.final]
    for file in sorted((whole.path / "heads").iterdir()):
        assert file.read_bytes() == (again.path / "heads" / file.name).read_bytes()


def test_a_method_from_a_file_is_known_by_name(place, call):
    (place / "own.py").write_text(OWN)
    try:
        run = fh.run("tiny.yaml", {"run.name": "g", "method": {"name": "own:mine"}})
        assert {client.blocks for record in run.rounds for client in record.report.clients} == {(2,)}
        assert fh.load_run(run.path).config.method.name == "own:mine"
        code, _, err = call(place, "run", "tiny.yaml", "method.name=own:mine", "run.name=h", "--quiet")
        assert code == 0, err
        found = fh.compare("tiny.yaml", ["own:mine", "full"], [0], out="side-by-side", baselines=False)
        assert list(found.runs) == ["own-mine", "full"]
        for name, sentence in [("own:other", "no attribute 'other'"), ("none:mine", "No module named 'none'"),
                               ("own:topmost", "found a function"), ("nobody", "expected method.name")]:  # fmt: skip
            with pytest.raises(fh.ConfigError, match=sentence):
                fh.load_config("tiny.yaml", {"method": {"name": name}})
    finally:
        fh.METHODS.pop("own:mine", None)
        sys.modules.pop("own", None)


def test_reading_somebodys_run_runs_none_of_their_code(place, call):
    signature = "(context: fh.AllocationContext"
    (place / "own.py").write_text(OWN.replace(f"{signature})", f"{signature}, *, deep: int = 3)"))
    try:
        run = fh.run("tiny.yaml", {"run.name": "g", "method": {"name": "own:mine", "deep": 4}})
        final = run.summary.final
        (place / "own.py").write_text("open('was-here', 'w').close()\nraise ValueError('no')\n")
        fh.METHODS.pop("own:mine")
        sys.modules.pop("own")
        read = fh.load_run(run.path)
        assert read.config.method.options["deep"] == 4
        assert read.predict(["apple number 1"])[0].label
        assert read.evaluate()["test"]["accuracy"] == final
        assert call(place, "report", run.path)[0] == 0
        assert not (place / "was-here").exists()
        with pytest.raises(fh.ConfigError, match="ValueError: no"):
            fh.resume(run.path, {"run.keep": 1})
    finally:
        fh.METHODS.pop("own:mine", None)
        sys.modules.pop("own", None)


def test_a_name_that_came_over_a_network_is_never_imported(place):
    from fedhello.config.load import parse_config
    from fedhello.network.server import served

    (place / "evil.py").write_text("open('was-here', 'w').close()\nmine = 1\n")
    with pytest.raises(fh.ConfigError, match=r"expected method\.name"):
        parse_config({"method": {"name": "evil:mine"}})
    assert not (place / "was-here").exists()
    (place / "own.py").write_text(
        OWN + "def local():\n    return {}\nlocally = fh.Method('l', '-', '-', topmost, local=local)\n"
    )
    try:
        assert served(fh.load_config("tiny.yaml", {"method": {"name": "own:mine"}})).method.name == "own:mine"
        with pytest.raises(fh.ConfigError, match="clients import no code that a server names; own:locally has local="):
            served(fh.load_config("tiny.yaml", {"method": {"name": "own:locally"}}))
    finally:
        fh.METHODS.pop("own:locally", None)
        fh.METHODS.pop("own:mine", None)
        sys.modules.pop("own", None)


def test_methods_of_ones_own_never_take_the_name_of_another():
    with pytest.raises(fh.ConfigError, match="expected a new name"):
        fh.register_method(fh.Method("full", "other", "-", fh.METHODS["gd-hla"].allocate))
    assert fh.register_method(fh.METHODS["full"]) is fh.METHODS["full"]


def rows_of(file="texts.csv"):
    header, *lines_ = lines(file)
    return [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines_]


class Torchlike:
    """What ``torch.utils.data.Dataset`` asks for: a length, and items."""

    def __init__(self, rows):
        self.rows = [(row["text"], row["label"]) for row in rows]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i]


def as_columns(rows):
    return {name: [row[name] for row in rows] for name in ("text", "label")}


def as_pandas(rows):
    return pytest.importorskip("pandas").DataFrame(rows)


def as_hugging_face(rows):
    return pytest.importorskip("datasets").Dataset.from_list(rows)


@pytest.mark.parametrize("form", [list, as_columns, Torchlike, as_pandas, as_hugging_face])
def test_data_in_memory_is_the_data_of_a_file(place, form):
    named = fh.prepare("tiny.yaml")
    held = fh.prepare("tiny.yaml", data=form(rows_of()))
    assert held.config["data"]["name"] == "memory"
    assert (held.histogram == named.histogram).all()
    for part in ("validation", "test", "proxy"):
        mine, its = getattr(held.server, part), getattr(named.server, part)
        assert [list(row) for row in mine.tokens] == [list(row) for row in its.tokens]
        assert (mine.labels == its.labels).all()


def test_each_clients_data_may_be_an_object_of_its_own(place):
    rows = rows_of()
    clients, test = [rows[0:60:3], Torchlike(rows[1:60:3]), as_columns(rows[2:60:3])], rows[60:]
    run = fh.run(
        "tiny.yaml",
        {"run.name": "own", "data.proxy": 0, "method.scores": "clients", "train.lr_schedule": "constant"},
        data=clients,
        test=test,
    )
    session = run.session
    assert session.histogram.sum(axis=1).tolist() == [
        sum(row["text"] not in held for row in part) for part in (rows[0:60:3], rows[1:60:3], rows[2:60:3])
        for held in [texts_of_the_server(session, rows)]
    ]  # fmt: skip
    assert len(session.server.test) == 20
    assert run.predict(["copper number 2"])[0].label in ("fruit", "metal")
    with pytest.raises(fh.DataError, match="which a program had in memory"):
        fh.resume(run.path, {"train.rounds": 3})
    longer = fh.resume(run.path, {"train.rounds": 3}, data=clients, test=test)
    assert (longer.summary.status, longer.summary.rounds) == ("finished", 3)
    with pytest.raises(fh.DataError, match=r"2 data sets that were handed over .* only client-0 have"):
        words = {"data.proxy": 0, "method.scores": "clients", "train.clients_per_round": 1}
        fh.prepare("tiny.yaml", words, data=[rows, rows[:20]])
    with pytest.raises(fh.DataError, match="pair of input and label"):
        fh.prepare("tiny.yaml", data=[[1, 2, 3], [4]])
    with pytest.raises(fh.DataError, match="expected at least one sample in the data of client-1"):
        fh.prepare("tiny.yaml", data=[rows, []])
    with pytest.raises(fh.DataError, match="columns of one length"):
        fh.prepare("tiny.yaml", data={"text": ["a"], "label": ["b", "c"]})
    with pytest.raises(fh.DataError, match="have a length and items"):
        fh.prepare("tiny.yaml", data=iter(rows))
    with pytest.raises(fh.ConfigError, match="expected no data"):
        fh.resume(fh.run("tiny.yaml", {"run.name": "named"}).path, data=rows)
    with pytest.raises(fh.ConfigError, match="expected data beside validation"):
        fh.prepare("tiny.yaml", test=rows)


def texts_of_the_server(session, rows):
    """The texts that were drawn from the clients' for validation: those that no client has."""
    held = {tuple(row) for part in ("validation", "proxy") for row in getattr(session.server, part).tokens}
    tokens = {row["text"]: tuple(session.model.tokenizer(row["text"])["input_ids"]) for row in rows}
    return {text for text, row in tokens.items() if row in held}


def classifier(labels=2, name="tiny"):
    found = transformers.AutoModelForSequenceClassification.from_pretrained(
        name, num_labels=labels, ignore_mismatched_sizes=True
    )
    return found, transformers.AutoTokenizer.from_pretrained(name)


def test_a_model_in_memory_is_the_model_of_a_folder(place):
    named = fh.run("tiny.yaml", {"run.name": "named"})
    model, tokenizer = classifier()
    run = fh.run("tiny.yaml", {"run.name": "held"}, model=model, processor=tokenizer)
    assert run.config.model.name == "memory"
    assert adapter(run) == adapter(named)
    texts = ["plum number 4", "zinc number 9"]
    right = [one.probability for one in named.predict(texts)]
    assert [one.probability for one in run.predict(texts)] == right
    assert run.evaluate()["test"]["accuracy"] == named.summary.final

    with pytest.raises(fh.ModelError, match="which a program had in memory"):
        fh.load_run(run.path).predict(texts)
    model, tokenizer = classifier()
    data = rows_of()
    read = fh.load_run(run.path, model=model, processor=tokenizer)
    assert [one.probability for one in read.predict(texts)] == right
    assert [one.probability for one in read.predict(texts)] == right
    assert read.evaluate()["test"]["accuracy"] == named.summary.final
    with pytest.raises(fh.ConfigError, match="expected no data"):
        fh.load_run(run.path, data=data)
    where = json.loads((run.export("exported") / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert where == "tiny"  # no path of this machine
    with pytest.raises(fh.ModelError, match="expected the tokenizer"):
        fh.prepare("tiny.yaml", model=classifier()[0])
    with pytest.raises(fh.ConfigError, match="expected a model beside the processor"):
        fh.prepare("tiny.yaml", processor=tokenizer)
    with pytest.raises(fh.ModelError, match="expected a model without adapters"):
        fh.prepare("tiny.yaml", model=model, processor=tokenizer)


def test_a_model_without_a_head_is_pooled_as_asked_for(place):
    model, tokenizer = transformers.AutoModel.from_pretrained("tiny"), classifier()[1]
    with pytest.raises(fh.ModelError, match=r"expected model\.pooling"):
        fh.prepare("tiny.yaml", model=model, processor=tokenizer)
    held = fh.run("tiny.yaml", {"run.name": "p", "model.pooling": "mean"}, model=model, processor=tokenizer)
    named = fh.run("tiny.yaml", {"run.name": "q", "model.pooling": "mean"})
    assert adapter(held) == adapter(named)
    with pytest.raises(fh.ModelError, match="expected 2 outputs"):
        fh.prepare("tiny.yaml", model=classifier(labels=5)[0], processor=tokenizer)
    with pytest.raises(fh.ModelError, match="expected a model of transformers"):
        fh.prepare("tiny.yaml", model=torch.nn.Linear(2, 2), processor=tokenizer)


def test_a_method_object_needs_no_name_in_a_table(place):
    def all_blocks(context, *, power: int = 1):
        return fh.METHODS["full"].bind().allocate(context)

    mine = fh.Method("of: this test", "the full thing", "-", all_blocks)
    configured = fh.load_config("tiny.yaml", {"method": {"name": "fed-hello", "warmup": 1}})
    try:
        # The options of another method are not its own; what an override says is.
        section = fh.prepare(configured, {"method.power": 2}, method=mine).config["method"]
        assert (section["name"], section["power"], "warmup" in section) == ("of: this test", 2, False)
        kept = fh.load_config(configured, {"method": {"name": mine.name, "power": 3}})
        assert fh.prepare(kept, method=mine).config["method"]["power"] == 3
    finally:
        fh.METHODS.pop("of: this test")


def test_callbacks_are_a_list_of_such_before_anything_is_loaded(place):
    class Own(fh.Callback):
        pass

    for wrong, found in ((Own(), "found a Own"), ([Own], "found Own"), ([print], "found a builtin")):
        for begin in (lambda wrong: fh.run("absent.yaml", callbacks=wrong), lambda w: fh.resume("absent", callbacks=w)):
            with pytest.raises(fh.ConfigError, match=found):
                begin(wrong)
