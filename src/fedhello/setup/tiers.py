"""The tiers of a first configuration: as asked for in bytes, or a guess in blocks that is said to be one."""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from fedhello.config.schema import ClientsConfig
from fedhello.config.section import ConfigMapping
from fedhello.config.text import yaml_line
from fedhello.errors import ConfigError

BLOCKS = (2, 4, 6)
"""Blocks of the tiers where nothing is known of the machines."""

FEW_CLIENTS = 4
"""Blocks of the only tier of fewer clients than there are tiers."""

EXAMPLE = "1GB,4GB, or with shares 3/4:1GB,1/4:4GB"


@dataclass(frozen=True)
class StarterTiers:
    """The tiers of a first configuration.

    Attributes:
        rows: Each with ``share`` and ``blocks`` or ``memory``.
        said: A line on what they are, why, and how to change them.
    """

    rows: tuple[ConfigMapping, ...]
    said: str

    def lines(self) -> list[str]:
        """Return the section ``clients`` of the configuration."""
        what = {
            "blocks": "trains at most so many blocks of the model in a round",
            "memory": "bytes that training may take",
        }
        rows = [f"    - {yaml_line(row)}" for row in self.rows]
        kind = "memory" if "memory" in self.rows[0] else "blocks"
        return [
            "clients:",
            "  tiers:  # shares of the clients, and what each of them may spend; given out by id, in this order",
            f"{rows[0]}  # {kind}: {what[kind]}",
            *rows[1:],
            *(
                ["    # in bytes: - {share: 1/2, memory: 2GB}; see docs/how-to/give-budgets-in-bytes.md"]
                * (kind == "blocks")
            ),
        ]


def starter_tiers(memory: str | Sequence[str] | None, clients: int) -> StarterTiers:
    """Return the tiers for a number of clients.

    Args:
        memory: The memory of each tier, such as ``1GB,4GB``, each with its share before a colon or none with one; None
            guesses.
        clients: The number of clients.

    Raises:
        ConfigError: If the memory is not readable, the shares do not sum to 1, or there are more tiers than clients.
    """
    if memory is None:
        return _guessed(clients)
    words = [word.strip() for word in (memory.split(",") if isinstance(memory, str) else memory)]
    pairs = [word.rpartition(":")[::2] for word in words]
    if len({bool(share) for share, _ in pairs}) > 1:
        raise ConfigError(f"expected a share for each tier or for none; found {', '.join(words)}. Write {EXAMPLE}.")
    rows: list[ConfigMapping] = [
        {"share": share.strip() or _equal(len(pairs)), "memory": count.strip()} for share, count in pairs
    ]
    try:
        ClientsConfig.model_validate({"tiers": rows})
    except ValidationError as error:
        why = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigError(f"expected the memory of tiers, such as {EXAMPLE}; found {','.join(words)}: {why}") from error
    if len(rows) > clients:
        raise ConfigError(f"expected at most one tier for each of the {clients} clients; found {len(rows)} tiers")
    listed = ", ".join(f"{row['share']} of the clients with {row['memory']}" for row in rows)
    return StarterTiers(tuple(rows), f"tiers: {listed}, as asked; fedhello plan shows what each of them trains")


def _equal(count: int) -> int | str:
    return 1 if count == 1 else f"1/{count}"


def _guessed(clients: int) -> StarterTiers:
    blocks = BLOCKS if clients >= len(BLOCKS) else (FEW_CLIENTS,)
    rows: tuple[ConfigMapping, ...] = tuple({"share": _equal(len(blocks)), "blocks": count} for count in blocks)
    who = f"{_equal(len(blocks))} of the clients each" if len(blocks) > 1 else "every client"
    return StarterTiers(
        rows,
        f"tiers: {who} train{'' if len(blocks) > 1 else 's'} at most {', '.join(map(str, blocks))} blocks, which is a "
        "guess, since nothing is known of their machines. State their memory instead: --memory 1GB,4GB, or "
        "clients.tiers in the file",
    )
