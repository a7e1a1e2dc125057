"""`python -m dashboards`: writes the dashboards' files beside itself.

Turns every dashboard into a file of JSON, sorted, so that a change shows as what it is. Knows: the files' names. Does
not know: what is on them.
"""

from __future__ import annotations

import json
from pathlib import Path

from dashboards.exporter import exporter
from dashboards.fleet import fleet
from dashboards.node import node
from dashboards.slice_page import slice_page

FOLDER = Path(__file__).parent / "json"


def files() -> dict[str, str]:
    """Return the text of each file by its name."""
    made = (fleet(), node(), slice_page(), exporter())
    return {f"{one['uid']}.json": json.dumps(one, indent=2, sort_keys=True, ensure_ascii=False) + "\n" for one in made}


def write() -> None:
    """Write all files, and remove those that are none any more."""
    FOLDER.mkdir(exist_ok=True)
    texts = files()
    for stale in {path.name for path in FOLDER.glob("*.json")} - set(texts):
        (FOLDER / stale).unlink()
    for name, text in texts.items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    write()
