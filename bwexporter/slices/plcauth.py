"""How a PlanetLab Central is told who asks.

Turns a YAML file into the struct that each call of PLCAPI begins with. Knows: its key `AuthMethod`, that its values are
secret. Does not know: which methods there are; PLC does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bwexporter.errors import ConfigError
from bwexporter.fetch import FetchError
from bwexporter.yamlfile import load_yaml

METHOD = "AuthMethod"
_OPEN = frozenset({METHOD, "Role"})


@dataclass(frozen=True, slots=True)
class Auth:
    """The struct; nothing shows it."""

    struct: Mapping[str, str | int] = field(repr=False)

    def hidden(self, text: str) -> str:
        """Return a text without any secret of the struct."""
        for key, value in self.struct.items():
            if key not in _OPEN and isinstance(value, str) and value:
                text = text.replace(value, "***")
        return text


ANONYMOUS = Auth({METHOD: "anonymous"})


def read_auth(path: Path | None) -> Auth:
    """Read the file; without one PLC is asked anonymously. FetchError, which repeats nothing that stands in it."""
    if path is None:
        return ANONYMOUS
    try:
        data = load_yaml(path).data
    except ConfigError as trouble:
        problem = trouble.problems[0]
        # What is wrong with a line of YAML may repeat a part of it; that the file cannot be opened does not.
        reason = f"line {problem.line} of it is not YAML" if problem.line else problem.text
        raise FetchError(f"the file {path} cannot be used: {reason}") from None
    if not isinstance(data, dict) or not isinstance(data.get(METHOD), str):
        raise FetchError(f"the file {path} cannot be used: it needs the key {METHOD}, as {METHOD}: password")
    if not all(isinstance(value, str | int) and not isinstance(value, bool) for value in data.values()):
        raise FetchError(f"the file {path} cannot be used: each value of it must be text or a whole number")
    return Auth(data)
