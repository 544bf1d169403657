"""Sinks against made-up rounds: with small stand-ins for their packages, and with the packages where they are."""

import importlib.machinery
import json
import os
import sys
import tomllib
import types
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest

from fedhello.config.load import dump_config, load_config, parse_config
from fedhello.config.schema import RunConfig
from fedhello.data.digest import NOT_KNOWN
from fedhello.errors import ConfigError, MissingExtraError
from fedhello.formatting import flatten
from fedhello.model.evaluation import Evaluation
from fedhello.notes import show_notes
from fedhello.runs import tracking
from fedhello.runs.callbacks import Callback
from fedhello.runs.folder import RunFolder
from fedhello.runs.loop import RoundRecord, RunStart
from fedhello.runs.progress import Progress
from fedhello.runs.runner import run_session
from fedhello.runs.summary import Summary, TierSummary
from fedhello.runs.tracking import (
    SINKS,
    Sink,
    Tracker,
    check_installed,
    headline,
    numbers,
    round_metrics,
    without_secrets,
)
from fedhello.session import RunSettings
from fedhello.state import ClientReport, RoundReport, RunState
from fedhello.types import Adapter

TOOLS = ["tensorboard", "wandb", "mlflow"]
SUMMARY = Summary(
    status="finished", method="full", seed=3, rounds=2, metric="test accuracy", start=None, final=0.75,
    mean_last_5=None, best_on_validation=None, bytes_up=7, bytes_down=8, wall_seconds=1.5, train_seconds=0.5,
    labels=("a",), tiers=(TierSummary(budget={"blocks": 1}, bytes_up=5.0),),
)  # fmt: skip
HEADLINE = {
    "format": 1, "seed": 3, "rounds": 2, "final": 0.75, "bytes_up": 7, "bytes_down": 8, "failed_attempts": 0,
    "wall_seconds": 1.5, "train_seconds": 0.5, "evaluation_seconds": 0, "samples": 0, "personal_heads": 0,
}  # fmt: skip
HEADLINE = {f"summary/{name}": value for name, value in HEADLINE.items()}
VARIABLES = [
    *("WANDB_ERROR_REPORTING", "WANDB_MODE", "WANDB_PROJECT"),
    *("MLFLOW_DISABLE_TELEMETRY", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"),
]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Forget the tools' variables, and whatever a test or a sink sets."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def client(k, **metrics):
    return ClientReport(
        client=k,
        tier=0,
        blocks=(0,),
        policies=(),
        samples=10 + k,
        metrics=metrics,
        bytes_down=200,
        bytes_up=100 + k,
    )


def made_up(t=0, loss=0.5):
    """Return a round of two clients on three blocks."""
    record = RoundReport(
        round=t,
        clients=(client(1, loss=0.4, seconds=2.0), client(3, loss=0.6, seconds=1.0, peak_bytes=7.0)),
        contributors=(2, 0, 1),
        scores=None,
        scored=True,
        over_budget=(3,),
    )
    return RoundRecord(record, loss, Evaluation(0.5, 1.5, 20), Evaluation(0.25, 1.25, 40), 3.0, 0.5)


# what is recorded


def test_nested_values_are_named_by_their_path():
    assert flatten({"a": {"b": 1, "c": [2, {"d": "x"}]}, "e": None, "f": []}, ".") == {
        "a.b": 1,
        "a.c.0": 2,
        "a.c.1.d": "x",
        "e": None,
    }


def test_only_numbers_are_metrics_and_truth_is_one():
    assert numbers({"a": True, "b": 3, "c": "4", "d": None, "e": [0.5]}) == {"a": 1.0, "b": 3.0, "e/0": 0.5}


def test_a_round_in_numbers():
    assert round_metrics(made_up()) == {
        "contributors/0": 2,
        "contributors/1": 0,
        "contributors/2": 1,
        "scored": 1,
        "over_budget": 1,
        "rejections": 0,
        "attempt": 0,
        "flags": 0,
        "score_bytes_down": 0,
        "score_bytes_up": 0,
        "train_loss": 0.5,
        "validation/accuracy": 0.5,
        "validation/loss": 1.5,
        "validation/samples": 20,
        "test/accuracy": 0.25,
        "test/loss": 1.25,
        "test/samples": 40,
        "seconds": 3.0,
        "evaluation_seconds": 0.5,
        "bytes_up": 204,
        "bytes_down": 400,
        "samples": 24,
        "clients/count": 2,
        "clients/loss/mean": pytest.approx(0.5),
        "clients/loss/largest": 0.6,
        "clients/peak_bytes/mean": 7.0,
        "clients/peak_bytes/largest": 7.0,
        "clients/seconds/mean": 1.5,
        "clients/seconds/largest": 2.0,
    }


def test_scores_are_recorded_block_by_block():
    result = made_up()
    metrics = round_metrics(replace(result, report=replace(result.report, scores=(0.1, 0.2, 0.3))))
    assert [metrics[f"scores/{block}"] for block in range(3)] == [0.1, 0.2, 0.3]


def test_a_round_that_was_not_scored_has_no_accuracy():
    metrics, unscored = round_metrics(made_up()), replace(made_up(), validation=None, test=None)
    assert metrics.keys() - round_metrics(unscored).keys() == {
        f"{part}/{name}" for part in ("validation", "test") for name in ("accuracy", "loss", "samples")
    }
    assert round_metrics(unscored).items() <= metrics.items()


def test_a_round_in_which_nobody_took_part():
    result = made_up()
    empty = replace(result.report, clients=(), contributors=(0, 0, 0), over_budget=())
    metrics = round_metrics(replace(result, report=empty))
    assert (metrics["clients/count"], metrics["bytes_up"], metrics["over_budget"]) == (0, 0, 0)


def test_the_numbers_are_those_of_rounds_jsonl(tmp_path):
    folder = RunFolder(tmp_path)
    folder.add_round(made_up(4))
    entry = json.loads((tmp_path / "rounds.jsonl").read_text())
    metrics = round_metrics(made_up(4))
    for key in ("train_loss", "validation", "test", "seconds", "evaluation_seconds", "contributors", "scored"):
        for name, value in numbers({key: entry[key]}).items():
            assert metrics[name] == value, name
    assert metrics["bytes_up"] == sum(report["bytes_up"] for report in entry["clients"])
    assert metrics["over_budget"] == len(entry["over_budget"])


def test_the_headline_leaves_tiers_and_words_out():
    assert headline(SUMMARY) == HEADLINE


# the key run.track


def test_jsonl_is_always_on():
    assert load_config().run.track == ["jsonl"]
    assert parse_config({"run": {"track": []}}).run.track == ["jsonl"]
    config = load_config(None, ["run.track=[wandb, tensorboard, wandb]"])
    assert config.run.track == ["jsonl", "wandb", "tensorboard"]
    assert "track:\n  - jsonl\n  - wandb\n  - tensorboard\n" in dump_config(config)


def test_an_unknown_sink_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"run\.track\.1.*'jsonl', 'tensorboard', 'wandb' or 'mlflow'.*'comet'"):
        load_config(None, ["run.track=[wandb, comet]"])


