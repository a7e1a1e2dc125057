"""TLS: from what is configured to a context of OpenSSL.

Turns certificates, versions and suites into a context. Knows: the names that Go gives to versions, suites and kinds of
client authentication, what OpenSSL's refusals mean to people. Does not know: where the terms are written, connections.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bwexporter.errors import BwexporterError
from bwexporter.regular import held_regular

VERSIONS: Mapping[str, ssl.TLSVersion] = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
CLIENT_AUTH: Mapping[str, ssl.VerifyMode] = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
UNVERIFIED: Mapping[str, str] = {
    "RequestClientCert": "write NoClientCert, which lets the same clients in",
    "RequireAnyClientCert": "write RequireAndVerifyClientCert, and client_ca_file",
    "RequireClientCert": "write RequireAndVerifyClientCert, and client_ca_file",
}
"""Kinds that Go knows and Python's ssl has not, and what to write instead: no certificate says anything unverified."""
CURVES: Mapping[str, str] = {
    "CurveP256": "prime256v1",
    "CurveP384": "secp384r1",
    "CurveP521": "secp521r1",
    "X25519": "X25519",
}
SUITES: Mapping[str, str] = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256": "ECDHE-ECDSA-AES128-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256": "ECDHE-RSA-AES128-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_RSA_WITH_AES_128_GCM_SHA256": "AES128-GCM-SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384": "AES256-GCM-SHA384",
    "TLS_RSA_WITH_AES_128_CBC_SHA256": "AES128-SHA256",
    "TLS_RSA_WITH_AES_128_CBC_SHA": "AES128-SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA": "AES256-SHA",
}
"""Suites of TLS 1.2 by Go's names. Those of TLS 1.3 cannot be chosen, as in Go."""
_OF_TLS_1_3 = frozenset({"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"})


@dataclass(frozen=True, slots=True)
class TlsTerms:
    """What is configured; what is a path is a file, what is text stands in the configuration itself."""

    certificate: Path | str
    key: Path | str = field(repr=False)
    client_authority: Path | str | None = None
    client_auth_type: str = "NoClientCert"
    min_version: str = "TLS12"
    max_version: str = "TLS13"
    cipher_suites: tuple[str, ...] = ()
    curve: str | None = None
    prefers_own_order: bool = True

    @property
    def files(self) -> list[Path]:
        """Return the files among the terms."""
        return [one for one in (self.certificate, self.key, self.client_authority) if isinstance(one, Path)]


def context_of(terms: TlsTerms) -> ssl.SSLContext:
    """Return a server's context. BwexporterError says which of the terms cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version, context.maximum_version = VERSIONS[terms.min_version], VERSIONS[terms.max_version]
    context.set_alpn_protocols(["http/1.1"])
    if not terms.prefers_own_order:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    _choose_suites(context, terms.cipher_suites)
    if terms.curve is not None:
        context.set_ecdh_curve(CURVES[terms.curve])
    chain = (terms.certificate, terms.key)
    _load(partial(context.load_cert_chain, password=_no_password), chain, "certificate and key", terms)
    if terms.client_authority is not None:
        _load(context.load_verify_locations, (terms.client_authority,), "client_ca_file", terms)
    context.verify_mode = CLIENT_AUTH[terms.client_auth_type]
    return context


def _choose_suites(context: ssl.SSLContext, names: tuple[str, ...]) -> None:
    unknown = [name for name in names if name not in SUITES and name not in _OF_TLS_1_3]
    if unknown:
        raise BwexporterError(f"cipher_suites: {unknown[0]} is not known here; there are {', '.join(SUITES)}")
    chosen = [SUITES[name] for name in names if name in SUITES]
    if chosen:
        try:
            context.set_ciphers(":".join(chosen))
        except ssl.SSLError as error:
            raise BwexporterError("cipher_suites: this OpenSSL has none of them") from error


def _load(load: Callable[..., None], contents: Sequence[Path | str], what: str, terms: TlsTerms) -> None:
    named = ", ".join(str(path) for path in terms.files)
    try:
        with ExitStack() as held:
            load(*(held.enter_context(_as_path(content)) for content in contents))
    except ssl.SSLError as error:
        raise BwexporterError(f"{what} cannot be used: {_meaning(error)} ({named})") from error
    except OSError as error:
        raise BwexporterError(f"{what} cannot be read: {error.strerror} ({named})") from error


def _meaning(error: ssl.SSLError) -> str:
    meanings = {
        "KEY_VALUES_MISMATCH": "the key is not that of the certificate",
        "BAD_PASSWORD_READ": "the key is protected by a password; take the protection off",
        "NO_CERTIFICATE_OR_CRL_FOUND": "there is no certificate in it",
        "EE_KEY_TOO_SMALL": "the key is too short",
    }
    return meanings.get(error.reason or "", "they are not PEM, or damaged")


def _no_password() -> str:
    """Answer for the terminal, which nobody watches."""
    return ""


@contextmanager
def _as_path(content: Path | str) -> Iterator[str]:
    """Give a file with the content, which OpenSSL reads by path; text never reaches a disk."""
    if isinstance(content, Path):
        with held_regular(content) as path:
            yield path
        return
    descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, content.encode())
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
