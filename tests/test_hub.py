import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

from fedhello.hub import is_out_of_reach


def raised(cause, said):
    """Return an error that came from another: ``raise … from`` it, or while it was handled."""
    error = ValueError("no such model")
    error.__cause__, error.__context__ = (cause if said else None), cause
    return error


@pytest.mark.parametrize(
    "cause", [LocalEntryNotFoundError("x"), OfflineModeIsEnabled("x"), ConnectionError(), TimeoutError()]
)
@pytest.mark.parametrize("said", [True, False])
def test_an_error_is_that_of_a_hub_out_of_reach_wherever_it_stands_in_the_chain(cause, said):
    assert is_out_of_reach(cause)
    assert is_out_of_reach(raised(cause, said))


def test_other_errors_are_not():
    assert not is_out_of_reach(None)
    assert not is_out_of_reach(raised(OSError("the disk is full"), said=True))
