"""A client's side of secure sums over a network.

The worker of a client whose run has ``privacy.secure`` answers three more messages, see ``fedhello.privacy.masking``:

    keys      purpose, client, bits            its public keys
    shares    purpose, everybody's keys, plan  encrypted shares of its seeds, for each other client
    unmask    purpose, who stayed              shares of the others' seeds

and what train, sums and scores would return is masked. One mask serves one vector: a purpose is used once. The plan
says what each client trains and how updates become vectors; see ``fedhello.privacy.parts``.
"""

import json
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import ValidationError

from fedhello.client.scoring import BlockSums
from fedhello.engine.sums import PLANS, score_vector, statistics_vector
from fedhello.errors import PrivacyError, UpdateError
from fedhello.model.statistics import HeadSums
from fedhello.network.consent import not_allowed
from fedhello.network.messages import Fields
from fedhello.network.vouching import Vouching
from fedhello.privacy.masking import SECRET, Participant, PublicKeys, Sealed, Shares
from fedhello.privacy.parts import Plan, trained
from fedhello.privacy.secure import SecureRound
from fedhello.privacy.vectors import LEAST, Encoding
from fedhello.types import Allocation, Task, Update

NOBODY = Vouching()
"""Signs nothing, and accepts everybody."""

LONGEST_KEYS = 512
"""The most bytes of public keys with a signature."""

MOST_SUMS = 8
"""Sums that a client takes part in at a time; older ones are forgotten, as after a restart."""


class Masks:
    """The sums that a client takes part in, by purpose."""

    def __init__(self, agreed: SecureRound, least: int = LEAST, vouching: Vouching = NOBODY) -> None:
        """Take part in sums of one run.

        Args:
            agreed: What the client knows of the run.
            least: The fewest clients that must have trained what is opened, as the owner asks.
            vouching: Signs this client's keys, and checks those of others.
        """
        self._agreed, self._least, self._vouching = agreed, least, vouching
        self._people: dict[str, Participant] = {}
        self._plans: dict[str, Plan] = {}

    def keys(self, fields: Fields) -> Fields:
        """Start a sum, and return this client's public keys."""
        purpose, bits = str(fields["purpose"]), int(fields["bits"])
        if purpose in self._people or bits not in (32, 64):
            raise PrivacyError("expected a new purpose of a secure sum, and 32 or 64 bits; found others")
        self._people[purpose] = Participant(int(fields["client"]), purpose.encode(), bits)
        while len(self._people) > MOST_SUMS:
            oldest = next(iter(self._people))
            del self._people[oldest]
            self._plans.pop(oldest, None)
        keys = self._vouching.signed(self._people[purpose].advertise(), purpose, int(fields["client"]))
        return {"keys": write_keys(keys)}

    def shares(self, fields: Fields) -> Fields:
        """Return the encrypted shares for the other clients, once the plan is one that the owner allows."""
        keys = {int(k): read_keys(text) for k, text in read_object(fields["keys"]).items()}
        self._vouching.check(keys, str(fields["purpose"]))
        told = str(fields["plan"])
        try:
            plan = PLANS.validate_json(told)
        except ValidationError as error:
            raise UpdateError("expected the plan of a secure sum; found something else", "malformed") from error
        if plan.least < self._least:
            raise not_allowed(f"sums over at least {self._least} clients (least of the consent)", plan.least)
        if plan.length > self._agreed.longest and plan.encoding is not None:
            raise UpdateError(f"expected at most {self._agreed.longest} numbers in a vector", "malformed")
        sealed = self._of(fields).share(keys, self._agreed.layout(plan), told.encode())
        self._plans[str(fields["purpose"])] = plan
        return write_sealed(sealed)

    def unmask(self, fields: Fields) -> Fields:
        """Return the shares with which the server takes out masks; the sum is over then."""
        stayed = [int(k) for k in read_list(fields["stayed"])]
        shares = self._of(fields).unmask(stayed)
        return {"shares": write_shares(shares)}

    def update(self, fields: Fields, task: Task, update: Update) -> Fields:
        """Return a masked update, of a task that is what the plan told everybody."""
        plan = self._plans.get(str(fields.get("purpose")))
        if plan is None or plan.encoding is None:
            raise PrivacyError("expected a task with the plan of its sum; found none")
        allocation = plan.allocations.get(task.client, Allocation(()))
        if trained(task.allocation) != replace(allocation, ranks=()):
            raise PrivacyError("expected the task that the plan of its sum tells the others; found another")
        own = replace(self._agreed.federation.clients[0], id=task.client)
        federation = replace(self._agreed.federation, clients=(own,))
        agreed = replace(self._agreed, federation=federation, most_samples=_most(plan.encoding))
        return self._masked(fields, agreed.vector(replace(task, allocation=allocation), update, plan.encoding))

    def sums(self, fields: Fields, sums: HeadSums) -> Fields:
        """Return masked head statistics."""
        return self._whole(fields, statistics_vector(sums, int(fields.get("most", 0)) or None))

    def scores(self, fields: Fields, sums: BlockSums) -> Fields:
        """Return masked sums for Fisher scores."""
        return self._whole(fields, score_vector(sums, len(sums.squares)))

    def _whole(self, fields: Fields, vector: np.ndarray) -> Fields:
        plan = self._plans.get(str(fields.get("purpose")))
        if plan is None or plan.encoding is not None:
            raise PrivacyError("expected a sum to which every client contributes everywhere; found another")
        return self._masked(fields, vector)

    def _masked(self, fields: Fields, vector: np.ndarray) -> Fields:
        sealed = {int(k): bytes.fromhex(text) for k, text in read_object(fields.get("shares")).items()}
        return {"masked": self._of(fields).mask(vector, sealed).tobytes()}

    def _of(self, fields: Fields) -> Participant:
        found = self._people.get(str(fields.get("purpose")))
        if found is None:
            raise PrivacyError("expected a sum that this client has sent keys for; it may have started anew")
        return found


