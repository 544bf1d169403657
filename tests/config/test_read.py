import numpy as np
import pytest
import torch
import yaml

import fedhello as fh


def test_a_configuration_comes_from_a_file_mappings_or_another(workplace, tmp_path):
    tiny = workplace / "tiny.yaml"
    from_file = fh.load_config(tiny, {"train.rounds": 4, "data.partition": {"kind": "iid"}})
    assert from_file == fh.load_config(from_file)
    assert from_file == fh.load_config(tiny, ["train.rounds=4"])
    raw = {"train": {"rounds": 4}}
    assert fh.load_config(raw, {"train.lr": 0.5}).train.lr == 0.5
    assert raw == {"train": {"rounds": 4}}  # nobody's mapping is changed
    paths = fh.load_config(None, {"run.out": tmp_path / "runs", "train.lr": np.float64(0.5)})
    assert (paths.run.out, paths.train.lr) == (str(tmp_path / "runs"), 0.5)
    for wrong in ({"run.out": object()}, {"train.lr": torch.tensor(1.0)}):
        with pytest.raises(fh.ConfigError, match="that YAML can represent"):
            fh.load_config(None, wrong)
    with pytest.raises(fh.ConfigError, match="expected a file, mappings or a Config"):
        fh.load_config(5)
    with pytest.raises(fh.ConfigError, match=r"unknown key train\.round"):
        fh.load_config(None, {"train.round": 4})


def test_a_number_that_yaml_alone_reads_as_text_is_explained():
    raw = yaml.safe_load("train: {lr: 1e-2}")
    with pytest.raises(fh.ConfigError, match=r"train\.lr.*found '1e-2', which yaml\.safe_load reads as text"):
        fh.load_config(raw)
