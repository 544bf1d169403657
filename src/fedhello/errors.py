"""Errors that a user can fix, with one exit code per kind.

Every error carries one sentence: what was expected, what was found, how to fix it. The command line
prints that sentence and exits with ``exit_code``; a library user catches ``FedhelloError``.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedhello.types import Reason


class FedhelloError(Exception):
    """Base of all errors that fedhello raises on purpose.

    Attributes:
        exit_code: Exit status of the command line; each kind has its own.

    Example:
        >>> try:
        ...     fh.load_config({"train": {"rounds": -1}})
        ... except fh.FedhelloError as error:
        ...     print(type(error).__name__, error.exit_code)
        ConfigError 2
    """

    exit_code = 1


class ConfigError(FedhelloError):
    """A key, a type or a value of the configuration is wrong."""

    exit_code = 2


class DataError(FedhelloError):
    """The data cannot be read, or does not match the configuration."""

    exit_code = 3


class ModelError(FedhelloError):
    """The foundation model cannot be loaded or verified, or is of an unsupported kind."""

    exit_code = 4


class RunFolderError(FedhelloError):
    """A run's folder exists already, is missing, or cannot be written or read."""

    exit_code = 5


class MissingExtraError(FedhelloError):
    """An optional package is not installed; the sentence holds the pip command."""

    exit_code = 6


class UpdateError(FedhelloError):
    """A client's update does not match its allocation, or its values are not valid.

    Attributes:
        reason: Why the engine rejects the client; see ``fedhello.types.Reason``.
    """

    exit_code = 7

    def __init__(self, sentence: str, reason: "Reason" = "failed") -> None:
        super().__init__(sentence)
        self.reason = reason


class OutOfReachError(FedhelloError):
    """A model or a data set is on the hub, and the hub cannot be reached."""

    exit_code = 8


class QuorumError(FedhelloError):
    """Fewer updates than the quorum counted in every attempt at a round."""

    exit_code = 9


class EngineError(FedhelloError):
    """Server and clients cannot communicate, or do not fit together."""

    exit_code = 10


class ClientsError(FedhelloError):
    """Too few clients joined in time."""

    exit_code = 11


class PrivacyError(FedhelloError):
    """A sum that nobody may see the parts of cannot be had, or a privacy budget does not cover what is asked."""

    exit_code = 13


class CallbackError(FedhelloError):
    """A callback raised an exception; the run ended in order and can be resumed."""

    exit_code = 12
