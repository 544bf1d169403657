"""What leaves of a client's single samples under differential privacy, counted by the client itself.

Where ``privacy.unit`` is ``sample``, a client adds the noise of its steps itself, so it need not trust the server to
keep to the budget: before it answers it counts what the answer releases, and refuses what would exceed the ε that the
run promised, or that its owner allows (``epsilon`` of the consent). Head statistics are counted, too; their noise is
added to the sum by the server. Without a file (``ledger`` of the consent) a client that starts anew counts from zero.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from fedhello.config.schema import Config
from fedhello.config.settings import head_release
from fedhello.errors import PrivacyError
from fedhello.method import Method
from fedhello.model.private_sums import STEP
from fedhello.network.consent import Consent, not_allowed
from fedhello.privacy.ledger import Ledger, read_ledger, write_ledger
from fedhello.runs.files import write_whole
from fedhello.setup.private import check_accounting
from fedhello.state import Release
from fedhello.types import Task

LONGEST = 10_000_000
"""The most characters of a ledger's file."""


@dataclass
class OwnLedger:
    """Counts what of a client's samples is released.

    Attributes:
        spent: What was, against the budget.
        head: The release of head statistics.
        trains: Whether clients train in this run.
        file: Where it is kept; None keeps it in memory.
    """

    spent: Ledger
    head: Release
    trains: bool
    file: Path | None = None

    def sums(self) -> None:
        """Count an answer with head statistics.

        Raises:
            RefusalError: If the budget does not cover it.
        """
        self._count(self.head)

    def scores(self) -> None:
        """Refuse an answer with Fisher scores, whose noise is not counted for samples.

        Raises:
            RefusalError: Always.
        """
        raise not_allowed("no Fisher scores of clients where single samples are protected", "a request for them")

    def train(self, task: Task) -> None:
        """Count the steps of a task.

        Args:
            task: The server's.

        Raises:
            RefusalError: If it trains without noise, or the budget does not cover it.
        """
        how = task.steps
        if how is None or task.clip is None or not self.trains:
            raise not_allowed("steps that protect single samples, as the run promises", "a task without")
        self._count(Release(STEP, how.noise, how.rate, how.steps))

    def _count(self, release: Release) -> None:
        """Count a release, and write it down before it leaves."""
        try:
            self.spent = self.spent.spent(release)
        except PrivacyError as error:
            over = f"ε of {self.spent.budget:g} at δ={self.spent.delta:g} for its samples, by its own ledger"
            raise not_allowed(over, f"more: {error}") from error
        if self.file is not None:
            write_whole(self.file, json.dumps(write_ledger(self.spent), indent=1))


def own_ledger(config: Config, method: Method, consent: Consent) -> OwnLedger | None:
    """Return a client's own ledger; None where no single samples are protected.

    Args:
        config: The configuration, as the client takes part in it.
        method: Its method.
        consent: The owner's.

    Raises:
        PrivacyError: If the file holds no ledger of single samples at this δ.
        MissingExtraError: If the package for accounting is not installed.
    """
    privacy = config.privacy
    if privacy.epsilon is None or privacy.unit != "sample":
        return None
    check_accounting()
    budget = privacy.epsilon if consent.ledger is None or consent.epsilon is None else consent.epsilon
    new = Ledger(budget, privacy.delta, unit="sample")
    trains = not method.head_alone
    return OwnLedger(_read(consent.ledger, new), head_release(config, trains), trains, consent.ledger)


def _read(file: Path | None, new: Ledger) -> Ledger:
    """Return what a file says was spent, against a new ledger's budget."""
    if file is None or not file.exists():
        return new
    if file.stat().st_size > LONGEST:
        raise PrivacyError(f"expected a ledger of at most {LONGEST} characters in {file}; found more")
    try:
        found = read_ledger(json.loads(file.read_bytes()))
    except (ValueError, RecursionError) as error:
        raise PrivacyError(f"expected a privacy ledger in {file}; found no JSON") from error
    if found.unit != new.unit or found.delta != new.delta:
        raise PrivacyError(
            f"expected a ledger of single samples at δ={new.delta:g} in {file} (ledger of the consent); found one of "
            f"single {found.unit}s at δ={found.delta:g}. Name another file, or have the server set "
            f"privacy.delta={found.delta:g}."
        )
    return replace(new, releases=found.releases)
