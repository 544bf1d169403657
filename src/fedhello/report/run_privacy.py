"""The fifth section of a run's page: is it private? Only what is so is said, and what left the clients is listed."""

from collections.abc import Iterator
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


def _answer(facts: RunFacts) -> Iterator[str]:
    settings: dict[str, Any] = facts.config.get("privacy") or {}
    secure, epsilon = bool(settings.get("secure")), settings.get("epsilon")
    guarantee = None if facts.summary is None else facts.summary.guarantee
    if guarantee is not None:
        yield f"What left the clients is {guarantee}." if not guarantee.startswith("nothing") else f"{guarantee}."
    elif epsilon is not None:
        yield f"It is to be differentially private within ε = {epsilon:g}; the ledger comes with the end of the run."
    else:
        yield (
            "There is no differential privacy in this run: nothing bounds what can be inferred about a client's data "
            "from what it sent, or from the model."
        )
    yield (
        "Clients masked what they computed (secure sums), so that the server learnt sums over clients alone."
        if secure
        else "The server saw each client's contribution by itself (no secure sums)."
    )
    engine = (facts.config.get("run") or {}).get("engine")
    yield (
        "Clients were on other machines; samples, texts and pictures stayed with them. What left them is below."
        if engine == "flower"
        else "All clients were played on one machine, which has all data; what is below would leave real ones."
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
    if updates or counted:
        what = "values of the factors (and of the head, if it trains), their number of samples, their loss and times"
        rows.append(["updates", what, counted + refused, updates])
    if sums:
        what = "class sums for the head: how many samples of each class, and sums of the model's features over them"
        rows.append(["sums for the head", what, sum(change.clients for change in heads), sums])
    if whole - updates - sums > 0:
        rows.append(
            ["sums for Fisher scores", "squared norms of gradients, one number per block", None, whole - updates - sums]
        )
    columns = (
        Column("kind", "kind"),
        Column("what", "what is in it"),
        Column("messages", "messages", "integer"),
        Column("bytes", "bytes", "bytes"),
    )
    note = (
        "Not sent: samples, texts, pictures, file names, personal heads. Something about samples can be inferred from "
        "updates, sums and losses; docs/explanation/what-leaves-a-client.md says what."
    )
    return DataTable(f"What left the clients: {human_bytes(whole)}", columns, rows, note)
