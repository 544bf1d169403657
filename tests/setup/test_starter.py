import json
import struct

import numpy as np
import pytest

from fedhello.config.load import load_config
from fedhello.config.settings import data_settings
from fedhello.setup.data import load_data, partition_data, split_data

COLOURS = ("red", "blue", "green", "grey")


def rows(numbers, classes=4):
    return [(f"this is text number {i}", COLOURS[i % classes]) for i in numbers]


def write_csv(path, numbers, classes=4, header="body,colour"):
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join([header, *(",".join(row) for row in rows(numbers, classes))]) + "\n")


@pytest.fixture
def checked(call, tmp_path):
    """Run ``init``; check that its configuration fits its data set for several seeds, and return it."""

    def run(*words):
        code, out, err = call(tmp_path, "init", *words)
        assert (code, err) == (0, "")
        assert out.endswith("run it: fedhello run fedhello.yaml\n")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path)
            config = load_config(tmp_path / "fedhello.yaml")
            data = load_data(data_settings(config.data))
            split = split_data(data_settings(config.data), data)
            for seed in range(5):
                parts = partition_data(data_settings(config.data), data, split, seed)
                assert len(parts) == config.data.clients
                if data.kind != "instructions" and config.train.loss == "restricted":
                    mixed = sum(len(np.unique(data.labels[part])) > 1 for part in parts)
                    assert mixed >= config.train.clients_per_round
        return config, data, out

    return run


@pytest.mark.parametrize("samples", [40, 60, 100, 300, 1000, 3000])
@pytest.mark.parametrize("classes", [2, 4])
def test_a_configuration_fits_its_data_whatever_its_size(checked, tmp_path, samples, classes):
    write_csv(tmp_path / "my.csv", range(samples), classes)
    config, data, out = checked("my.csv")
    assert (config.data.text, config.data.label) == ("body", "colour")
    assert config.data.max_length == 32
    assert len(data) == samples
    assert f"my.csv: {samples} samples; columns body, colour" in out
    assert f"task: classify texts, texts 'body', labels 'colour'; {classes} classes: blue" in out
    assert config.data.clients == (20 if samples >= 1000 else config.data.clients)


def test_more_than_a_hundred_classes(checked, tmp_path):
    lines = [f"this is text number {i},kind{i % 130}" for i in range(2600)]
    (tmp_path / "my.csv").write_text("\n".join(["body,colour", *lines]) + "\n")
    config, data, _ = checked("my.csv")
    assert len(data.label_names) == config.data.proxy == 130


def test_it_runs_as_it_is(call, workplace):
    code, _, err = call(workplace, "init", "texts.csv", "--out", "started.yaml")
    assert (code, err) == (0, "")
    small = ["model.name=./tiny", "clients.tiers=[{share: 1, blocks: 3}]", "data.max_length=16"]
    code, out, err = call(workplace, "run", "started.yaml", "--dry-run", "--json", *small)
    assert (code, err) == (0, "")
    assert json.loads(out)


def test_nothing_is_written_over(call, tmp_path):
    write_csv(tmp_path / "my.csv", range(100))
    (tmp_path / "fedhello.yaml").write_text("mine")
    code, _, err = call(tmp_path, "init", "my.csv")
    assert code == 2
    assert err == (
        "error: expected a new file for the configuration; fedhello.yaml exists. Give another out, or set force.\n"
    )
    assert (tmp_path / "fedhello.yaml").read_text() == "mine"
    assert call(tmp_path, "init", "my.csv", "--out", "other.yaml")[0] == 0
    assert call(tmp_path, "init", "my.csv", "--force")[0] == 0
    assert (tmp_path / "fedhello.yaml").read_text() == (tmp_path / "other.yaml").read_text()