def test_every_sink_has_its_key_and_its_extra():
    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    (known,) = get_args(RunConfig.model_fields["track"].annotation)
    assert list(get_args(known)) == ["jsonl", *SINKS] == ["jsonl", *TOOLS]
    for name in SINKS:
        assert extras[name][0].startswith(f"{name}>=")


# the tools, as small stand-ins that write down what they are told


class Told(list):
    """What a stand-in was told: (what, how) in order."""

    def what(self, name):
        return [how for kind, how in self if kind == name]


def stand_in(monkeypatch, name, **content):
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, origin="a test")
    vars(module).update(content)
    monkeypatch.setitem(sys.modules, name, module)


def tensorboard_stand_in(told):
    class SummaryWriter:
        def __init__(self, place):
            told.append(("tb open", place))

        def add_text(self, name, text):
            told.append(("tb text", (name, text)))

        def add_scalar(self, name, value, step):
            told.append(("tb scalar", (step, name, value)))

        def add_hparams(self, settings, metrics, run_name):
            assert all(isinstance(value, (bool, int, float, str)) for value in settings.values())
            told.append(("tb hparams", (settings, metrics, run_name)))

        def flush(self):
            told.append(("tb flush", None))

        def close(self):
            told.append(("tb close", None))

    return SummaryWriter


