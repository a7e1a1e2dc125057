"""The shelf: what a source last said that was good, on disk, for the next start.

Turns a text into a file that only its owner may read, and back. Knows: how a file is replaced as a whole. Does not
know: what the text means, who gave it.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from bwexporter.regular import open_regular

_LARGEST_BYTES = 1 << 27


NOT_KEPT = "what is good now cannot be kept for the next start"


@dataclass(frozen=True, slots=True)
class Kept:
    """A text, what the server calls its version, and when it was taken."""

    text: str
    version: str = ""  # the header ETag
    modified: str = ""  # the header Last-Modified
    taken_at_wall_seconds: float = 0.0


class Shelf:
    """A file beside the state, for one source; without `keeps` nothing is put there."""

    def __init__(self, state: Path, kind: str, place: str, *, keeps: bool = True) -> None:
        self._keeps = keeps
        digest = sha256(f"{kind} {place}".encode()).hexdigest()
        self.path = state.with_name(f"{state.name}.source-{digest[:12]}.json")

    def take(self) -> Kept | None:
        """Return the text that was put there; None where there is none that can be read."""
        try:
            with open_regular(self.path) as stream:
                kept = Kept(**json.loads(stream.read(_LARGEST_BYTES)))
            right = all(isinstance(text, str) for text in (kept.text, kept.version, kept.modified))
            return kept if right and isinstance(kept.taken_at_wall_seconds, int | float) else None
        except (OSError, ValueError, TypeError, RecursionError):
            return None  # A server is asked soon enough; the file is replaced then.

    def put(self, kept: Kept) -> str:
        """Put a text there in place of the older one; return what kept it from being done, empty if nothing."""
        if not self._keeps:
            return ""
        beside = self.path.with_name(f"{self.path.name}.new")
        try:
            with suppress(FileNotFoundError):
                beside.unlink()
            with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
                json.dump(asdict(kept), stream)
                stream.flush()
                os.fsync(stream.fileno())
            beside.replace(self.path)
        except OSError as trouble:
            with suppress(OSError):
                beside.unlink()
            return trouble.strerror or "unknown trouble"
        return ""
