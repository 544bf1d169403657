"""Case 80: YAML or JSON nested thousands deep, integers of thousands of digits: JSON of data, in one sentence."""

import pytest

from fedhello.data.sources import load
from fedhello.errors import DataError

ROW = '{"text": "a", "label": "x"}\n'


@pytest.mark.parametrize(
    "value",
    ["[" * 100_000, "[" * 100_000 + "]" * 100_000, '{"a":' * 100_000, '{"a":' * 3000 + "1" + "}" * 3000],
    ids=["open", "closed", "objects", "closed objects"],
)
@pytest.mark.parametrize("array", [False, True])
def test_json_nested_deep_is_one_sentence_with_the_line(tmp_path, value, array):
    row = '{"text": "b", "label": ' + value + "}"
    (tmp_path / "x.json").write_text(f"[{ROW},{row}]" if array else ROW + row)
    with pytest.raises(
        DataError, match=r"x\.json, one per line or in an array; line 2 is nested too deep\. Write it flat\.$"
    ):
        load(str(tmp_path / "x.json"))


@pytest.mark.parametrize("number", ["9" * 5000, "-" + "9" * 100_000])
@pytest.mark.parametrize("key", ["label", "other"])
def test_a_number_of_thousands_of_digits_is_one_sentence_with_the_line(tmp_path, number, key):
    (tmp_path / "x.jsonl").write_text(ROW + '{"text": "b", "' + key + '": ' + number + "}")
    with pytest.raises(DataError, match=r"; line 2 has a number of thousands of digits\. Write it as a string\.$"):
        load(str(tmp_path / "x.jsonl"))


def test_the_command_line_ends_with_code_3(place, call):
    (place / "deep.jsonl").write_text(ROW + "[" * 100_000)
    code, _, err = call(place, "plan", "tiny.yaml", "data.name=deep.jsonl")
    assert (code, err.count("\n")) == (3, 1)
    assert "line 2 is nested too deep" in err
