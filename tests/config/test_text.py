import pytest
import yaml
from refused import refusal

from fedhello.config.load import load_config
from fedhello.config.text import yaml_line
from fedhello.errors import ConfigError


def test_only_the_first_equals_sign_of_an_override_divides():
    assert load_config(None, ["run.name=a=b"]).run.name == "a=b"


@pytest.mark.parametrize(
    ("text", "value"), [("5e-4", 0.0005), ("1E3", 1000.0), ("2.5e+1", 25.0), ("0.001", 0.001), ("1", 1.0)]
)
def test_numbers_may_be_written_as_people_do(text, value):
    assert load_config(None, [f"train.lr={text}"]).train.lr == value


def test_a_number_with_an_exponent_is_no_text():
    assert load_config(None, ["train.lr=1E3"]).train.lr == 1000


@pytest.mark.parametrize("text", ["run.name=2024-13-45", "run.name=0b_"])
def test_values_that_yaml_cannot_build_are_refused(text):
    with pytest.raises(ConfigError, match="expected valid YAML in the override"):
        load_config(None, [text])


@pytest.mark.parametrize("content", ["a: [", "a: b: c", "\t- x", "? [a]\n: b\n", "x: !!python/object:os.system {}"])
def test_a_file_that_is_not_yaml_is_named(file, content):
    path = file(content)
    assert refusal(path=path).startswith(f"expected valid YAML in {path}; ")


@pytest.mark.parametrize(("content", "kind"), [("- a\n- b\n", "list"), ("text", "str"), ("3", "int")])
def test_a_file_without_sections_is_refused(file, content, kind):
    assert refusal(path=file(content)).endswith(f"found a {kind}")


def test_a_missing_file_is_named(tmp_path):
    path = tmp_path / "absent.yaml"
    assert refusal(path=path).startswith(f"expected a configuration file at {path}; it cannot be read")


def test_a_folder_or_a_binary_file_cannot_be_read(tmp_path, file):
    assert "it cannot be read" in refusal(path=tmp_path)
    assert "it cannot be read" in refusal(path=file(b"\xff\xfe\x00"))


@pytest.mark.parametrize("override", ["train.rounds", "=5", ""])
def test_an_override_without_key_or_equals_sign_is_refused(override):
    assert refusal(override) == f"expected an override such as train.rounds=5; found {override!r}"


def test_an_override_that_is_not_yaml_is_named(file):
    assert refusal("run.name={a: b").startswith("expected valid YAML in the override 'run.name={a: b'; ")


def test_an_override_below_a_value_is_refused(file):
    sentence = refusal("train.rounds.first=5", path=file("train: {rounds: 3}\n"))
    assert sentence == "expected train.rounds.first to name a key of a section; rounds is a int"


@pytest.mark.parametrize("value", ["a: b", "5e-4", "two\nlines {x}", "ünïcode # no comment", {"a": [1, "x, y"]}, 0.1])
def test_a_line_of_yaml_reads_back_equal(file, value):
    line = yaml_line(value)
    assert "\n" not in line
    if isinstance(value, str):
        assert load_config(file(f"run:\n  out: {line}  # a comment\n")).run.out == value
    else:
        assert yaml.safe_load(line) == value
