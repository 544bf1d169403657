import pytest
from pydantic import ValidationError

from fedhello.config.section import Named, Section


class Rounds(Section):
    rounds: int = 3
    lr: float = 0.5


def test_a_section_takes_its_own_keys_with_their_own_types_and_no_change():
    assert Rounds.model_validate({"rounds": 4}).rounds == 4
    for wrong in ({"round": 4}, {"rounds": "4"}, {"rounds": 4.0}, {"lr": float("nan")}, {"lr": float("inf")}):
        with pytest.raises(ValidationError, match="1 validation error"):
            Rounds.model_validate(wrong)
    with pytest.raises(ValidationError, match="frozen"):
        Rounds().rounds = 5


def test_what_stands_beside_a_name_are_options():
    class Method(Named):
        name: str

    found = Method.model_validate({"name": "mine", "warmup": 3})
    assert (found.name, found.options) == ("mine", {"warmup": 3})
    found.options["warmup"] = 5
    assert found.options == {"warmup": 3}
