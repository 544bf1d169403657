import sys
import types

import pytest

from fedhello.data.dataset import Columns
from fedhello.data.hub import is_hub_id
from fedhello.data.sources import load
from fedhello.errors import DataError, MissingExtraError, OutOfReachError


def refuse(name):
    raise ConnectionError(f"Couldn't reach '{name}' on the Hub\nand more")


@pytest.fixture
def unreachable(monkeypatch):
    """A hub that cannot be reached."""
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=refuse))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("org/name", True),
        ("fancyzhx/ag_news", True),
        ("mydata.csv", False),
        ("folder/mydata.csv", False),
        ("folder/mydata.tsv", False),
        ("folder/mydata.JSONL", False),
        ("folder/mydata.csv.gz", False),
        ("folder/mydata.xlsx", False),
        ("./folder", False),
        ("/a/b", False),
        ("a/b/c", False),
        ("org/name:subset", True),
        ("org/name:", False),
        ("folder/", False),
    ],
)
def test_what_looks_like_a_hub_id(name, expected):
    assert is_hub_id(name) == expected


def test_a_hub_that_cannot_be_reached_says_what_to_do_instead(unreachable):
    with pytest.raises(OutOfReachError) as caught:
        load("org/name")
    assert str(caught.value) == (
        "expected the data set 'org/name' on the hub, since there is no such file or folder; it could not be loaded: "
        "Couldn't reach 'org/name' on the Hub. Without a network, set data.name to a file or a folder of your own."
    )


def test_without_the_library_its_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fedhello\[datasets\]'"):
        load("org/name")
    (tmp_path / "dataset_dict.json").write_text("{}")
    with pytest.raises(MissingExtraError, match=r"pip install 'fedhello\[datasets\]'"):
        load(str(tmp_path))


@pytest.mark.filterwarnings("default")
def test_a_saved_data_set_has_splits_names_of_classes_and_images(tmp_path):
    datasets = pytest.importorskip("datasets")
    image = pytest.importorskip("PIL.Image")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["dog", "cat"])})

    def split(first, labels):
        pictures = [image.new("L", (2, 2), first + i) for i in range(len(labels))]
        return datasets.Dataset.from_dict({"image": pictures, "label": labels}, features=features)

    whole = datasets.DatasetDict({"train": split(0, [0, 1, 1]), "test": split(9, [1])})
    whole.save_to_disk(str(tmp_path / "whole"))
    data = load(str(tmp_path / "whole"), Columns(image="image"), test="test")
    assert data.label_names == ("cat", "dog")
    assert data.labels.tolist() == [1, 0, 0, 0]
    assert data.inputs[0].content.startswith(b"\x89PNG")
    assert data.parts["test"].tolist() == [3]
    with pytest.raises(DataError, match=r"data\.validation to be .*found 'dev'.* has the splits 'train', 'test'"):
        load(str(tmp_path / "whole"), Columns(image="image"), validation="dev")
    whole["train"].save_to_disk(str(tmp_path / "part"))
    assert load(str(tmp_path / "part"), Columns(image="image")).labels.tolist() == [1, 0, 0]
    (tmp_path / "part" / "state.json").write_text("{")
    with pytest.raises(DataError, match="expected a data set saved by datasets"):
        load(str(tmp_path / "part"), Columns(image="image"))
