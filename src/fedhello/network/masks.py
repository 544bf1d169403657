"""A client's side of secure sums over a network.

The worker of a client whose run has ``privacy.secure`` answers three more messages, see ``fedhello.privacy.masking``:

    keys      purpose, client, bits            its public keys
    shares    purpose, everybody's keys        encrypted shares of its two seeds, for each other client
    unmask    purpose, who stayed              shares of the others' seeds

and what train, sums and scores would return is masked. One mask serves one vector: a purpose is used once.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from fedhello.client.scoring import BlockSums
from fedhello.engine.secure import score_vector, statistics_vector
from fedhello.errors import PrivacyError, UpdateError
from fedhello.model.statistics import HeadSums
from fedhello.network.messages import Fields
from fedhello.privacy.masking import Participant, PublicKeys, Shares
from fedhello.privacy.secure import SecureRound
from fedhello.privacy.vectors import Encoding
from fedhello.types import Task, Update

MOST_SUMS = 8
"""Sums that a client takes part in at a time; older ones are forgotten, as after a restart."""

ENCODINGS = TypeAdapter(Encoding)


class Masks:
    """The sums that a client takes part in, by purpose."""

    def __init__(self, agreed: SecureRound) -> None:
        """Take part in sums of one run.

        Args:
            agreed: What the client knows of the run.
        """
        self._agreed = agreed
        self._people: dict[str, Participant] = {}

    def keys(self, fields: Fields) -> Fields:
        """Start a sum, and return this client's public keys."""
        purpose, bits = str(fields["purpose"]), int(fields["bits"])
        if purpose in self._people or bits not in (32, 64):
            raise PrivacyError("expected a new purpose of a secure sum, and 32 or 64 bits; found others")
        self._people[purpose] = Participant(int(fields["client"]), purpose.encode(), bits)
        while len(self._people) > MOST_SUMS:
            del self._people[next(iter(self._people))]
        return {"keys": write_keys(self._people[purpose].advertise())}

    def shares(self, fields: Fields) -> Fields:
        """Return the encrypted shares for the other clients."""
        keys = {int(k): read_keys(text) for k, text in read_object(fields["keys"]).items()}
        return {"shares": write_sealed(self._of(fields).share(keys))}

    def unmask(self, fields: Fields) -> Fields:
        """Return the shares with which the server takes out masks; the sum is over then."""
        stayed = [int(k) for k in read_list(fields["stayed"])]
        shares = self._of(fields).unmask(stayed)
        return {"shares": write_shares(shares)}

    def update(self, fields: Fields, task: Task, update: Update) -> Fields:
        """Return a masked update."""
        try:
            encoding = ENCODINGS.validate_json(str(fields["encoding"]))
        except (KeyError, ValidationError) as error:
            raise UpdateError("expected how to encode an update; found something else", "malformed") from error
        if encoding.length > self._agreed.longest:
            raise UpdateError(f"expected at most {self._agreed.longest} numbers in a vector", "malformed")
        allocation = replace(task.allocation, ranks=tuple(read_list(fields.get("ranks"))))
        own = replace(self._agreed.federation.clients[0], id=task.client)
        federation = replace(self._agreed.federation, clients=(own,))
        agreed = replace(self._agreed, federation=federation, most_samples=_most(encoding))
        return self._masked(fields, agreed.vector(replace(task, allocation=allocation), update, encoding))

    def sums(self, fields: Fields, sums: HeadSums) -> Fields:
        """Return masked head statistics."""
        return self._masked(fields, statistics_vector(sums, int(fields.get("most", 0)) or None))

    def scores(self, fields: Fields, sums: BlockSums) -> Fields:
        """Return masked sums for Fisher scores."""
        return self._masked(fields, score_vector(sums, len(sums.squares)))

    def _masked(self, fields: Fields, vector: np.ndarray) -> Fields:
        sealed = {int(k): bytes.fromhex(text) for k, text in read_object(fields.get("shares")).items()}
        return {"masked": self._of(fields).mask(vector, sealed).tobytes()}

    def _of(self, fields: Fields) -> Participant:
        found = self._people.get(str(fields.get("purpose")))
        if found is None:
            raise PrivacyError("expected a sum that this client has sent keys for; it may have started anew")
        return found


def _most(encoding: Encoding) -> int:
    """Return the most samples that a client weighs for, as the bound on their number states."""
    return int(encoding.numbers.get("samples", 0))


def read_object(text: Any) -> dict[str, str]:
    """Read a JSON object of strings.

    Raises:
        UpdateError: If it is none.
    """
    try:
        found = json.loads(text)
        if isinstance(found, dict) and all(isinstance(value, str) and key.isdigit() for key, value in found.items()):
            return found
    except (TypeError, ValueError, RecursionError):
        pass
    raise UpdateError("expected a JSON object of clients and strings; found something else", "malformed")


def read_list(text: Any) -> list[int]:
    """Read a JSON list of whole numbers.

    Raises:
        UpdateError: If it is none.
    """
    try:
        found = json.loads(text)
        if isinstance(found, list) and all(type(value) is int for value in found):
            return found
    except (TypeError, ValueError, RecursionError):
        pass
    raise UpdateError("expected a JSON list of clients; found something else", "malformed")


def write_keys(keys: PublicKeys) -> str:
    """Return public keys as hexadecimal digits."""
    return (keys.encryption + keys.masks + keys.commitment).hex()


def read_keys(text: str) -> PublicKeys:
    """Read back public keys.

    Raises:
        UpdateError: If they are none.
    """
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != 96:
        raise UpdateError("expected public keys of 96 bytes; found something else", "malformed")
    return PublicKeys(found[:32], found[32:64], found[64:])


def write_sealed(sealed: Mapping[int, bytes]) -> str:
    """Return encrypted shares by client as JSON."""
    return json.dumps({str(k): value.hex() for k, value in sealed.items()})


def write_shares(shares: Shares) -> str:
    """Return revealed shares as JSON."""
    parts = {name: {str(k): one.hex() for k, one in getattr(shares, name).items()} for name in ("own", "pairs")}
    return json.dumps({"index": shares.index, **parts})


def read_shares(text: Any, clients: int) -> Shares:
    """Read back revealed shares.

    Args:
        text: JSON.
        clients: How many clients the sum has.

    Raises:
        UpdateError: If they are none.
    """
    try:
        found = json.loads(text)
        own, pairs = ({int(k): bytes.fromhex(one) for k, one in found[name].items()} for name in ("own", "pairs"))
        index = found["index"]
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise UpdateError("expected the shares of a secure sum; found something else", "malformed") from error
    right = all(len(one) == 16 for one in (*own.values(), *pairs.values()))
    if type(index) is not int or not 1 <= index <= clients or not right:
        raise UpdateError("expected shares of 16 bytes with the index of a client; found others", "malformed")
    return Shares(index, own, pairs)


def write_encoding(encoding: Encoding) -> str:
    """Return how updates are encoded as JSON."""
    return json.dumps(asdict(encoding))
