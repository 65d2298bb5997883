"""Whom to trust, and who we are, on TLS connections: the same for both servers."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

TlsVersion = Literal["1.2", "1.3"]

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


@dataclass(frozen=True, kw_only=True)
class TlsSettings:
    """How TLS is spoken to one server.

    Attributes:
        ca_file: PEM file of the authorities to trust instead of the system's.
        cert_file: PEM file of the certificate that tells the server who we are, with its chain.
        key_file: PEM file of its key; None when `cert_file` holds it.
        min_version: Older versions of the protocol are not spoken.
    """

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    min_version: TlsVersion = "1.2"


class TlsFileError(Exception):
    """A file cannot be used.

    Attributes:
        key: The attribute of `TlsSettings` that names it.
    """

    def __init__(self, key: str, file: Path, problem: Exception) -> None:
        self.key = key
        self.file = file
        super().__init__(str(problem))


def client_context(settings: TlsSettings, *, system_too: bool = False) -> ssl.SSLContext:
    """Return a context that verifies servers, and shows our certificate where one is given.

    Args:
        settings: What is configured.
        system_too: Trust the system's authorities beside those of `ca_file`.

    Raises:
        TlsFileError: A file cannot be used.
    """
    ca_file = settings.ca_file
    try:
        if system_too:
            context = ssl.create_default_context()
            if ca_file is not None:
                context.load_verify_locations(ca_file)
        else:
            context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as problem:
        if ca_file is None:
            raise
        raise TlsFileError("ca_file", ca_file, problem) from problem
    context.minimum_version = _VERSIONS[settings.min_version]
    load_certificate(context, settings)
    return context


def load_certificate(context: ssl.SSLContext, settings: TlsSettings) -> None:
    """Read our certificate, and its key, as they are now; connections made from then on show it.

    Raises:
        TlsFileError: They cannot be used.
    """
    if settings.cert_file is None:
        return
    try:
        # A key that wants a passphrase would have OpenSSL ask for it on the terminal.
        context.load_cert_chain(settings.cert_file, settings.key_file, password="")
    except (OSError, ssl.SSLError, ValueError) as problem:
        key = "cert_file" if settings.key_file is None else "key_file"
        raise TlsFileError(key, settings.key_file or settings.cert_file, problem) from problem
