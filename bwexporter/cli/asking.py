"""Asking a running bwexporter, over its API.

Turns a URL into an answer. Knows: how an unreachable program is said to people. Does not know: what an answer means.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

from bwexporter.config import load_config
from bwexporter.errors import BwexporterError

TIMEOUT_SECONDS = 5.0


def url_of(config_path: Path) -> str:
    """Return where the bwexporter of a configuration answers; an address for everybody is asked on loopback."""
    listen = load_config(config_path).listen[0]
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen.host, listen.host)  # noqa: S104 - read only
    return f"http://[{host}]:{listen.port}" if ":" in host else f"http://{host}:{listen.port}"


def slices(url: str) -> dict[str, Any]:
    """Return the answer of /api/v1/slices; BwexporterError where there is none."""
    return answer(url, "/api/v1/slices", "slices")


def answer(url: str, question: str, key: str) -> dict[str, Any]:
    """Return the answer to a question of the API, which has that key; BwexporterError where there is none."""
    if not url.startswith(("http://", "https://")):
        raise BwexporterError(f"{url} is not a URL; write for example http://127.0.0.1:10099")
    # An operator's proxy for the outside must not swallow a question to this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url.rstrip('/')}{question}", timeout=TIMEOUT_SECONDS) as response:
            found = json.load(response)
    except urllib.error.HTTPError as error:
        if error.code == 503:
            raise BwexporterError(f"the bwexporter at {url} has not ended its first turn; ask again") from error
        raise BwexporterError(f"{url} answers {error.code} {error.reason}; is it a bwexporter?") from error
    except (OSError, ValueError, HTTPException) as error:
        raise BwexporterError(f"no bwexporter answers at {url} ({_reason(error)}); is it running?") from error
    if not isinstance(found, dict) or key not in found:
        raise BwexporterError(f"{url} answers something else; is it a bwexporter?")
    return found


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return getattr(reason, "strerror", None) or str(reason).strip() or type(reason).__name__
