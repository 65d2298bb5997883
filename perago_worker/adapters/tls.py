"""Whom to trust, and who we are, on TLS connections: the same for both servers."""

from __future__ import annotations

import logging
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import certifi

_log = logging.getLogger(__name__)

TlsVersion = Literal["1.2", "1.3"]

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


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
        message: What is wrong with it, for people.
    """

    def __init__(self, key: str, file: Path, problem: Exception) -> None:
        self.key = key
        self.file = file
        self.message = f"holds nothing of the kind that can be read: {problem}"
        super().__init__(str(problem))


class RenewedCertificate:
    """Keeps the certificate of a context as its file is: those of today live for days or hours."""

    def __init__(self, context: ssl.SSLContext, settings: TlsSettings) -> None:
        self._context = context
        self._settings = settings
        self._lock = threading.Lock()
        self._state = self._look()

    def refresh(self) -> None:
        """Read the file again when it has changed; new connections show what it holds then."""
        if self._settings.cert_file is None:
            return
        state = self._look()
        with self._lock:
            if state is None or state == self._state:
                return
            try:
                load_certificate(self._context, self._settings)
            except TlsFileError as problem:  # half exchanged; the next look may find both halves
                _log.warning("a new certificate cannot be used yet: %s", problem)
                return
            self._state = state
            _log.info("certificate was exchanged: %s", self._settings.cert_file.name)

    def _look(self) -> list[tuple[int, int]] | None:
        files = (self._settings.cert_file, self._settings.key_file)
        try:
            found = [file.stat() for file in files if file is not None]
        except OSError:
            return None
        return [(each.st_mtime_ns, each.st_ino) for each in found]


def check_files(settings: TlsSettings) -> None:
    """Fail when a file cannot be used, without reading the system's authorities.

    Raises:
        TlsFileError: One cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if settings.ca_file is not None:
        try:
            context.load_verify_locations(settings.ca_file)
        except (OSError, ssl.SSLError) as problem:
            raise TlsFileError("ca_file", settings.ca_file, problem) from problem
    load_certificate(context, settings)


def usual_trust() -> ssl.SSLContext:
    """Trust the system's certificates, SSL_CERT_FILE and SSL_CERT_DIR included, and certifi's.

    Not every system has any.
    """
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


def client_context(settings: TlsSettings, *, system_too: bool = False) -> ssl.SSLContext:
    """Return a context that verifies servers, and shows our certificate where one is given.

    Args:
        settings: What is configured.
        system_too: Trust the system's authorities beside those of `ca_file`.

    Raises:
        TlsFileError: A file cannot be used.
    """
    ca_file = settings.ca_file
    context = usual_trust() if ca_file is None or system_too else None
    try:
        if context is None:
            context = ssl.create_default_context(cafile=ca_file)
        elif ca_file is not None:
            context.load_verify_locations(ca_file)
    except (OSError, ssl.SSLError) as problem:
        assert ca_file is not None  # noqa: S101 -- nothing else is read here
        raise TlsFileError("ca_file", ca_file, problem) from problem
    context.minimum_version = VERSIONS[settings.min_version]
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
