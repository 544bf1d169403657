import pickle

import pytest

from fedhello import errors

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and kind is not errors.FedhelloError]


def test_every_kind_is_caught_as_one_and_ends_a_command_with_a_code_of_its_own():
    assert all(issubclass(kind, errors.FedhelloError) for kind in KINDS)
    codes = [errors.FedhelloError.exit_code, *(kind.exit_code for kind in KINDS)]
    assert len(set(codes)) == len(codes)
    assert all(0 < code < 128 for code in codes)  # from 128 on they stand for signals


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_says_its_sentence_and_travels_between_processes(kind):
    error = pickle.loads(pickle.dumps(kind("expected one, found none")))
    assert type(error) is kind
    assert str(error) == "expected one, found none"


def test_an_update_that_is_refused_has_a_reason():
    assert errors.UpdateError("expected one, found none").reason == "failed"
    assert errors.UpdateError("expected one, found none", "not finite").reason == "not finite"