def wandb_stand_in(told):
    def init(**settings):
        told.append(("wandb open", settings))
        return SimpleNamespace(
            url="https://wandb.example/me/fedhello/runs/1",
            log=lambda metrics, step: told.append(("wandb log", (step, metrics))),
            summary=SimpleNamespace(update=lambda summary: told.append(("wandb summary", summary))),
            finish=lambda exit_code: told.append(("wandb close", exit_code)),
        )

    return init


def mlflow_stand_in(told):
    class MlflowClient:
        def __init__(self, tracking_uri):
            told.append(("mlflow open", tracking_uri))

        def get_experiment_by_name(self, name):
            return SimpleNamespace(experiment_id="7") if name == "known" else None

        def create_experiment(self, name, artifact_location):
            told.append(("mlflow experiment", (name, artifact_location)))
            return "8"

        def create_run(self, experiment, run_name):
            told.append(("mlflow run", (experiment, run_name)))
            return SimpleNamespace(info=SimpleNamespace(run_id="r1"))

        def log_batch(self, run, metrics=(), params=()):
            assert run == "r1"
            assert len(params) <= 100
            told.extend(("mlflow metric", (step, key, value)) for key, value, _, step in metrics)
            told.extend(("mlflow param", param) for param in params)

        def log_dict(self, run, value, name):
            told.append(("mlflow dict", (value, name)))

        def set_terminated(self, run, status):
            told.append(("mlflow close", status))

    return MlflowClient


@pytest.fixture
def told(monkeypatch):
    """Put stand-ins for all three packages in place, and return what they are told."""
    told = Told()
    stand_in(monkeypatch, "tensorboard")
    stand_in(monkeypatch, "torch.utils.tensorboard", SummaryWriter=tensorboard_stand_in(told))
    stand_in(monkeypatch, "wandb", init=wandb_stand_in(told), Settings=dict)
    stand_in(monkeypatch, "mlflow", MlflowClient=mlflow_stand_in(told))
    stand_in(monkeypatch, "mlflow.entities", Metric=lambda *values: values, Param=lambda *values: values)
    return told


def opened(name, folder, config=None):
    return SINKS[name](folder, load_config().model_dump(mode="json") if config is None else config)


def test_tensorboard_gets_scalars_texts_and_hyperparameters(told, tmp_path):
    sink = opened("tensorboard", tmp_path, {"train": {"lr": 0.1, "name": None}})
    sink.record(3, {"test/accuracy": 0.5})
    assert told[-1] == ("tb flush", None), "a killed run leaves its rounds"
    sink.finish(SUMMARY)
    assert told.what("tb open") == [sink.place] == [str(tmp_path / "tensorboard")]
    assert told.what("tb scalar") == [(3, "test/accuracy", 0.5)]
    assert [name for name, _ in told.what("tb text")] == ["config", "summary"]
    assert '"lr": 0.1' in told.what("tb text")[0][1]
    assert told.what("tb hparams") == [({"train.lr": 0.1}, HEADLINE, ".")]
    assert told[-1] == ("tb close", None)


def test_wandb_gets_configuration_rounds_and_summary(told, tmp_path):
    sink = opened("wandb", tmp_path / "mine")
    sink.record(3, {"test/accuracy": 0.5})
    sink.finish(SUMMARY)
    (settings,) = told.what("wandb open")
    assert (settings["project"], settings["name"], settings["dir"]) == ("fedhello", "mine", str(tmp_path / "mine"))
    assert settings["config"]["train"]["rounds"] == 20
    assert "mode" not in settings, "WANDB_MODE decides"
    assert settings["reinit"] == "create_new"
    assert settings["settings"]["silent"], "it would write to standard output"
    assert 0 < settings["settings"]["finish_timeout"] <= 300, "the end of a run waits for it"
    assert sink.place == "https://wandb.example/me/fedhello/runs/1"
    assert told.what("wandb log") == [(3, {"test/accuracy": 0.5})]
    assert told.what("wandb summary") == [{"summary": SUMMARY.to_dict()}]
    assert told.what("wandb close") == [0]
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"


def test_wandb_project_is_the_users(told, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "ours")
    opened("wandb", tmp_path).finish(SUMMARY.but(status="interrupted"))
    assert told.what("wandb open")[0]["project"] == "ours"
    assert told.what("wandb close") == [1]


