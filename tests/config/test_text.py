import random
import re
from pathlib import Path

import pytest
import yaml
from refused import refusal

from fedhello.config.load import dump_config, load_config
from fedhello.config.read import load_config as load_any
from fedhello.config.text import MOST_BYTES, read_yaml, yaml_line
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


@pytest.mark.parametrize("content", ["a: [", "a: b: c", "\t- x", "? [a]\n: b\n", "x: !!python/object:os.system {}"])
def test_a_file_that_is_not_yaml_is_named(file, content):
    path = file(content)
    assert refusal(path=path).startswith(f"expected valid YAML in {path}; ")


@pytest.mark.parametrize(("content", "kind"), [("- a\n- b\n", "list"), ("text", "text"), ("3", "text")])
def test_a_file_without_sections_is_refused(file, content, kind):
    assert f"; found a {kind}. " in refusal(path=file(content))


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
    assert refusal("train.rounds={a: b").startswith("expected valid YAML in the override 'train.rounds={a: b'; ")


def test_an_override_below_a_value_is_refused(file):
    sentence = refusal("train.rounds.first=5", path=file("train: {rounds: 3}\n"))
    assert sentence == "expected train.rounds.first to name a key of a section; train.rounds is 3."


@pytest.mark.parametrize("value", ["a: b", "5e-4", "two\nlines {x}", "ünïcode # no comment", {"a": [1, "x, y"]}, 0.1])
def test_a_line_of_yaml_reads_back_equal(file, value):
    line = yaml_line(value)
    assert "\n" not in line
    if isinstance(value, str):
        assert load_config(file(f"run:\n  out: {line}  # a comment\n")).run.out == value
    else:
        assert yaml.safe_load(line) == value


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("a: 1\nrun:\n  name: caf\xe9\n".encode("latin-1"), "since line 3 holds the byte 0xe9, which is not UTF-8"),
        ("train: {rounds: 3}".encode("utf-16"), "since it is UTF-16. Save it as UTF-8"),
        ("train:\n".encode("utf-16-le"), "line 1 holds U+0000"),
        (b"train:\n  rounds: 3\0\n", "line 2 holds U+0000"),
        (b"run:\n  name: a\x07b\n", "line 2 holds U+0007"),
        (b"train:\n\trounds: 3\n", "in line 2 found character '\\t' that cannot start any token. Indent with spaces"),
        (b"data:\n  prompt: Q: {q}\n", 'Put a text with a colon in quotes: prompt: "Q: {q}"'),
        (b"a: 1\n---\nb: 2\n", "in line 2 a second document starts"),
        (b"a: 1\n? [b]\n: c\n", "in line 2 a key is no text"),
        (b"a: &x 1\nb: &x 2\n", "in line 2 the anchor &x is given twice"),
        (b"a: 1\nb: !!python/object/apply:os.system [x]\n", "in line 2 the tag "),
    ],
)
def test_why_and_where_a_file_cannot_be_read(file, content, why):
    path = file(content)
    sentence = refusal(path=path)
    assert why in sentence
    assert str(path) in sentence


@pytest.mark.parametrize(
    "content",
    [b"\xef\xbb\xbftrain: {rounds: 3}\n", b"train:\r\n  rounds: 3  \r\n", b"%YAML 1.1\n---\ntrain: {rounds: 3}\n...\n"],
)
def test_marks_and_line_ends_of_other_systems_are_read(file, content):
    assert load_config(file(content)).train.rounds == 3


def test_a_wrong_value_is_named_with_its_line(file):
    path = file("train:\n  epochs: 1\n  rounds: many\n")
    assert f"train.rounds: input should be a valid integer (found 'many' in line 3 of {path})" in refusal(path=path)
    assert "(found 'more')" in refusal("train.rounds=more", path=path)
    path = file("clients:\n  tiers:\n  - {share: 1,\n     blocks: x}\n")
    assert f"clients.tiers.0.blocks: input should be a valid integer (found 'x' in line 4 of {path})" in refusal(
        path=path
    )
    assert f". It is in line 3 of {path}." in refusal(path=file("method:\n  name: rgd-hla\n  warmup: 3\n"))


