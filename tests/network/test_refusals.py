from typing import get_args

import pytest

from fedhello.errors import ConfigError, DataError, EngineError, PrivacyError, UpdateError
from fedhello.network.refusals import SENTENCES, Code, RefusalError, code_named, code_of, refusal, said


def test_every_code_has_a_sentence_and_a_reply_has_the_code_alone():
    assert set(SENTENCES) == set(get_args(Code))
    for code in get_args(Code):
        assert refusal(code) == {"error": code}
        assert said({"error": code, "detail": "of its own"}) == SENTENCES[code]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RefusalError("x", "over budget"), "over budget"), (UpdateError("x", "not finite"), "not finite"),
        (UpdateError("x", "wrong tensors"), "failed"), (DataError("x"), "does not fit"),
        (ConfigError("x"), "does not fit"), (EngineError("x"), "failed"), (PrivacyError("x"), "not allowed"),
        (ValueError("x"), "failed"), (MemoryError(), "failed"),
    ],
)  # fmt: skip
def test_an_error_becomes_a_code(error, code):
    assert code_of(error) == code


@pytest.mark.parametrize("odd", [None, [], "rm -rf", b"x" * 10**6, 5])
def test_what_is_no_code_is_shown_as_a_failure(odd):
    assert code_named(odd) == "failed"
    assert said({"error": odd}) == SENTENCES["failed"]
