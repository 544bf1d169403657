"""Case 80: YAML nested thousands deep, integers of thousands of digits, aliases that multiply, files without an end."""

import os

import pytest
from refused import refusal

from fedhello.config.text import MOST_BYTES, MOST_LEVELS

TEN = ",".join(["*{}"] * 10)
BOMB = (
    "a: &a ["
    + ",".join("x" * 10)
    + "]\n"
    + "".join(f"{b}: &{b} [{TEN.replace('{}', a)}]\n" for a, b in ("ab", "bc", "cd", "de", "ef"))
)
DEEPER = f"values are nested deeper than {MOST_LEVELS} levels"
CASES = {
    "brackets": ("a: 1\ntrain: " + "[" * 50_000, f"in line 2 {DEEPER}"),
    "closed brackets": ("train: " + "[" * 3000 + "]" * 3000, f"in line 1 {DEEPER}"),
    "braces": ("{a: " * 20_000, DEEPER),
    "dashes": ("- " * 5000 + "x", DEEPER),
    "indented": ("\n".join(" " * level + "a:" for level in range(1200)), f"in line {MOST_LEVELS + 2} {DEEPER}"),
    "aliases in aliases": ("a0: &a0 [x]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}]\n" for i in range(200)), DEEPER),
    "digits": ("train:\n  rounds: " + "9" * 5000, "train.rounds to have at most 30 digits; found 5,000 in line 2"),
    "digits of a share": (f"clients: {{tiers: [{{share: {'9' * 5000}, blocks: 1}}]}}", "found 5,000 in line 1"),
    "digits of an option": (f"method: {{warmup: -{'1' * 100_000}}}", "method.warmup to have at most 30 digits"),
    "multiplying aliases": (BOMB, "more than 20,000 values, with those of aliases"),
    "many values": ("a: [" + "1," * 25_000 + "]", "more than 20,000 values"),
    "an alias in its own anchor": ("train: &a [*a]", "in line 1 the alias *a is inside its own anchor"),
    "megabytes": ("# " + "x" * MOST_BYTES, "more than 1,048,576 bytes"),
}


@pytest.mark.parametrize("case", CASES)
def test_text_without_measure_is_one_sentence(case, tmp_path):
    text, why = CASES[case]
    (tmp_path / "c.yaml").write_text(text)
    assert why in refusal(path=tmp_path / "c.yaml")


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("train.rounds=" + "9" * 5000, "at most 30 digits; found 5,000"),
        ("train.rounds=" + "[" * 5000, DEEPER),
        (".".join("a" * 5000) + "=1", "expected an override such as train.rounds=5"),
        ("train.rounds=1" + "0" * 24, "train.rounds: input should be at most 1e+15"),
        ("model.lora.rank=1000000000", "model.lora.rank: input should be less than or equal to 65536"),
        ("model.head_scale=1e308", "model.head_scale: input should be at most 1e+15"),
    ],
)
def test_an_override_without_measure_is_one_sentence(override, why):
    sentence = refusal(override)
    assert why in sentence
    assert len(sentence) < 400


def test_what_has_no_end_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # nobody writes to it, so that a reader would wait for ever
    for path in (tmp_path / "pipe", "/dev/zero"):
        assert "it is a pipe or a device" in refusal(
            path=path if isinstance(path, os.PathLike) else type(tmp_path)(path)
        )
