"""The examples on small data of the same schema, with tiny models of the same family and as many blocks."""

import contextlib
import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
import yaml
from PIL import Image
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
)

from fedhello.config.load import load_config
from fedhello.model.sources import resolve
from fedhello.setup.prepare import prepare

EXAMPLES = Path(__file__).parents[2] / "examples"
PAPERS = ("cifar100", "domainnet", "ledgar", "natural-instructions", "dolly", "imdb-helora")
OWN = ("movie-reviews", "bbc-headlines-lm", "fashion-mnist")
RNG = np.random.default_rng(0)


def image():
    file = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def cifar100(place):
    rows = [{"img": {"bytes": image(), "path": None}, "fine_label": i % 10, "coarse_label": 0} for i in range(200)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), place / "data.parquet")
    return place / "data.parquet", ["data.split=null", "data.test=0.2", "data.partition.classes_per_client=3"]


def domainnet(place):
    for part in ("train", "test"):
        with (place / f"{part}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["file", "label", "domain"])
            for i in range(120):
                (place / f"{part}{i}.png").write_bytes(image())
                writer.writerow([f"{part}{i}.png", f"class{i % 3}", ["clipart", "real", "sketch"][i % 4 % 3]])
    return place / "train.csv", [f"data.test={place / 'test.csv'}"]


def jsonl(place, rows):
    (place / "data.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return place / "data.jsonl"


def ledgar(place):
    rows = [{"text": f"clause {i} of the contract", "label": i % 12} for i in range(400)]
    return jsonl(place, rows), ["data.split=null", "data.validation=0.1", "data.test=0.2", "data.max_length=30"]


def natural_instructions(place):
    rows = [
        {"task_name": f"task{i % 5}", "id": str(i), "definition": "say it", "inputs": f"word n{i}", "targets": "it"}
        for i in range(200)
    ]
    return jsonl(place, rows), [
        "data.split=null", "data.validation=0.1", "data.test=0.2", "data.samples=200",
        "data.held_out_samples=null",
    ]  # fmt: skip


def dolly(place):
    rows = [
        {"instruction": f"say n{i}", "context": "", "response": "it", "category": ["open_qa", "summarization"][i % 2]}
        for i in range(200)
    ]
    return jsonl(place, rows), ["data.partition.minimum=2"]


def imdb_helora(place):
    rows = [{"text": f"film {i} was good", "label": i % 2} for i in range(200)]
    return jsonl(place, rows), ["data.split=null", "data.test=0.2", "data.partition.minimum=2", "data.max_length=30"]


def save(model_class, config, folder):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model_class(config).save_pretrained(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory, make_speaker):
    place = tmp_path_factory.mktemp("models")
    vit = ViTConfig(
        hidden_size=8, num_hidden_layers=12, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=8
    )
    save(ViTForImageClassification, vit, place / "vit")
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 32}
    save(BertForSequenceClassification, BertConfig(num_hidden_layers=12, **sizes), place / "bert")
    distil = DistilBertConfig(dim=8, n_layers=6, n_heads=2, hidden_dim=16, max_position_embeddings=32)
    save(DistilBertForSequenceClassification, distil, place / "distilbert")
    for name in ("bert", "distilbert"):
        for file in Path(resolve("embedded:minilm").location).glob("*token*"):
            shutil.copy(file, place / name)
    make_speaker(place / "llama", ["say", "it", "word"], blocks=22, width=8)
    return {
        "google/vit-base-patch16-224-in21k": place / "vit",
        "google-bert/bert-base-uncased": place / "bert",
        "distilbert/distilbert-base-uncased": place / "distilbert",
        "TinyLlama/TinyLlama-1.1B-Chat-v1.0": place / "llama",
    }


@pytest.mark.parametrize("name", PAPERS)
def test_a_papers_setting_can_be_prepared_on_data_of_its_schema(name, models, tmp_path):
    path, overrides = globals()[name.replace("-", "_")](tmp_path)
    written = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text(encoding="utf-8"))
    small = [
        f"model.name={models[written['model']['name']]}", f"data.name={path}", "data.clients=6", "data.proxy=12",
        "train.clients_per_round=3", "train.measure_memory=false",
    ]  # fmt: skip
    if "max_length" in written["data"] and "data.prompt" not in str(written):
        small += ["data.max_length=30", "data.answers=2", "data.answer_tokens=4"]
    session = prepare(load_config(EXAMPLES / f"{name}.yaml", [*small, *overrides]))
    assert len(session.tier_of) == 6
    assert session.federation.num_blocks == (6 if name == "imdb-helora" else 22 if "prompt" in written["data"] else 12)
    assert session.kind == {"image": "images", "prompt": "instructions"}.get(
        next((key for key in ("image", "prompt") if key in written["data"]), ""), "texts"
    )


def test_heloras_clients_of_one_class_are_invited_too(models, tmp_path):
    path, overrides = imdb_helora(tmp_path)
    small = [
        f"model.name={models['distilbert/distilbert-base-uncased']}", f"data.name={path}", "data.proxy=12",
        "data.partition.alpha=0.05", "train.measure_memory=false", *overrides,
    ]  # fmt: skip
    session = prepare(load_config(EXAMPLES / "imdb-helora.yaml", small))
    assert (np.count_nonzero(session.histogram, axis=1) == 1).any()
    assert session.federation.clients_per_round == len(session.federation.clients) == 10


@pytest.mark.parametrize("name", [*PAPERS, *OWN])
def test_every_example_is_a_configuration_and_is_listed(name):
    load_config(EXAMPLES / f"{name}.yaml")
    assert f"({name}.yaml)" in (EXAMPLES / "README.md").read_text(encoding="utf-8")


def test_no_example_is_missing_here():
    assert {file.stem for file in EXAMPLES.glob("*.yaml")} == {*PAPERS, *OWN}


@pytest.mark.parametrize("name", ["cifar100", "dolly"])
def test_a_dry_run_without_a_network_says_what_it_could_not_check(name, call, tmp_path):
    pytest.importorskip("datasets")
    code, out, err = call(tmp_path, "run", EXAMPLES / f"{name}.yaml", "--dry-run")
    assert code == 0, err
    assert "the configuration is valid" in out
    assert "not checked, since it must be downloaded first" in out
    with contextlib.suppress(FileNotFoundError):
        assert not list((tmp_path / "runs").iterdir())


@pytest.mark.parametrize(
    ("name", "missing"), [("domainnet", "domainnet/train.csv"), ("fashion-mnist", "./fashion-vit/other-classes")]
)
def test_an_example_before_its_data_are_made_names_what_is_missing(name, missing, call, tmp_path):
    code, _, err = call(tmp_path, "plan", EXAMPLES / f"{name}.yaml")
    assert code == 3
    assert f"; {missing} cannot be read: it does not exist (seen from {tmp_path})" in err
    assert "how the data of an example are made, and by which command, is said in its first lines" in err
    head = (EXAMPLES / f"{name}.yaml").read_text(encoding="utf-8").partition("\nmodel:")[0]
    assert missing.split("/")[-2].strip(".") in head
