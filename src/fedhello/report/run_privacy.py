"""The fifth section of a run's page: is it private? Only what is so is said, and what left the clients is listed."""

from collections.abc import Iterator, Mapping
from typing import Any

from fedhello.formatting import human_bytes
from fedhello.report.figures import Card, Cell, Column, DataTable, Part, Section
from fedhello.report.run_cost import totals
from fedhello.report.run_facts import RunFacts


def privacy_cards(facts: RunFacts) -> list[Card]:
    """Return ε, if the run is differentially private."""
    ledger = None if facts.summary is None else facts.summary.privacy
    if ledger is None:
        return []
    unit = {"client": "for all data of a client", "sample": "for single samples"}[ledger.get("unit", "client")]
    return [Card("privacy", f"ε = {ledger['epsilon']:.3g}", f"δ = {ledger['delta']:g}, {unit}")]


def privacy(facts: RunFacts) -> Section:
    """Return the section."""
    parts: list[Part] = [_what_left(facts)]
    if facts.summary is not None and facts.summary.privacy is not None:
        parts.insert(0, _releases(facts.summary.privacy))
    return Section("privacy", "Is it private?", list(_answer(facts)), parts)


def _settings(facts: RunFacts) -> Mapping[str, Any]:
    return facts.config.get("privacy") or {}


def _by_sample(facts: RunFacts) -> bool:
    """Whether single samples are protected, not whole clients."""
    return facts.is_private and _settings(facts).get("unit") == "sample"


def _is_remote(facts: RunFacts) -> bool:
    return (facts.config.get("run") or {}).get("engine") == "flower"


def _answer(facts: RunFacts) -> Iterator[str]:
    secure, remote = bool(_settings(facts).get("secure")), _is_remote(facts)
    yield _guarantee(facts)
    if facts.is_private:
        yield _who_adds_noise(facts)
        yield _who_took_part(facts)
    if not secure:
        yield "The server saw each client's contribution by itself (no secure sums)."
    else:
        joined = "; what a client stated when it joined, it saw" if remote else ""
        yield f"Of what clients worked out, the server learnt sums over clients alone (secure sums){joined}."
    yield (
        "Clients were on other machines; samples, texts and pictures stayed with them. What left them is below."
        if remote
        else "All clients were played on one machine, which has all data; what is below would leave real ones."
    )


def _guarantee(facts: RunFacts) -> str:
    guarantee = None if facts.summary is None else facts.summary.guarantee
    if guarantee is not None:
        if guarantee.startswith("nothing"):
            return f"{guarantee[:1].upper()}{guarantee[1:]}."
        return f"The model, and all that the server released on the way to it, is {guarantee}."
    if facts.is_private:
        budget = _settings(facts)["epsilon"]
        return f"It is to be differentially private within ε = {budget:g}; the ledger comes with the end of the run."
    return (
        "There is no differential privacy in this run: nothing bounds what can be inferred about a client's data from "
        "what it sent, or from the model."
    )


def _who_adds_noise(facts: RunFacts) -> str:
    if _by_sample(facts):
        return (
            "In training each client adds the noise itself, so that this holds towards the server, too; the noise on "
            "the sums for the head is the server's, and what a client sent for them had none."
        )
    return "The server adds the noise, and is trusted to: what left a client had none."


def _who_took_part(facts: RunFacts) -> str:
    """Say what of this folder tells who was in which round, and whether ε counts on its being secret."""
    named = "rounds.jsonl in this folder names who took part in which round"
    if (facts.config.get("train") or {}).get("sampling") != "poisson" or _by_sample(facts):
        return f"{named}; ε does not count on that being secret."
    return (
        f"ε counts on it being secret who took part in which round: this page does not name them, but {named}, and "
        "this page counts them by round and tier. Keep both to those who may know."
    )


def _releases(ledger: dict[str, Any]) -> DataTable:
    columns = (
        Column("name", "released"),
        Column("noise", "noise σ", "number"),
        Column("rate", "chance to take part", "percent"),
        Column("times", "times", "integer"),
        Column("client", "of client", "integer"),
    )
    rows: list[list[Cell]] = [
        [one["name"], one.get("noise"), one.get("rate"), one.get("times"), one.get("client")]
        for one in ledger["releases"]
    ]
    note = f"All of it together costs ε = {ledger['epsilon']:.4g} of {ledger['budget']:g} at δ = {ledger['delta']:g}."
    return DataTable("The ledger", columns, rows, note)


def _what_left(facts: RunFacts) -> DataTable:
    """Return the kinds of contributions with their bytes."""
    heads = [change for _, change in facts.heads] + ([facts.first_head] if facts.first_head else [])
    sums = sum(change.bytes_up for change in heads)
    whole, _ = totals(facts)
    counted = sum(tally.participations for tally in facts.tiers.values())
    refused = sum(sum(tally.rejections.values()) for tally in facts.tiers.values())
    updates = sum(tally.bytes_up for tally in facts.tiers.values())
    rows: list[list[Cell]] = []
    if _is_remote(facts):
        rows.append(["facts on joining", _join_words(facts), len(facts.entries), None])
    if updates or counted:
        rows.append(["updates", _update_words(facts), counted + refused, updates])
    if sums:
        what = "how many samples of each class, and sums of the model's features over them"
        rows.append(["sums for the head", what + _sent_as(facts), sum(change.clients for change in heads), sums])
    if whole - updates - sums > 0:
        what = (
            "the share of each block in the squared norms of gradients"
            if facts.is_private
            else "squared norms of gradients, one number per block, and the number of samples"
        )
        rows.append(["sums for Fisher scores", what + _sent_as(facts), None, whole - updates - sums])
    columns = (
        Column("kind", "kind"),
        Column("what", "what is in it"),
        Column("messages", "messages", "integer"),
        Column("bytes", "bytes", "bytes"),
    )
    note = (
        "Not sent: samples, texts, pictures, file names, personal heads. Something about samples can be inferred from "
        "what is sent; docs/explanation/what-leaves-a-client.md says what."
    )
    if _is_remote(facts):
        note += " The bytes are without those of joining."
    return DataTable(f"What left the clients: {human_bytes(whole)}", columns, rows, note)


def _join_words(facts: RunFacts) -> str:
    """Say what a client states when it joins, which no mask and no noise covers."""
    if not facts.is_private:
        return (
            "its name, the number of its samples, the labels that occur, the sizes of its batches in samples and "
            "tokens, its budget, and the speed of its machine: the server sees them as they are"
        )
    samples = ", the number of its samples" if _by_sample(facts) else ""
    return f"its name{samples}, its budget, and the speed of its machine: the server sees them as they are"


def _update_words(facts: RunFacts) -> str:
    """Say what is in an update; see ``fedhello.network.leaves``."""
    if _by_sample(facts):
        what = "values of the factors, trained with noise; no loss and no measurements"
    elif facts.is_private:
        what = "by how much the factors changed, shortened; no number of samples, no loss and no measurements"
    else:
        what = "values of the factors (and of a shared head, if it trains), the number of samples, and the loss"
        if not _settings(facts).get("secure"):
            what += ", with measurements such as times and batch shapes"
    return what + _sent_as(facts, noise=False)


def _sent_as(facts: RunFacts, noise: bool = True) -> str:
    """Say in which form a contribution leaves."""
    found = "; shortened, without noise" if noise and facts.is_private else ""
    return found + ("; masked, so that the server reads the sum alone" if _settings(facts).get("secure") else "")