def test_what_cannot_be_told_is_asked_and_nothing_is_written(call, tmp_path):
    lines = [f"the first of {i},the second of {i},{COLOURS[i % 2]}" for i in range(100)]
    (tmp_path / "my.csv").write_text("\n".join(["one,two,label", *lines]))
    code, _, err = call(tmp_path, "init", "my.csv")
    assert code == 2
    assert err.startswith(
        "error: expected one column of texts; found several that fit: one, two. Name one as text, or text"
    )
    assert not (tmp_path / "fedhello.yaml").exists()
    assert call(tmp_path, "init", "my.csv", "--text", "one", "--text", "two")[0] == 0
    assert load_config(tmp_path / "fedhello.yaml").data.text == ["one", "two"]
    assert "found 3" in call(tmp_path, "init", "my.csv", "--force", *["--text", "one"] * 3)[2]


def test_instruction_data(checked, tmp_path):
    table = [
        {"instruction": f"Do {i} of these", "context": "" if i % 2 else f"Context {i}", "response": f"Done {i} times"}
        for i in range(200)
    ]
    (tmp_path / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    config, data, _ = checked("my.jsonl")
    assert (config.data.kind, data.inputs[0]) == ("instructions", ("Do 0 of these\n\nContext 0", "Done 0 times"))
    assert config.data.partition.kind == "iid"
    assert config.model.name == "embedded:smollm2"


def test_given_splits_are_held_out(checked, tmp_path):
    for name, numbers in (("train", range(300)), ("val", range(300, 340)), ("test", range(400, 440))):
        write_csv(tmp_path / "data" / f"{name}.csv", numbers)
    config, data, _ = checked("data")
    assert (config.data.validation, config.data.test) == ("val", "test")
    assert (len(data.parts["validation"]), len(data.parts["test"]), len(data)) == (40, 40, 380)


def test_a_test_split_of_secret_labels_is_not_held_out(checked, tmp_path):
    write_csv(tmp_path / "data" / "train.csv", range(300))
    (tmp_path / "data" / "test.csv").write_text("body,colour\nwhat is it,-1\n")
    config, _, out = checked("data")
    assert config.data.test == 0.2
    assert "note: the split test is not held out: expected only labels of the training data" in out


def test_one_file_per_client(checked, tmp_path):
    for k in range(4):
        write_csv(tmp_path / "data" / f"clinic{k}.csv", range(100 * k, 100 * k + 60))
    config, _, _ = checked("data")
    assert (config.data.partition.kind, config.data.clients, config.train.clients_per_round) == ("files", 4, 4)


def test_clients_of_one_class_each_train_on_the_whole_loss(checked, tmp_path):
    for k in range(2):
        lines = [f"the text {i} of {k},{COLOURS[k]}" for i in range(60)]
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"clinic{k}.csv").write_text("\n".join(["body,colour", *lines]))
    config, _, _ = checked("data", "--text", "body", "--label", "colour")
    assert config.train.loss == "cross_entropy"
    assert len(config.clients.tiers) == 1, "three tiers of two clients would leave one empty"


def test_a_folder_of_images_needs_no_columns(checked, tmp_path):
    image = pytest.importorskip("PIL.Image")
    for i in range(80):
        folder = tmp_path / "photos" / COLOURS[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        image.new("L", (2, 2), i).save(folder / f"{i}.png")
    config, data, out = checked("photos")
    assert (data.kind, config.data.image, len(data)) == ("images", None, 80)
    assert "task: classify images" in out


def test_idx_files_with_a_test_split(checked, tmp_path):
    (tmp_path / "digits").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, size=(240, 3, 3), dtype=np.uint8)
    for prefix, part in (("train", slice(0, 200)), ("t10k", slice(200, 240))):
        head = {d: bytes([0, 0, 8, d]) for d in (1, 3)}
        count = len(pixels[part])
        images = head[3] + struct.pack(">3I", count, 3, 3) + pixels[part].tobytes()
        (tmp_path / "digits" / f"{prefix}-images-idx3-ubyte").write_bytes(images)
        labels = head[1] + struct.pack(">I", count) + bytes(i % 4 for i in range(count))
        (tmp_path / "digits" / f"{prefix}-labels-idx1-ubyte").write_bytes(labels)
    config, data, _ = checked("digits")
    assert (config.data.test, len(data.parts["test"])) == ("test", 40)


