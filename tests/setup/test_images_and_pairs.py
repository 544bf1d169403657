"""Images and pairs of texts, from the configuration to a prediction."""

import json

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def finished(digits_place, call):
    code, out, err = call(digits_place, "run", "digits.yaml", "run.name=first", "--json")
    assert code == 0, err
    return json.loads(out)


def test_prototypes_of_images_know_classes_before_training(finished):
    assert finished["model_kind"] == "image-classification"
    assert finished["start"] > 0.15  # of ten classes, with random weights
    assert 0 < finished["final_scores"]["more"]["macro_f1"] <= 1


def test_predict_reads_image_files(digits_place, finished, call):
    names = []
    for i in range(2):
        names.append(digits_place / f"{i}.png")
        Image.fromarray(np.full((20, 20), 80 * i, dtype=np.uint8)).save(names[-1])
    code, out, err = call(digits_place, "predict", "runs/first", *names, "--json")
    assert code == 0, err
    rows = json.loads(out)
    assert [row["input"] for row in rows] == [str(name) for name in names]
    assert {row["label"] for row in rows} <= {str(digit) for digit in range(10)}


def test_an_image_that_is_none_is_named(digits_place, finished, call):
    (digits_place / "broken.png").write_bytes(b"no image")
    code, _, err = call(digits_place, "predict", "runs/first", digits_place / "broken.png")
    assert code == 3
    assert "broken.png" in err


def test_pairs_of_texts_are_classified_with_their_segments(workplace, call, tmp_path):
    rows = [f"{word} {i},{'a ' + other},{int(word == other)}" for i in range(15) for word in ("red", "blue")
            for other in ("red", "blue")]  # fmt: skip
    (tmp_path / "pairs.csv").write_text("\n".join(["one,two,same", *rows]) + "\n")
    overrides = [f"data.name={tmp_path / 'pairs.csv'}", "data.text=[one, two]", "data.label=same", "train.rounds=1",
                 f"run.out={tmp_path}", "run.name=pairs"]  # fmt: skip
    code, _, err = call(workplace, "run", "tiny.yaml", *overrides)
    assert code == 0, err
    code, out, err = call(workplace, "predict", tmp_path / "pairs", "red 1", "--pair", "a red", "--json")
    assert code == 0, err
    assert json.loads(out)[0]["label"] in ("0", "1")
    code, _, err = call(workplace, "predict", tmp_path / "pairs", "red " * 20, "--pair", "a red")
    assert code == 0, err
    assert "note: 1 of 1 texts were cut to data.max_length, 16 tokens\n" in err
    code, _, err = call(workplace, "predict", tmp_path / "pairs", "red 1")
    assert code == 2
    assert "1 second texts of pairs" in err