def test_mlflow_without_a_server_keeps_everything_in_the_folder(told, tmp_path):
    sink = opened("mlflow", tmp_path)
    sink.record(3, {"test/accuracy": 0.5})
    sink.finish(SUMMARY)
    assert told.what("mlflow open") == [sink.place] == [f"sqlite:///{tmp_path}/mlruns/mlflow.db"]
    assert (tmp_path / "mlruns").is_dir()
    assert told.what("mlflow experiment") == [("fedhello", (tmp_path / "mlruns" / "artifacts").as_uri())]
    assert told.what("mlflow run") == [("8", tmp_path.name)]
    assert ("train.lr", "auto") in told.what("mlflow param")
    assert told.what("mlflow metric") == [
        (3, "test/accuracy", 0.5),
        *((0, name, value) for name, value in HEADLINE.items()),
    ]
    assert told.what("mlflow dict") == [(SUMMARY.to_dict(), "summary.json")]
    assert told.what("mlflow close") == ["FINISHED"]
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert "MLFLOW_TRACKING_URI" not in os.environ, "the next run in this process has its own folder"


def test_mlflow_goes_where_the_user_says(told, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "known")
    opened("mlflow", tmp_path).finish(SUMMARY.but(status="failed"))
    assert told.what("mlflow open") == ["http://host:5000"]
    assert told.what("mlflow experiment") == []
    assert told.what("mlflow run")[0][0] == "7"
    assert told.what("mlflow close") == ["FAILED"]
    assert not (tmp_path / "mlruns").exists()


def test_mlflow_takes_many_parameters_in_batches(told, tmp_path):
    opened("mlflow", tmp_path, {"tiers": list(range(250))})
    assert len(told.what("mlflow param")) == 250


# the tools themselves, where they are installed


def test_real_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sink = opened("tensorboard", tmp_path)
    sink.record(0, {"test/accuracy": 0.25})
    sink.record(1, round_metrics(made_up(loss=0.125)) | {"test/accuracy": 0.5})
    sink.finish(SUMMARY)
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [(event.step, event.value) for event in found.Scalars("test/accuracy")] == [(0, 0.25), (1, 0.5)]
    assert [event.value for event in found.Scalars("train_loss")] == [0.125]
    assert [event.value for event in found.Scalars("summary/final")] == [0.75]
    assert {"config/text_summary", "summary/text_summary"} <= set(found.Tags()["tensors"])


@pytest.mark.filterwarnings("default")
def test_real_wandb_offline(tmp_path, monkeypatch, capfd):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", "f00d" * 10)
    for loss in (0.5, 0.125):  # two runs in one process
        folder = tmp_path / f"run{loss}"
        folder.mkdir()
        sink = opened("wandb", folder)
        sink.record(1, round_metrics(made_up(loss=loss)))
        sink.finish(SUMMARY)
        (file,) = folder.glob("wandb/offline-run-*/*.wandb")
        assert b"clients/seconds/largest" in file.read_bytes()
        assert sink.place == str(folder / "wandb")
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"f00d" * 10 not in path.read_bytes(), path
    assert capfd.readouterr().out == ""


@pytest.mark.filterwarnings("default")
def test_real_mlflow_in_the_folder(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    for loss in (0.5, 0.125):  # two runs in one process
        folder = tmp_path / f"run{loss}"
        folder.mkdir()
        sink = opened("mlflow", folder)
        sink.record(1, round_metrics(made_up(loss=loss)))
        sink.finish(SUMMARY)
        client = mlflow.MlflowClient(f"sqlite:///{folder}/mlruns/mlflow.db")
        (run,) = client.search_runs([client.get_experiment_by_name("fedhello").experiment_id])
        assert run.info.status == "FINISHED"
        assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "train_loss")] == [(1, loss)]
        assert run.data.params["method.name"] == "fed-hello"
        assert [json.loads(file.read_text()) for file in folder.rglob("summary.json")] == [SUMMARY.to_dict()]


# packages that are missing


@pytest.fixture
def missing(monkeypatch):
    """Take the three packages away."""
    for name in TOOLS:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize("name", TOOLS)
def test_a_missing_package_is_named_with_its_command(missing, name):
    with pytest.raises(MissingExtraError, match=rf"^run\.track names {name}, .*: pip install 'fedhello\[{name}\]'$"):
        check_installed(["jsonl", name])


