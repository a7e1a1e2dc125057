"""How long a client may take.

Turns nothing into anything: it names the limits. Knows: the defaults. Does not know: who keeps them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds for each part of a conversation."""

    handshake_seconds: float = 5.0  # of TLS, and for its end
    request_seconds: float = 10.0  # from the connection, or the first byte, to the end of the request's header
    answer_seconds: float = 30.0  # from there until the answer is made and taken
    idle_seconds: float = 75.0  # between requests: Prometheus comes back on the same connection
