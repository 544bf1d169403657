import pytest
import yaml
from refused import refusal

from fedhello.config.load import dump_config, load_config, parse_config


@pytest.mark.parametrize(("share", "value"), [('"1/3"', 1 / 3), ("1/3", 1 / 3), ("0.25", 0.25), ('"0.25"', 0.25)])
def test_a_share_may_be_a_fraction(share, value):
    rest = 1 - value
    config = load_config(None, [f"clients.tiers=[{{share: {share}, blocks: 2}}, {{share: {rest}, blocks: 4}}]"])
    assert config.clients.tiers[0].share == value


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("300MB", 300_000_000), ("300 MB", 300_000_000), ("300mb", 300_000_000), ("300MiB", 300 * 2**20),
        ("1.5GB", 1_500_000_000), ("512 KiB", 2**19), ("7B", 7),
    ],
)  # fmt: skip
def test_bytes_are_read_with_their_unit_and_written_back(written, expected):
    config = load_config(None, [f"clients.tiers=[{{share: 1, memory: {written}, upload: {written}}}]"])
    assert (config.clients.tiers[0].memory, config.clients.tiers[0].upload) == (expected, expected)
    dumped = dump_config(config)
    assert f"memory: {expected}B" in dumped
    assert parse_config(yaml.safe_load(dumped)) == config


@pytest.mark.parametrize("written", ["300", "300.5", "-3MB", "0MB", "3 parsecs", "MB", "true", "3MBit", "'1e400 B'"])
def test_bytes_without_a_unit_or_not_above_zero_are_refused(written):
    sentence = refusal(f"clients.tiers=[{{share: 1, memory: {written}}}]")
    assert sentence.startswith("clients.tiers.0.memory: ")
    assert "300MiB" in sentence or "greater than 0" in sentence


@pytest.mark.parametrize(("written", "expected"), [("40GFLOP/s", 4e10), ("1.5 TFLOPS", 1.5e12), ("9flop/s", 9.0)])
def test_speeds_are_read_with_their_unit_and_written_back(written, expected):
    config = load_config(None, [f"clients.tiers=[{{share: 1, seconds: 2, speed: {written}}}]"])
    assert config.clients.tiers[0].speed == expected
    assert parse_config(yaml.safe_load(dump_config(config))) == config


@pytest.mark.parametrize("written", ["40", "40GB/s", "-1GFLOP/s", "0GFLOP/s"])
def test_a_speed_without_its_unit_is_refused(written):
    assert refusal(f"clients.tiers=[{{share: 1, seconds: 2, speed: {written}}}]").startswith("clients.tiers.0.speed: ")