def test_embedded_data_needs_no_columns(checked):
    config, _, _ = checked("embedded:bbc-articles")
    assert config.data.kind == "instructions"
    assert config.data.partition.kind == "dirichlet"


def test_a_table_of_another_encoding_is_read_where_it_is_named(call, checked, tmp_path):
    rows = [f"das Stück Nummer {i},{'Äpfel' if i % 2 else 'Öl'}" for i in range(60)]
    (tmp_path / "my.csv").write_bytes("\n".join(["body,colour", *rows]).encode("cp1252"))
    code, _, err = call(tmp_path, "init", "my.csv")
    assert code == 3 and "(init, client, evaluate, predict: --encoding cp1252)" in err
    code, _, err = call(tmp_path, "init", "my.csv", "--encoding", "ansi")
    found = "such as cp1252, latin-1, utf-16-le or gb18030 (found 'ansi')"  # the words of data.encoding=ansi
    assert (code, err) == (2, f"error: encoding: an encoding is one that Python knows, {found}\n")
    config, data, _ = checked("my.csv", "--encoding", "cp1252")
    assert (config.data.encoding, data.inputs[3], data.label_names) == ("cp1252", "das Stück Nummer 3", ("Äpfel", "Öl"))


def test_data_that_is_not_there(call, tmp_path):
    code, _, err = call(tmp_path, "init", "absent.csv")
    assert code == 3
    assert "there is no 'absent.csv'" in err


def test_too_little_data_for_a_federation(call, tmp_path):
    write_csv(tmp_path / "my.csv", range(12))
    code, _, err = call(tmp_path, "init", "my.csv", "--text", "body", "--label", "colour")
    assert code == 3
    assert err.count("\n") == 1
    assert not (tmp_path / "fedhello.yaml").exists()


def test_clients_memory_and_model_are_as_asked(checked, tmp_path):
    write_csv(tmp_path / "my.csv", range(300))
    config, _, out = checked("my.csv", "--clients", "7", "--memory", "3/4:1GB,1/4:4GB", "--model", "embedded:minilm")
    assert (config.data.clients, config.train.clients_per_round) == (7, 5)
    assert [tier.memory for tier in config.clients.tiers] == [10**9, 4 * 10**9]
    assert config.model.name == "embedded:minilm"
    assert "tiers: 3/4 of the clients with 1GB, 1/4 of the clients with 4GB, as asked" in out
    assert "model: embedded:minilm, as asked" in out


def test_what_is_chosen_is_said_and_written(checked, tmp_path):
    write_csv(tmp_path / "my.csv", range(300))
    _, _, out = checked("my.csv")
    assert "1/3 of the clients each train at most 2, 4, 6 blocks, which is a guess" in out
    assert "model: embedded:minilm, a small one; choose another with --model" in out
    text = (tmp_path / "fedhello.yaml").read_text()
    assert "- {share: 1/3, blocks: 2}  # blocks: trains at most so many" in text
    assert "model: {name: 'embedded:minilm'}  #" in text


def test_what_cannot_be_is_refused_before_a_file_is_written(call, tmp_path):
    write_csv(tmp_path / "my.csv", range(100))
    write_csv(tmp_path / "sites" / "a.csv", range(50))
    write_csv(tmp_path / "sites" / "b.csv", range(50, 100))
    for words, exit_code, said in (
        (("my.csv", "--clients", "0"), 2, "expected a number of clients above 0"),
        (("sites", "--clients", "3"), 2, "each file is one client's"),
        (("my.csv", "--memory", "much"), 2, "bytes are a number above 0 with a unit"),
        (("my.csv", "--model", "./none"), 4, "./none does not exist"),
        (("my.csv", "--clients", "200"), 3, "expected"),
    ):
        code, _, err = call(tmp_path, "init", *words)
        assert (code, said in err) == (exit_code, True), (words, err)
    assert not (tmp_path / "fedhello.yaml").exists()
