import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhello.network.messages import PROTOCOL, Address, invitation, one_line


@given(st.text(max_size=400) | st.binary(max_size=400))
def test_what_somebody_says_is_shown_on_one_line_that_no_terminal_obeys(text):
    found = one_line(text)
    assert found.isprintable()
    assert len(found) <= 300
    assert len(str(text)) > 300 or len(found) == len(str(text))


def test_a_long_text_is_cut_where_one_sees_it():
    assert one_line("x" * 300) == "x" * 300
    assert one_line("x" * 301) == "x" * 297 + "..."


def test_an_invitation_says_protocol_version_and_run_and_its_texts_are_json():
    found = invitation({"train": {"lr": 5e-4}}, ["fruit", "metal"], "this-run")
    assert found["protocol"] == PROTOCOL
    assert re.match(r"\d+\.\d+", found["version"])
    assert (json.loads(found["config"]), json.loads(found["labels"])) == ({"train": {"lr": 5e-4}}, ["fruit", "metal"])
    assert all(isinstance(value, (bytes, str, int, float)) for value in found.values())


@pytest.mark.parametrize(("host", "written"), [("h.example", "h.example:80"), ("::1", "[::1]:80")])
def test_an_address_is_written_as_flower_reads_it(host, written):
    assert Address(host, 80).host_port == written


def test_without_an_authority_there_is_no_tls(tmp_path):
    assert Address("h", 80).insecure and Address("h", 80).certificate() is None
    (tmp_path / "ca.crt").write_bytes(b"certificate")
    with_tls = Address("h", 80, tmp_path / "ca.crt")
    assert not with_tls.insecure and with_tls.certificate() == b"certificate"
