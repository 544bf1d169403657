"""Case 59: an export holds weights and what is needed to load them, nothing of clients, data or machine."""

import dataclasses
import json

import pytest
from peft import LoraConfig
from safetensors import safe_open

FEDERATION = [
    "data.name=secrets.csv",
    "data.partition={kind: natural, column: site_of_care}",
    "clients.tiers=[{share: 1, blocks: 3}]",
]
HOSPITALS, WORD = ("Charite-Nord", "Klinikum-Ost", "Spital-Sued"), "zyzzyva"

STATED = {
    *("peft_type", "peft_version", "task_type", "inference_mode", "base_model_name_or_path", "revision"),
    *("r", "lora_alpha", "lora_dropout", "target_modules", "modules_to_save", "use_rslora", "use_dora"),
    *("fan_in_fan_out", "rank_pattern", "alpha_pattern"),
}
"""Fields that an exported adapter may set to anything but PEFT's defaults."""


@pytest.fixture(scope="module")
def exported(workplace, call, tmp_path_factory):
    """Run on data whose words, clients and place are known; export the adapter and the merged model."""
    out = tmp_path_factory.mktemp("exports")
    rows = [
        f"{WORD} number {i},{'ab'[i % 2]},{HOSPITALS[i % 3]}" for i in range(60)
    ]  # fmt: skip
    (workplace / "secrets.csv").write_text("\n".join(["text,label,site_of_care", *rows]) + "\n")
    model = f"model.name={workplace / 'tiny'}"
    code, _, err = call(workplace, "run", "tiny.yaml", model, f"run.out={out}", "run.name=run", "--quiet", *FEDERATION)
    assert code == 0, err
    for name, options in (("adapter", []), ("merged", ["--merge"])):
        assert call(workplace, "export", out / "run", "--out", out / name, *options)[0] == 0
    return out


def test_the_run_itself_knows_the_clients(exported):
    assert all(name in (exported / "run" / "config.yaml").read_text() for name in ("site_of_care", "secrets.csv"))


@pytest.mark.parametrize("kind", ["adapter", "merged", "run/adapter"])
def test_nothing_of_clients_data_and_machine_is_in_an_export(kind, exported, workplace):
    revealing = [*HOSPITALS, "site_of_care", WORD, "secrets.csv", str(workplace), str(exported), workplace.name]
    for file in (exported / kind).rglob("*"):
        content = file.read_bytes()
        assert [text for text in revealing if text.encode() in content] == [], file.name


@pytest.mark.parametrize("kind", ["adapter", "merged", "run/adapter"])
def test_an_export_holds_safetensors_and_text_only(kind, exported):
    files = [file for file in (exported / kind).rglob("*") if file.is_file()]
    assert {file.suffix for file in files} <= {".safetensors", ".json", ".md", ".txt", ".jinja"}
    for file in files:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as tensors:
                assert tensors.metadata() == {"format": "pt"}
        else:
            file.read_text(encoding="utf-8")


def test_the_adapters_configuration_states_what_is_needed_and_no_more(exported):
    config = json.loads((exported / "adapter" / "adapter_config.json").read_text())
    defaults = {field.name: getattr(LoraConfig(), field.name) for field in dataclasses.fields(LoraConfig)}
    odd = {key for key, value in config.items() if key not in STATED and value != defaults.get(key, "unknown")}
    assert odd == set()
    assert config["base_model_name_or_path"] == "tiny"
