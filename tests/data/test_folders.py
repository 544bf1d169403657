import gzip
import struct

import numpy as np
import pytest

from fedhello.data.dataset import Columns
from fedhello.data.sources import load
from fedhello.errors import DataError, MissingExtraError

Image = pytest.importorskip("PIL.Image")


def paint(path, shade, size=(5, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, 0, 0)).save(path)


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    raw = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


@pytest.fixture
def idx(tmp_path):
    """A folder in the format of MNIST: 20 images to train on, 5 to test on, classes 0 … 4."""
    pixels = np.arange(25 * 6, dtype=np.uint8).reshape(25, 3, 2)
    labels = np.arange(25) % 5
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", pixels[:20])
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", labels[:20])
    write_idx(tmp_path / "t10k-images-idx3-ubyte", pixels[20:])
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", labels[20:])
    return tmp_path


def test_sub_folders_are_classes(tmp_path):
    for i, name in enumerate(["cat/a.png", "cat/deep/b.PNG", "dog/c.jpg", "dog/notes.txt"]):
        paint(tmp_path / name, i * 50) if i < 3 else (tmp_path / name).write_text("x")
    data = load(str(tmp_path))
    assert data.kind == "images"
    assert data.label_names == ("cat", "dog")
    assert [str(picture.content) for picture in data.inputs] == [
        str(tmp_path / name) for name in ("cat/a.png", "cat/deep/b.PNG", "dog/c.jpg")
    ]
    assert data.labels.tolist() == [0, 0, 1]


def test_repeated_images_are_left_out_by_their_bytes(tmp_path):
    for name, shade in (("cat/a.png", 1), ("cat/b.png", 1), ("dog/c.png", 2)):
        paint(tmp_path / name, shade)
    data = load(str(tmp_path))
    assert len(data) == 2
    assert data.notes == ("1 of 3 samples repeat an earlier image and were left out",)


def test_folders_of_splits(tmp_path):
    for i, name in enumerate(["train/cat/a.png", "train/dog/b.png", "test/cat/c.png", "val/dog/d.png"]):
        paint(tmp_path / name, 60 * i)
    data = load(str(tmp_path), test="test")
    assert data.labels.tolist() == [0, 1, 0]
    assert data.parts["test"].tolist() == [2]
    assert "validation" not in data.parts
    assert data.notes == (f"{tmp_path} also has the split 'val', which is not used; see data.test and data.validation",)
    with pytest.raises(DataError, match=r"data\.test to be a file, or a split .*found 'tset'.*Did you mean test\?"):
        load(str(tmp_path), test="tset")


def test_a_class_without_images_is_refused(tmp_path):
    paint(tmp_path / "cat" / "a.png", 1)
    (tmp_path / "dog").mkdir()
    with pytest.raises(DataError, match="dog has none"):
        load(str(tmp_path))


def test_bad_images_are_left_out_only_where_asked_for(tmp_path):
    for i, name in enumerate(["cat/a.png", "dog/b.png", "dog/c.png"]):
        paint(tmp_path / name, 60 * i)
    (tmp_path / "cat" / "b.png").write_bytes(b"no image")
    assert len(load(str(tmp_path))) == 4
    data = load(str(tmp_path), skip_bad_images=True)
    assert data.labels.tolist() == [0, 1, 1]
    assert data.notes == (f"1 of 4 images cannot be decoded and were left out, for example {tmp_path}/cat/b.png",)


def test_images_beside_a_table_are_found_from_its_folder(tmp_path):
    paint(tmp_path / "pictures" / "a.png", 1)
    paint(tmp_path / "pictures" / "b.png", 2)
    (tmp_path / "x.csv").write_text("file,label\npictures/a.png,x\npictures/b.png,y\npictures/absent.png,y\n")
    with pytest.raises(DataError, match=r"expected the image .*absent\.png in line 4 of .*x\.csv; it cannot be read"):
        load(str(tmp_path / "x.csv"), Columns(image="file"))
    data = load(str(tmp_path / "x.csv"), Columns(image="file"), skip_bad_images=True)
    assert [picture.content for picture in data.inputs] == [tmp_path / "pictures" / f"{name}.png" for name in "ab"]


def test_idx_files(idx):
    data = load(str(idx), test="test")
    assert data.label_names == ("0", "1", "2", "3", "4")
    assert data.inputs[7].content.tolist() == [[42, 43], [44, 45], [46, 47]]
    assert data.labels.tolist() == [i % 5 for i in range(25)]
    assert data.parts["test"].tolist() == list(range(20, 25))


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("train-labels-idx1-ubyte.gz", b"junk", "gzipped idx file"),
        ("t10k-images-idx3-ubyte", b"\0\0\x08\x03" + b"\0" * 13, "to hold 0 bytes, as its header says; found more"),
        ("t10k-images-idx3-ubyte", b"", "idx file of bytes in 3 dimensions"),
    ],
)
def test_broken_idx_files(idx, name, content, complaint):
    (idx / name).write_bytes(content)
    with pytest.raises(DataError, match=complaint):
        load(str(idx), test="test")


