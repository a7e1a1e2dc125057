"""Certificates for tests, made by openssl, expired ones by trustme.

Turns names and dates into PEM files of an authority of its own. Knows: openssl's commands. Does not know: who uses
them.
"""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme


class Authority:
    """An authority that signs certificates in a folder."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        assert shutil.which("openssl"), "openssl is missing: apt-get install openssl"
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.certificate, self._key = folder / f"{name}.crt", folder / f"{name}.key"
        _openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-subj", f"/CN={name}", "-keyout", str(self._key),
            "-out", str(self.certificate),
        )  # fmt: skip

    def sign(self, name: str, *, hosts: str = "DNS:localhost,IP:127.0.0.1", expired: bool = False) -> tuple[Path, Path]:
        """Make a certificate and its key; an expired one was good until yesterday."""
        key, request, certificate = (self.folder / f"{name}.{end}" for end in ("key", "csr", "crt"))
        extensions = self.folder / f"{name}.ext"
        # Python verifies as strictly as RFC 5280 says since 3.13.
        named = "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
        extensions.write_text(f"subjectAltName={hosts}\n{named}")
        _openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
            "-keyout", str(key), "-out", str(request),
        )  # fmt: skip
        _openssl(
            "x509", "-req", "-in", str(request), "-CA", str(self.certificate), "-CAkey", str(self._key),
            "-CAcreateserial", "-extfile", str(extensions), "-days", "1", "-out", str(certificate),
        )  # fmt: skip
        if expired:
            self._sign_expired(name, certificate, key)
        return certificate, key

    def _sign_expired(self, name: str, certificate: Path, key: Path) -> None:
        """Put a certificate of the past in place of a good one; newer versions of openssl sign none."""
        authority = trustme.CA.from_pem(self.certificate.read_bytes(), self._key.read_bytes())
        yesterday = datetime.now(UTC) - timedelta(days=1)
        issued = authority.issue_cert(name, not_before=yesterday - timedelta(days=1), not_after=yesterday)
        issued.cert_chain_pems[0].write_to_path(str(certificate))
        issued.private_key_pem.write_to_path(str(key))


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
