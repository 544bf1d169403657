from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedhello.config.load import load_config
from fedhello.config.settings import data_settings
from fedhello.errors import DataError
from fedhello.setup.data import load_data, partition_data, public_data, split_data


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Work in a folder with one small CSV file and three files of clients."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.csv").write_text(table(range(40)))
    (tmp_path / "clients").mkdir()
    for k, name in enumerate(("south", "north", "west")):
        (tmp_path / "clients" / f"{name}.csv").write_text(table(range(100 * k, 100 * k + 20)))
    (tmp_path / "test.csv").write_text(table(range(500, 510)))


def table(numbers):
    return "text,label\n" + "".join(f"text number {i},{'even' if i % 2 == 0 else 'odd'}\n" for i in numbers)


def config(*overrides):
    return load_config(None, ["data.proxy=4", "train.clients_per_round=2", *overrides]).data


def shares(chosen):
    data = load_data(data_settings(chosen))
    split = split_data(data_settings(chosen), data)
    return data, split, partition_data(data_settings(chosen), data, split, seed=0)


def test_every_file_is_one_clients():
    chosen = config("data.name=clients", "data.partition={kind: files}", "data.clients=3", "data.test=test.csv")
    data, split, parts = shares(chosen)
    assert [{data.groups[i] for i in part} for part in parts] == [{"north"}, {"south"}, {"west"}]
    assert len(split.test) == 10
    assert {data.inputs[i] for i in split.test} == {f"text number {i}" for i in range(500, 510)}
    assert sum(map(len, parts)) == 60 - 6 - 4


def test_the_number_of_clients_is_that_of_files():
    with pytest.raises(DataError, match=r"data\.clients to be 3, the number of files .*found 20"):
        shares(config("data.name=clients", "data.partition={kind: files}"))


def test_a_public_set_is_disjoint_from_all_else():
    chosen = config("data.name=texts.csv", "data.clients=2", "data.partition={kind: iid}", "data.public=test.csv")
    data = load_data(data_settings(chosen))
    found = public_data(data_settings(chosen), data)
    assert len(found) == 10
    assert not found.labels.any()
    overlapping = config("data.name=texts.csv", "data.public=texts.csv")
    with pytest.raises(DataError, match=r"disjoint from the training, validation and test data; 40 of its 40 samples"):
        public_data(data_settings(overlapping), data)
    assert public_data(data_settings(config("data.public=5")), data) is None


@pytest.mark.parametrize("named", [["data.name=texts.csv"], ["data.name=clients", "data.split=north"]])
def test_every_table_is_read_in_the_encoding_that_is_named(named):
    for k, path in enumerate(("texts.csv", "test.csv", "more.csv", "clients/north.csv")):
        rows = table(range(100 * k, 100 * k + 40)).replace("text number", "\u20ac number")
        Path(path).write_bytes(rows.encode("cp1252"))
    held_out = ["data.test=test.csv", "data.public=more.csv"]
    chosen = data_settings(config(*named, *held_out, "data.encoding=cp1252"))
    data = load_data(chosen)
    assert {text[0] for text in (*data.inputs, *public_data(chosen, data).inputs)} == {"\u20ac"}
    assert [note for note in data.notes if note.endswith("test.csv is read as CP1252")]
    with pytest.raises(DataError, match=r"set data\.encoding=cp1252 .*, or convert it: iconv"):
        load_data(data_settings(config(*named, *held_out)))


@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_public_set_may_not_be_the_held_out_file(part):
    chosen = config("data.name=texts.csv", f"data.{part}=test.csv", "data.public=test.csv")
    with pytest.raises(DataError, match=r"10 of its 10 samples are in both, for example 'text number 500'"):
        public_data(data_settings(chosen), load_data(data_settings(chosen)))


@pytest.mark.parametrize("text", ["text\na new text\nanother\n", "text,label\na new text,\nanother,odd\n"])
def test_a_public_set_needs_no_labels(text):
    Path("public.csv").write_text(text)
    chosen = config("data.name=texts.csv", "data.public=public.csv")
    found = public_data(data_settings(chosen), load_data(data_settings(chosen)))
    assert (found.inputs, found.labels.tolist()) == (("a new text", "another"), [0, 0])


def test_a_broken_image_of_the_public_set_is_left_out_as_any_other(tmp_path):
    for folder, images in (("own", 8), ("public", 3)):
        for name in ("cat", "dog"):
            (tmp_path / folder / name).mkdir(parents=True)
            for i in range(images):
                grey = np.full((2, 2), 16 * len(name + folder) + i + (name == "dog") * 100, dtype=np.uint8)
                Image.fromarray(grey).save(tmp_path / folder / name / f"{i}.png")
    (tmp_path / "public" / "cat" / "broken.png").write_bytes(b"no image")
    chosen = config("data.name=own", "data.public=public", "data.on_bad_image=skip", "data.clients=2")
    data = load_data(data_settings(chosen))
    found = public_data(data_settings(chosen), data)
    assert len(found) == 6
    assert "1 of 7 images cannot be decoded and were left out" in found.notes[0]


def test_a_public_set_is_of_the_same_kind():
    chosen = config("data.name=embedded:digits", "data.public=embedded:bbc-headlines", "data.proxy=20")
    data = load_data(data_settings(chosen))
    with pytest.raises(DataError, match=r"data\.public to hold images, as data\.name does; it holds texts"):
        public_data(data_settings(chosen), data)


def test_instruction_data_without_categories_is_split_and_dealt():
    chosen = config(
        "data.name=texts.csv", "data.prompt='Is {text} odd?'", "data.response=label", "data.label=text",
        "data.clients=2", "data.partition={kind: iid}",
    )  # fmt: skip
    with pytest.raises(DataError, match="40 classes in each part"):
        shares(chosen)
    Path("texts.csv").write_text(table(range(40)).replace("label", "answer"))
    chosen = config(
        "data.name=texts.csv", "data.prompt='Is {text} odd?'", "data.response=answer", "data.clients=2",
        "data.partition={kind: iid}",
    )  # fmt: skip
    data, split, parts = shares(chosen)
    assert data.inputs[3] == ("Is text number 3 odd?", "odd")
    assert data.label_names == ("all",)
    assert [len(part) for part in parts] == [12, 12]
    assert np.intersect1d(split.test, np.concatenate(parts)).size == 0
