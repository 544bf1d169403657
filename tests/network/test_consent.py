import pytest

import fedhello as fh
from fedhello.config.load import parse_config
from fedhello.network.consent import check_invitation, check_sizes, described, parse_bytes, read_consent
from fedhello.network.options import ClientOptions
from fedhello.network.refusals import RefusalError

FILE = """
columns: {text: body, label: topic}
labels: [fruit, metal]
budget: {memory: 4GB, blocks: 2}
epochs: 10
download: 100MB
tasks: classification
models: ["embedded:*"]
scores: false
"""


def test_a_file_and_flags_beside_it(tmp_path):
    (tmp_path / "mine.yaml").write_text(FILE)
    found = read_consent(tmp_path / "mine.yaml", {"epochs": 3, "columns": {"label": "kind"}, "budget": {"blocks": 1}})
    assert found.columns == {"text": "body", "label": "kind"}
    assert (found.budget.memory, found.budget.blocks) == (4 * 10**9, 1)
    assert (found.labels, found.epochs, found.download) == (("fruit", "metal"), 3, 10**8)
    assert (found.tasks, found.scores, found.statistics) == (("classification",), False, True)
    assert read_consent(found) == found
    with pytest.raises(ValueError, match="frozen"):
        found.epochs = 10**6


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"least_for_moments": "few"}, "least_for_moments"), ({"least_per_class": 0}, "least_per_class"),
        ({"epoch": 3}, "unknown key epoch. Did you mean epochs"), ({"epochs": 0}, "epochs: .*1"),
        ({"download": "much"}, "download: expected bytes with a unit"), ({"tasks": ["dance"]}, "tasks"),
        ({"budget": {"memory": "much"}}, "bytes with a unit"), ({"columns": {"group": "a"}}, "columns"),
    ],
)  # fmt: skip
def test_a_wrong_key_is_one_sentence(wrong, said):
    with pytest.raises(fh.ConfigError, match=said):
        read_consent(wrong)
    assert parse_bytes("300MB") == 3 * 10**8


def test_it_reaches_the_clients_process_as_it_is():
    options = ClientOptions(
        "a", "x.csv", consent=fh.Consent(columns={"text": ["p", "q"]}, labels=["a"], download="1MB")
    )
    assert ClientOptions.from_json(options.to_json()) == options
    assert ClientOptions.from_json(ClientOptions("a", part=1).to_json()) == ClientOptions("a", part=1)


def test_no_honest_run_meets_the_defaults():
    """The demo, and numbers larger than those of published runs, pass without any consent of one's own."""
    large = {"model": {"lora": {"rank": 256}}, "train": {"epochs": 20, "batch_size": 512}, "data": {"max_length": 8192}}
    for raw in ({}, large):
        check_invitation(fh.Consent(), parse_config(raw), 20_000, True, "texts")
    check_sizes(fh.Consent(), "{}", '["' + '", "'.join(f"a {c}" for c in range(50_000)) + '"]')


def test_the_limit_itself_is_allowed_and_one_more_is_not():
    consent = fh.Consent(epochs=3, most_labels=2)
    check_invitation(consent, parse_config({"train": {"epochs": 3}}), 2, True, "texts")
    with pytest.raises(RefusalError, match="at most 3 epochs"):
        check_invitation(consent, parse_config({"train": {"epochs": 4}}), 2, True, "texts")
    check_sizes(consent, "{}", '["a\\"b", "c"]')
    with pytest.raises(RefusalError, match="at most 2 labels"):
        check_sizes(consent, "{}", '["a", "b", "c"]')


def test_every_limit_is_described():
    assert "models: embedded, or on this machine already" in " ".join(described(fh.Consent()))
    lines = " ".join(described(fh.Consent(labels=["a"], budget={"blocks": 1}, statistics=False, secure=True)))
    for part in ("labels: a;", '"blocks": 1', "head statistics: refused", "Fisher scores: allowed", "secure sums only"):
        assert part in lines or (part == "secure sums only" and "only runs with secure sums" in lines)
