"""Codes by which a client says why it does not do what a server asks. Details stay in its own log."""

from collections.abc import Mapping
from typing import Literal, get_args

from fedhello.errors import EngineError, FedhelloError, PrivacyError, UpdateError
from fedhello.network.messages import Fields

Code = Literal[
    "join first", "malformed", "other version", "not allowed", "over budget", "does not fit", "not finite", "failed"
]  # fmt: skip
"""Why a client does not do what was asked."""

SENTENCES: Mapping[str, str] = {
    "join first": "it has started anew and has to join first",
    "malformed": "it cannot read the message; install the same version of fedhello at both ends",
    "other version": "it has another version of fedhello; install the same at both ends",
    "not allowed": "its owner does not allow what was asked; the client's own log says what",
    "over budget": "what was asked exceeds its own budget; the client's own log says by how much",
    "does not fit": "its data or its model do not fit the configuration; the client's own log says why",
    "not finite": "its training gave values that are not finite",
    "failed": "it failed; the client's own log says why",
}
"""Code → what the server tells its user."""


class RefusalError(EngineError):
    """Why a client does not do what a server asks.

    Attributes:
        code: What the server is told.
    """

    def __init__(self, sentence: str, code: Code) -> None:
        super().__init__(sentence)
        self.code = code


def code_of(error: Exception) -> Code:
    """Return the code of an error, which holds nothing of the error's text."""
    if isinstance(error, RefusalError):
        return error.code
    if isinstance(error, UpdateError):
        return code_named(error.reason)
    if isinstance(error, PrivacyError):
        return "not allowed"
    return "does not fit" if isinstance(error, FedhelloError) and not isinstance(error, EngineError) else "failed"


def code_named(reason: object) -> Code:
    """Return the code that a text names, or else ``failed``."""
    return next((code for code in get_args(Code) if code == reason), "failed")


def refusal(code: Code) -> Fields:
    """Return the reply with a code."""
    return {"error": code}


def said(reply: Fields) -> str:
    """Return the sentence for the code in a client's reply; text of a client's own is not shown."""
    return SENTENCES[code_named(reply.get("error"))]
