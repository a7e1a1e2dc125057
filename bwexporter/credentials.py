"""Who asks a server, and which servers are believed.

Turns files into headers and a TLS context. Knows: bearer tokens, basic authentication, client certificates, that a
secret stands in a file and is shown by nothing. Does not know: what is asked.
"""

from __future__ import annotations

import base64
import ssl
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from bwexporter.fetch import FetchError, trusted
from bwexporter.regular import held_regular, open_regular

_LONGEST_SECRET = 8192


@dataclass(frozen=True, slots=True)
class Credentials:
    """What one server is asked with; nothing of it is needed."""

    token_file: Path | None = None
    user: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None  # None: the certificate authorities of the system's list
    cert_file: Path | None = None
    key_file: Path | None = None  # None: the key stands in the file of the certificate

    def headers(self) -> dict[str, str]:
        """Return the header that says who asks, none where nobody is named; FetchError."""
        if self.token_file is not None:
            return {"authorization": f"Bearer {read_secret(self.token_file)}"}
        if self.user is not None and self.password_file is not None:
            pair = f"{self.user}:{read_secret(self.password_file)}".encode()
            return {"authorization": f"Basic {base64.b64encode(pair).decode()}"}
        return {}

    def context(self) -> ssl.SSLContext | None:
        """Return what TLS goes by, None where it is as usual; FetchError."""
        if self.ca_file is None and self.cert_file is None:
            return None
        context = ssl.create_default_context() if self.ca_file is None else trusted(self.ca_file)
        if self.cert_file is not None:
            try:
                of_key = held_regular(self.key_file) if self.key_file else nullcontext()
                with held_regular(self.cert_file) as certificate, of_key as key:
                    context.load_cert_chain(certificate, key, password=_no_passphrase)
            except (OSError, ssl.SSLError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else None
                raise FetchError(
                    f"the certificate {self.cert_file} cannot be used: "
                    f"{reason or 'it and its key are not a pair in PEM, without a passphrase'}"
                ) from None
        return context


def _no_passphrase() -> str:
    """Give none, so that nobody is asked on the terminal."""
    return ""


def read_secret(path: Path) -> str:
    """Return the one line of a file; FetchError, which does not repeat it."""
    try:
        with open_regular(path) as stream:
            written = stream.read(_LONGEST_SECRET + 1)
    except OSError as trouble:
        raise FetchError(f"{path} cannot be read: {trouble.strerror or 'unknown trouble'}") from None
    secret = written.strip(b"\r\n\t ")
    if not secret:
        raise FetchError(f"{path} is empty; it is to hold one line, the secret")
    if len(secret) > _LONGEST_SECRET or any(not 32 <= byte < 127 for byte in secret):
        raise FetchError(f"{path} does not hold one line of printable ASCII characters")
    return secret.decode("ascii")