def test_labels_and_images_of_different_number(idx):
    write_idx(idx / "train-labels-idx1-ubyte.gz", np.zeros(19))
    with pytest.raises(DataError, match="found 19 and 20"):
        load(str(idx))


@pytest.fixture
def clients(tmp_path):
    """A folder with one file per client."""
    for name, first in (("b", 0), ("a", 10), ("c", 20)):
        rows = "".join(f"text {i},{'xy'[i % 2]}\n" for i in range(first, first + 4))
        (tmp_path / f"{name}.csv").write_text("text,label\n" + rows)
    return tmp_path


def test_files_of_clients_are_groups(clients):
    data = load(str(clients), file_per_client=True)
    assert data.groups == ("a",) * 4 + ("b",) * 4 + ("c",) * 4
    assert data.inputs[0] == "text 10"


def test_one_of_the_files_may_be_held_out(clients):
    data = load(str(clients), file_per_client=True, test="c", deduplicate=False)
    assert len(data) == 12
    assert [data.groups[i] for i in data.pool] == ["a"] * 4 + ["b"] * 4
    assert data.parts["test"].tolist() == [8, 9, 10, 11]


def test_files_are_splits_otherwise_and_one_must_be_named(clients):
    assert load(str(clients), split="b").inputs == ("text 0", "text 1", "text 2", "text 3")
    with pytest.raises(DataError, match=r"the splits 'a', 'b', 'c'\. Name one .*kind: files"):
        load(str(clients))


def test_one_file_per_client_needs_a_folder_of_files(clients):
    with pytest.raises(DataError, match="a folder with one CSV, JSONL or Parquet file per client"):
        load(str(clients / "a.csv"), file_per_client=True)


def test_files_of_one_stem_are_refused(clients):
    (clients / "a.jsonl").write_text("")
    with pytest.raises(DataError, match=r"differ before the suffix; found a\.csv, a\.jsonl"):
        load(str(clients), file_per_client=True)


def test_a_folder_of_nothing_is_refused(tmp_path):
    with pytest.raises(DataError, match="found none of them"):
        load(str(tmp_path))


def test_fashion_mnist_is_read_from_the_folder_in_the_environment(idx, monkeypatch):
    monkeypatch.setenv("FASHION_MNIST", str(idx))
    data = load("embedded:fashion-mnist", test="test")
    assert data.label_names == ("Coat", "Dress", "Pullover", "T-shirt/top", "Trouser")
    assert data.label_names[data.labels[0]] == "T-shirt/top"
    monkeypatch.setenv("FASHION_MNIST", str(idx / "absent"))
    with pytest.raises(MissingExtraError, match="apt-get install dataset-fashion-mnist"):
        load("embedded:fashion-mnist")


def test_files_of_any_kind_of_rows_are_splits_by_their_names(tmp_path):
    (tmp_path / "a.tsv").write_text("text\tlabel\none\tx\ntwo\ty\n")
    (tmp_path / "b.json").write_text('[{"text": "three", "label": "x"}, {"text": "four", "label": "y"}]')
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(b"text,label\nfive,x\nsix,y\n"))
    (tmp_path / "d.csv").mkdir()
    data = load(str(tmp_path), file_per_client=True)
    assert (data.inputs, sorted(set(data.groups))) == (("one", "two", "three", "four", "five", "six"), ["a", "b", "c"])


def test_a_folder_that_may_not_be_listed_is_named(tmp_path, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.iterdir", refuse)
    with pytest.raises(DataError, match=r"expected to read the folder .*; Permission denied"):
        load(str(tmp_path))


@pytest.mark.parametrize("split", ["", "train/"])
def test_files_in_a_folder_of_images_that_are_not_read_are_noted(tmp_path, split):
    for i, name in enumerate(["cat/a.png", "cat/b.png", "dog/c.png"]):
        paint(tmp_path / split / name, i * 50)
    (tmp_path / ".DS_Store").write_text("x")
    assert load(str(tmp_path)).notes == ()
    for name in ("cat/deep/d.heic", "dog/notes.txt", "beside.png"):
        (tmp_path / split / name).parent.mkdir(exist_ok=True)
        (tmp_path / split / name).write_bytes((tmp_path / split / "cat/a.png").read_bytes())
    (note,) = load(str(tmp_path)).notes
    folder = tmp_path / split
    assert note.startswith(f"3 files in {folder} not read, such as {folder / 'beside.png'}: images are those in")
    if split:
        (tmp_path / "loose.png").write_bytes(b"x")
        assert load(str(tmp_path)).notes[1].startswith("1 file beside the splits not read, such as ")
