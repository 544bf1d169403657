"""What leaves of a client's single samples under differential privacy, counted by the client itself.

Where ``privacy.unit`` is ``sample``, a client adds the noise of its steps itself, and counts what an answer releases
before it answers. It refuses what would exceed the ε that the run promised, or that its owner allows (``epsilon`` of
the consent). Head statistics are counted, too, but their noise is added to the sum by the server, which is trusted with
that. What is counted is kept in a file as long as the client's process, or for good (``ledger`` of the consent); what
was fixed by the first request, as long as the client's process.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from filelock import FileLock

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
from fedhello.types import NoisySteps, Task

LONGEST = 10_000_000
"""The most characters of a ledger's file."""


@dataclass
class OwnLedger:
    """Counts what of a client's samples is released.

    Attributes:
        spent: What was, against the budget.
        head: The release of head statistics.
        trains: Whether clients train in this run.
        samples: n, the client's.
        file: Where it is kept; None keeps it in memory.
        how: The steps of the first task. All others are like them, since ε of steps that are chosen by what came before
            is not known; None before it.
        asked: Whether head statistics were sent.
        fixed: The file in which ``how`` and ``asked`` are kept for a worker that is started anew; None keeps them in
            memory.
    """

    spent: Ledger
    head: Release
    trains: bool
    samples: int
    file: Path | None = None
    how: NoisySteps | None = None
    asked: bool = False
    fixed: Path | None = None

    def sums(self, adapter: bool) -> None:
        """Count an answer with head statistics.

        Args:
            adapter: Whether they are asked for under an adapter, and not of the model as it was loaded.

        Raises:
            RefusalError: If they were sent already, or the budget does not cover them.
        """
        if self.asked or adapter:
            raise not_allowed("head statistics once, before training, where single samples are protected", "more")
        self._count(self.head)
        self.asked = True
        self._fix()

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
            RefusalError: If it trains without noise or with another than before, a step is expected to have less than
                one sample, or the budget does not cover it.
        """
        how = task.steps
        if how is None or task.clip is None or not self.trains:
            raise not_allowed("steps that protect single samples, as the run promises", "a task without")
        if self.how not in (None, how):
            raise not_allowed(f"the same steps in every round ({self.how})", how)
        # With fewer, one that is drawn is almost in the clear, and δ alone covers it.
        if how.rate * self.samples < 1 - 1e-6:
            raise not_allowed("a step to have one sample or more on average", f"{how.rate * self.samples:.2g}")
        self._count(Release(STEP, how.noise, how.rate, how.steps))
        self.how = how
        self._fix()

    def follow(self, before: "OwnLedger") -> None:
        """Go on from another ledger of this process, as a server may ask to join as often as it wants."""
        self.how, self.asked = before.how, before.asked
        if self.file is None:
            budget = min(self.spent.budget, before.spent.budget)
            self.spent = replace(self.spent, releases=before.spent.releases, budget=budget)

    def _fix(self) -> None:
        """Write down what no later request may change."""
        if self.fixed is not None:
            how = None if self.how is None else asdict(self.how)
            write_whole(self.fixed, json.dumps({"how": how, "asked": self.asked}))

    def _count(self, release: Release) -> None:
        """Count a release, and write it down before it leaves."""
        with _alone(self.file):
            before = self.spent if self.file is None else _read(self.file, self.spent, True)
            try:
                self.spent = before.spent(release)
            except PrivacyError as error:
                over = f"ε of {before.budget:g} at δ={before.delta:g} for its samples, by its own ledger"
                raise not_allowed(over, f"more: {error}") from error
            if self.file is not None:
                write_whole(self.file, json.dumps(write_ledger(self.spent), indent=1))


def own_ledger(
    config: Config, method: Method, consent: Consent, samples: int, kept: Path | None = None
) -> OwnLedger | None:
    """Return a client's own ledger; None where no single samples are protected.

    Args:
        config: The configuration, as the client takes part in it.
        method: Its method.
        consent: The owner's.
        samples: n.
        kept: The file for a client without one of its owner's, beside which is kept what the first request fixed; None
            keeps both in memory.

    Raises:
        RefusalError: If δ allows to publish a sample, or the budget covers no head statistics any more.
        PrivacyError: If the file holds no ledger of single samples.
        MissingExtraError: If the package for accounting is not installed.
    """
    privacy = config.privacy
    if privacy.epsilon is None or privacy.unit != "sample":
        return None
    check_accounting()
    new = Ledger(privacy.epsilon, privacy.delta, unit="sample")
    if consent.ledger is not None and consent.epsilon is not None:
        new = Ledger(consent.epsilon, consent.delta, unit="sample")
    if new.delta * samples >= 1:
        raise not_allowed(f"a δ below 1/{samples}, as one sample of so many could be published else", f"{new.delta:g}")
    file, trains = consent.ledger or kept, not method.head_alone
    spent = new if file is None else _read(file, new, consent.ledger is not None)
    found = OwnLedger(spent, head_release(config, trains), trains, samples, file)
    if kept is not None:
        found.fixed = kept.with_name("fixed.json")
        found.how, found.asked = _read_fixed(found.fixed)
    if not found.asked:
        try:
            spent.check(found.head)
        except PrivacyError as error:
            raise not_allowed(f"what its ledger has room for ({file})", f"more: {error}") from error
    return found


def _read_fixed(file: Path) -> tuple[NoisySteps | None, bool]:
    """Return the steps of the first task, and whether head statistics were sent, as this client wrote them down."""
    if not file.exists():
        return None, False
    found = json.loads(file.read_bytes())
    return None if found["how"] is None else NoisySteps(**found["how"]), found["asked"]


def _read(file: Path, now: Ledger, owned: bool) -> Ledger:
    """Return what a file says was spent, at today's δ.

    Args:
        file: The file.
        now: With today's budget.
        owned: Whether the budget is the owner's.
    """
    if not file.exists():
        return now
    if file.stat().st_size > LONGEST:
        raise PrivacyError(f"expected a ledger of at most {LONGEST} characters in {file}; found more")
    try:
        found = read_ledger(json.loads(file.read_bytes()))
    except (ValueError, RecursionError) as error:
        raise PrivacyError(f"expected a privacy ledger in {file}; found no JSON") from error
    if found.unit != now.unit:
        raise PrivacyError(f"expected a ledger of single samples in {file}; found one of single {found.unit}s")
    # No server raises what it, or another, promised this process before; an owner may raise what is allowed.
    budget = now.budget if owned else min(found.budget, now.budget)
    return replace(now, releases=found.releases, budget=budget)


@contextmanager
def _alone(file: Path | None) -> Iterator[None]:
    """Keep other clients from a ledger's file."""
    if file is None:
        yield
        return
    with FileLock(file.with_name(f".{file.name}.lock"), thread_local=False):
        yield
