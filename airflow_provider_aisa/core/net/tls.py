"""Which certificates are believed, and what to tell about one that is not."""

from __future__ import annotations

import os
import ssl
import threading
from functools import cache
from typing import Final

import httpx

from airflow_provider_aisa.exceptions import InvalidConnection

_making = threading.Lock()
#: OpenSSL's codes for a certificate whose authority this machine does not know, or a self-signed one.
_UNKNOWN_ISSUER: Final = frozenset({2, 18, 19, 20, 21, 27})
_LONGEST_NAME: Final = 200


@cache
def _make_ssl_context() -> ssl.SSLContext:
    try:
        return httpx.create_ssl_context()
    except (OSError, ValueError) as e:
        reason = e.strerror if isinstance(e, OSError) and e.strerror else "it holds no certificate"
        raise InvalidConnection(
            f"the certificates that {_variable()} names cannot be read ({reason}): name a file in PEM form, "
            "or unset it to use the usual ones. Nothing was sent."
        ) from None


def _variable() -> str:
    return next((name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)), "certifi")


def ssl_context() -> ssl.SSLContext:
    """Return the process's one TLS context: reading the certificates takes tens of milliseconds.

    They are those of ``SSL_CERT_FILE`` or ``SSL_CERT_DIR`` where one is set, else certifi's.

    :raises InvalidConnection: what these variables name cannot be read.
    """
    with _making:  # Whoever comes meanwhile waits for it rather than making another.
        return _make_ssl_context()


@cache
def unverified_context() -> ssl.SSLContext:
    """Return a context that believes everybody: only to look at a certificate, never to send anything."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class TlsRefused(Exception):
    """A peer's certificate is not to be believed. Nothing was sent to it.

    :param layer: how many layers of TLS there were already, that is whether a proxy's or the server's failed.
    """

    def __init__(self, host: str, error: ssl.SSLCertVerificationError, *, layer: int) -> None:
        super().__init__(f"the certificate of {host} is not valid: {error.verify_message}")
        self.layer = layer
        self._has_unknown_issuer = error.verify_code in _UNKNOWN_ISSUER

    def explain(self, certificate: bytes | None) -> str:
        """Return a message with the next step.

        :param certificate: in DER, as far as it is known.
        """
        names = _names(certificate) if certificate else ""
        if not self._has_unknown_issuer:
            return f"{self}{names}. Check the host of the connection and this machine's clock"
        return (
            f"{self}{names}. If a proxy of your company issued it, name a PEM file with its authority's "
            "certificate in the environment variable SSL_CERT_FILE; if not, somebody is listening"
        )


def _names(certificate: bytes) -> str:
    from cryptography import x509

    try:
        found = x509.load_der_x509_certificate(certificate)
        names = [name.rfc4514_string() for name in (found.subject, found.issuer)]
    except ValueError:
        return ""
    subject, issuer = (" ".join(ascii(name)[1:-1].split())[:_LONGEST_NAME] for name in names)
    return f" (it is for {subject}, issued by {issuer})"