@pytest.mark.parametrize(
    "text",
    [
        "a\nb",
        "a\rb",
        "a\u2028b",
        "a\x85b",
        " a ",
        "",
        "~",
        "null",
        "1:30",
        ".5e3",
        "010",
        "yes",
        "'",
        '"',
        "a\tb",
        "🙂",
        "{a}",
        "# a",
        "- a",
        "*a",
    ],
)
def test_any_text_survives_as_an_override_and_in_a_file(file, text):
    assert load_any(None, {"run.device": text}).run.device == text
    assert load_any(file(f"run:\n  device: {yaml_line(text)}\n")).run.device == text


def test_one_function_reads_yaml():
    root = Path(__file__).parents[2]
    files = [path for folder in ("src", "examples", "benchmarks") for path in (root / folder).rglob("*.py")]
    call = re.compile(r"yaml\.(safe_|full_|unsafe_)?(load|parse|compose|scan)\(")
    readers = [str(path.relative_to(root)) for path in files if call.search(path.read_text(encoding="utf-8"))]
    shown = "src/fedhello/results/overview.py"  # what fedhello wrote itself, to be shown
    assert readers == ["src/fedhello/config/text.py", shown]


SEEDS = [
    b"train: {rounds: 3, lr: 1e-3, server: {name: adam}}\nrun:\n  name: 'x y'\n  out: ~/x\n",
    b"clients:\n  tiers:\n  - &a {share: 1/2, blocks: 2}\n  - {<<: *a, memory: 300MB}\n",
    b'data:\n  prompt: |\n    Q: {q}\n  response: "{a}"\n  partition: {kind: dirichlet}\nmethod: {name: fim-hla}\n',
    b"model: {lora: {targets: [query, '1']}, moments: {sketch: 16}, revision: 1234567}\n# end\n",
]
PIECES = [
    b"\t", b": ", b"- ", b"{", b"}", b"[", b"]", b"'", b'"', b"\0", b"\xff", b"&a ", b"*a", b"<<: ", b"!!int ", b"? ",
    b"---\n", b"\r\n", b"\xef\xbb\xbf", b"null", b"~", b"#", b"|\n", b"9" * 40, b"e", b"\n", b"\xe2\x80\xa8", b"%",
    b"@", b",", b"$X", b".",
]  # fmt: skip


def mutated(rng):
    """Return a configuration with some bytes changed, left out, repeated or put in."""
    text = bytearray(rng.choice(SEEDS))
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at = rng.randrange(len(text) + 1)
        how = rng.randrange(4)
        if how == 0:
            text[at:at] = rng.choice(PIECES)
        elif how == 1:
            del text[at : at + rng.randint(1, 8)]
        elif how == 2:
            text[at : at + 1] = bytes([rng.randrange(32, 127) if rng.random() < 0.8 else rng.randrange(256)])
        else:
            start = rng.randrange(len(text) + 1)
            text[at:at] = text[start : start + rng.randint(1, 30)]
    return bytes(text)


KEYS = ("run.device", "train.rounds", "data.text", "clients", "data.test", "model.lora", "x")


def fuzz(file, seeds):
    """Read mutated configurations and overrides; return how many were read, to the same when written, and refused."""
    outcomes = [0, 0]
    for seed in seeds:
        rng = random.Random(seed)
        content = mutated(rng)
        words = content.decode("latin-1").split("\n", 1)[0]
        try:
            config = load_any(file(content), [f"{rng.choice(KEYS)}={words}"] if rng.random() < 0.3 else ())
            assert load_any(file(dump_config(config))) == config, content
            outcomes[0] += 1
        except ConfigError as error:
            assert "\n" not in str(error), content
            assert len(str(error)) < 2000, content
            outcomes[1] += 1
    return outcomes


def test_no_mutated_file_raises_another_exception(file):
    read, refused = fuzz(file, range(300))
    assert min(read, refused) > 5


@pytest.mark.slow
def test_no_one_of_many_mutated_files_raises_another_exception(file):
    read, refused = fuzz(file, range(300, 21_000))
    assert min(read, refused) > 500


def test_a_file_beyond_the_largest_is_refused(file):
    assert f"more than {MOST_BYTES:,} bytes" in refusal(path=file(b"#" * (MOST_BYTES + 1)))
    assert read_yaml("# nothing", "here") is None