def test_jsonl_needs_no_package(missing):
    check_installed(["jsonl"])


def test_a_folder_of_that_name_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "wandb").mkdir()
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(MissingExtraError, match="wandb"):
        check_installed(["wandb"])


def test_installed_packages_are_accepted(told):
    check_installed(["jsonl", *TOOLS])


# sinks that fail


@pytest.fixture
def sinks(monkeypatch):
    """Replace all sinks by ones that write down what they get and fail where a test says so: {name: where}."""
    got, fail = Told(), {}

    def opener(name):
        def attempt(where, what):
            if fail.get(name) == where:
                raise ConnectionError(f"no\n route to http://me:hunter2@host/ ({where})")
            got.append((name, what))

        def open_it(folder, config):
            attempt("open", ("open", config["run"]["seed"]))
            return Sink(
                f"https://me:hunter2@{name}",
                record=lambda done, metrics: attempt(f"round {done}", (done, metrics["test/accuracy"])),
                finish=lambda summary: attempt("finish", ("finish", summary.status)),
            )

        return open_it

    monkeypatch.setattr(tracking, "SINKS", {name: opener(name) for name in TOOLS})
    monkeypatch.setattr("fedhello.runs.tracking.check_installed", lambda names: None)
    monkeypatch.setattr("fedhello.runs.runner.check_installed", lambda names: None)
    return SimpleNamespace(got=got, fail=fail)


BEGINNING = RunStart(RunState(0, Adapter({}, {})), None, Evaluation(0.1, 2.0, 20), Evaluation(0.2, 2.0, 40))
WHOLE = [("open", 0), (0, 0.2), (1, 0.25), (2, 0.25), ("finish", "finished")]


class MadeUpModel:
    def write(self, tensors):
        pass