def _most(encoding: Encoding) -> int | None:
    """Return the most samples that a client weighs for, as the bound on their number states; None where it is none."""
    return int(encoding.numbers["samples"]) if "samples" in encoding.numbers else None


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
    return (keys.encryption + keys.masks + keys.vouched).hex()


def read_keys(text: str) -> PublicKeys:
    """Read back public keys.

    Raises:
        UpdateError: If they are none.
    """
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if not 64 <= len(found) <= LONGEST_KEYS:
        raise UpdateError("expected public keys of 64 bytes; found something else", "malformed")
    return PublicKeys(found[:32], found[32:64], found[64:])


def write_sealed(sealed: Sealed) -> Fields:
    """Return what a client hands out of its secrets as the fields of a reply."""
    shares = json.dumps({str(k): value.hex() for k, value in sealed.shares.items()})
    return {"shares": shares, "commitments": b"".join(sealed.commitments)}


def read_sealed(reply: Fields) -> Sealed:
    """Read back what a client hands out of its secrets.

    Raises:
        UpdateError: If it is something else.
    """
    commitments = reply.get("commitments")
    if not isinstance(commitments, bytes) or len(commitments) % 32:
        raise UpdateError("expected commitments of 32 bytes; found something else", "malformed")
    try:
        shares = {int(k): bytes.fromhex(text) for k, text in read_object(reply.get("shares")).items()}
    except ValueError as error:
        raise UpdateError("expected encrypted shares; found something else", "malformed") from error
    return Sealed(tuple(commitments[i : i + 32] for i in range(0, len(commitments), 32)), shares)


def write_shares(shares: Shares) -> str:
    """Return revealed shares as JSON."""
    parts = {name: {str(k): one.hex() for k, one in getattr(shares, name).items()} for name in ("own", "pairs")}
    return json.dumps({"index": shares.index, **parts})


def read_shares(text: Any) -> Shares:
    """Read back revealed shares.

    Raises:
        UpdateError: If they are none.
    """
    try:
        found = json.loads(text)
        own, pairs = ({int(k): bytes.fromhex(one) for k, one in found[name].items()} for name in ("own", "pairs"))
        index = found["index"]
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise UpdateError("expected the shares of a secure sum; found something else", "malformed") from error
    right = all(len(one) % SECRET == 0 for one in own.values()) and all(len(one) == SECRET for one in pairs.values())
    if type(index) is not int or index < 1 or not right:
        raise UpdateError(f"expected shares of {SECRET} bytes with the index of a client; found others", "malformed")
    return Shares(index, own, pairs)
