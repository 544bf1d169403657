"""The options of a client."""

import hashlib
import json
import re
import socket
from dataclasses import dataclass, fields
from pathlib import Path

from fedhello.config.units import check_encoding
from fedhello.errors import ConfigError
from fedhello.network.consent import DEFAULT_CONSENT, Consent


@dataclass(frozen=True)
class ClientOptions:
    """The options of a client.

    Attributes:
        name: Its stable name; letters, digits, dot, underscore and hyphen, at most 64.
        data: A file, a folder, an embedded data set or a hub id with its own samples; with ``part`` the whole data set.
        part: Take this part of the data set that the configuration splits over its clients.
        model: Where the foundation model is; None takes the server's name for it, if that is no path.
        device: A value of ``run.device``.
        consent: What the owner of the data consents to, with the columns and the budget.
        key: The file of the client's private key; None without one.
        encoding: Of tables that have no byte order mark and are not UTF-8; None for no other. With ``part``, None takes
            that of the configuration.

    Raises:
        ConfigError: If there are no data, or the name or the encoding is not valid.
    """

    name: str
    data: str | None = None
    part: int | None = None
    model: str | None = None
    device: str = "auto"
    consent: Consent = DEFAULT_CONSENT
    key: str | None = None
    encoding: str | None = None

    def __post_init__(self) -> None:
        if self.data is None and self.part is None:
            raise ConfigError("expected data (--data), this client's own samples; found none")
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", self.name):
            raise ConfigError(
                "expected the client's name (--name) to be letters, digits, dots, underscores and hyphens, at most 64; "
                f"found {self.name!r}"
            )
        check_encoding(self.encoding)

    def to_json(self) -> str:
        """Return the options as text for another process."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "consent"}
        return json.dumps({**own, "consent": self.consent.model_dump_json(exclude_unset=True)})

    @classmethod
    def from_json(cls, text: str) -> "ClientOptions":
        """Return the options in the text of ``to_json``."""
        found = json.loads(text)
        return cls(**found | {"consent": Consent.model_validate_json(found["consent"])})


def default_name(data: str | None, part: int | None, key: Path | None) -> str:
    """Return a name that is the same at every start: from the key, the part, or the machine and the data."""
    if key is not None:
        return key.name
    if part is not None:
        return f"part-{part:03d}"
    try:
        path = data and str(Path(data).resolve())
    except ValueError:  # no file can have this name, with NUL or half a character, as is said where it is read
        path = data
    place = hashlib.sha256(str(path).encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:48] + "-" + place