@dataclass(frozen=True)
class MadeUpSession:
    """As much of a session as a run without training needs."""

    settings: RunSettings
    config: object = field(default_factory=lambda: {"run": {"seed": 0}})
    config_yaml: str = ""
    notes: tuple[str, ...] = ("of the session",)
    labels: tuple[str, ...] = ("a", "b")
    tier_of: tuple[int, ...] = (0,)
    histogram: object = field(default_factory=lambda: np.ones((1, 2), dtype=int))
    model: object = field(default_factory=MadeUpModel)
    federation: object = None
    engine: object = field(default_factory=lambda: SimpleNamespace(happened=()))
    server: object = field(default_factory=lambda: SimpleNamespace(questions=(), domains={}))
    roster: object = ()
    private: object = None
    digest: object = NOT_KNOWN
    initial: object = field(default_factory=dict)
    method: object = field(default_factory=lambda: SimpleNamespace(models=lambda state, _: {"": state.adapter}))


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Play made-up rounds into a real folder, as an entry point does; return the summary and the folder."""
    show_notes()

    def summarise(session, beginning, results, state, wall_seconds, status):
        return SUMMARY.but(status=status, rounds=len(results), notes=session.notes)

    def go(track, observers=(), rounds=None):
        played = iter([made_up(0), made_up(1)]) if rounds is None else rounds
        monkeypatch.setattr("fedhello.runs.folder.save_adapter", lambda model, folder: folder.mkdir())
        monkeypatch.setattr("fedhello.runs.runner.begin", lambda _: Progress(BEGINNING, (), BEGINNING.state))
        monkeypatch.setattr("fedhello.runs.runner.identity_of", lambda session: {"model": {"weights": "digest"}})
        monkeypatch.setattr("fedhello.runs.runner.rounds", lambda session, state: ((state, r) for r in played))
        monkeypatch.setattr("fedhello.runs.runner.summarise", summarise)
        folder = RunFolder(tmp_path / "run")
        settings = RunSettings(seed=0, rounds=20, track=tuple(track))
        return run_session(MadeUpSession(settings), folder, observers).to_dict(), folder

    return go


def test_every_sink_gets_the_whole_run(sinks, run, capsys):
    summary, folder = run(TOOLS)
    for name in TOOLS:
        assert sinks.got.what(name) == WHOLE
    assert [record.report.round for record in folder.rounds()] == [0, 1]
    assert capsys.readouterr().err == ""
    assert summary["notes"] == ["of the session", *(f"tracking with {name}: https://…@{name}" for name in TOOLS)]


def test_without_sinks_nothing_is_told_and_rounds_jsonl_is_written(sinks, run):
    summary, folder = run([])
    assert (sinks.got, summary["notes"]) == ([], ["of the session"])
    assert len(folder.rounds()) == 2


@pytest.mark.parametrize(
    ("where", "kept"), [("open", 0), ("round 0", 1), ("round 1", 2), ("round 2", 3), ("finish", 4)]
)
def test_a_sink_that_fails_is_said_once_and_the_run_goes_on(sinks, run, capsys, where, kept):
    sinks.fail["wandb"] = where
    summary, folder = run(TOOLS)
    assert (summary["status"], summary["rounds"], len(folder.rounds())) == ("finished", 2, 2)
    assert folder.summary().status == "finished"
    assert sinks.got.what("tensorboard") == sinks.got.what("mlflow") == WHOLE
    assert sinks.got.what("wandb") == WHOLE[:kept], "it is left alone once it has failed"
    line = (
        "note: tracking with wandb failed and has stopped; the run continues, and rounds.jsonl holds every round. "
        f"ConnectionError: no route to http://…@host/ ({where})\n"
    )
    assert capsys.readouterr().err == line
    assert (folder.path / "log.txt").read_text() == line


def test_a_run_that_fails_is_still_closed_in_the_sinks(sinks, run):
    def broken():
        yield made_up(0)
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        run(["wandb"], rounds=broken())
    assert sinks.got.what("wandb") == [*WHOLE[:3], ("finish", "failed")]


def test_sinks_open_before_the_display_and_close_after_it(sinks, run):
    class Display(Callback):
        def on_start(self, session, start):
            sinks.got.append(("display", "start"))
            assert session.notes[-1].startswith("tracking with wandb")

        def on_end(self, summary):
            sinks.got.append(("display", "end"))

    run(["wandb"], [Display()])
    order = [what if kind == "display" else what[0] for kind, what in sinks.got]
    assert order == ["open", 0, "start", 1, 2, "end", "finish"]


def test_ctrl_c_while_a_sink_opens_ends_the_run_in_order(sinks, run, monkeypatch):
    def impatient(folder, config):
        raise KeyboardInterrupt

    monkeypatch.setitem(tracking.SINKS, "wandb", impatient)
    summary, folder = run(TOOLS)
    assert (summary["status"], summary["rounds"]) == ("interrupted", 0)
    assert folder.summary().status == "interrupted"
    assert sinks.got.what("tensorboard") == [("open", 0), ("finish", "interrupted")]
    assert sinks.got.what("mlflow") == []


@pytest.mark.parametrize("name", TOOLS)
def test_a_missing_package_is_found_before_anything_is_trained_or_written(missing, monkeypatch, tmp_path, name):
    started = []
    monkeypatch.setattr("fedhello.runs.runner.begin", started.append)
    with pytest.raises(MissingExtraError):
        run_session(MadeUpSession(RunSettings(seed=0, rounds=1, track=(name,))), RunFolder(tmp_path / "run"))
    assert (started, list(tmp_path.iterdir())) == ([], [])


# secrets


def test_secrets_are_taken_out():
    environment = {"WANDB_API_KEY": "k123456", "HF_TOKEN": "t123456", "mlflow_tracking_password": "p@ss/word", "A": "z"}
    text = "at https://u:p@ss@host:1/x and sqlite:///runs/a@b with k123456, t123456, p@ss/word, z"
    assert without_secrets(text, environment) == "at https://…@host:1/x and sqlite:///runs/a@b with …, …, …, z"


def test_a_short_value_is_no_secret():
    assert without_secrets("1 of 3 rounds", {"SOME_KEY": "1"}) == "1 of 3 rounds"


@pytest.mark.parametrize("before", range(250, 310, 7))
def test_no_part_of_a_secret_is_said_where_a_long_reason_is_cut(monkeypatch, tmp_path, before):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    said = []

    def leaking(folder, config):
        raise ValueError("x" * before + "0123456789abcdef")

    monkeypatch.setattr(tracking, "SINKS", {"wandb": leaking})
    assert Tracker(["wandb"], tmp_path, said.append).open({}) == ()
    (line,) = said
    assert "0123" not in line
    assert len(line) < 500
