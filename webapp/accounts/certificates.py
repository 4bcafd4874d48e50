"""A small certificate authority of our own: client certificates for people, and the server's own where it was given none.

What makes a certificate somebody's is its fingerprint in the book of tokens, not its signature: an authority of the team's
may sign more than this server shall admit. The authority's key never leaves `keys/authority.pem`.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from django.conf import settings

from webapp.core.errors import Invalid
from webapp.core.keys import read_or_make, replace_secret

AUTHORITY_DAYS, SERVER_DAYS, CLIENT_DAYS = 3650, 825, 365
RENEWED_DAYS_BEFORE = 400  # of the server's own, looked at whenever the server starts
EARLIER = datetime.timedelta(minutes=5)  # clocks differ
MAX_PEM = 64 * 1024


@dataclass(frozen=True)
class Issued:
    """A certificate with its key, as PEM; `fingerprint` is the SHA-256 of the certificate, as openssl shows it."""

    certificate: x509.Certificate
    certificate_pem: bytes
    key_pem: bytes

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.certificate)


class Authority:
    """Signs with the key in `folder`, made on first use."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        data = read_or_make(folder / "authority.pem", _new_authority)
        key = serialization.load_pem_private_key(data, password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key
        self._certificate = x509.load_pem_x509_certificate(data)
        self.pem = self._certificate.public_bytes(serialization.Encoding.PEM).decode()

    def client(self, name: str, ends: datetime.datetime | None = None) -> Issued:
        """Return a new certificate that a client may show, and nobody else."""
        ends = ends or _now() + datetime.timedelta(days=CLIENT_DAYS)
        return self._issue(name[:64], ends, ExtendedKeyUsageOID.CLIENT_AUTH, [])

    def server(self, names: list[str]) -> Path:
        """Return the file with this server's own certificate and key; made anew when it gets old or the names differ."""
        path = self._folder / "server.pem"
        if not self._still_fits(path, names):
            ends = _now() + datetime.timedelta(days=SERVER_DAYS)
            made = self._issue(names[0], ends, ExtendedKeyUsageOID.SERVER_AUTH, names)
            replace_secret(path, made.key_pem + made.certificate_pem + self.pem.encode())
        return path

    def _still_fits(self, path: Path, names: list[str]) -> bool:
        try:
            certificate = x509.load_pem_x509_certificate(path.read_bytes())
        except (FileNotFoundError, ValueError):
            return False
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        left = certificate.not_valid_after_utc - _now()
        return (
            list(alternative) == [_general(name) for name in names]
            and left > datetime.timedelta(days=RENEWED_DAYS_BEFORE)
            and certificate.issuer == self._certificate.subject
        )

    def _issue(
        self, name: str, ends: datetime.datetime, usage: x509.ObjectIdentifier, names: list[str]
    ) -> Issued:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(name, key.public_key(), self._certificate.subject, ends)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
        )
        if names:
            alternative = x509.SubjectAlternativeName([_general(item) for item in names])
            builder = builder.add_extension(alternative, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return Issued(certificate, certificate.public_bytes(serialization.Encoding.PEM), _pem_of(key))


def own_server_names() -> list[str]:
    """Return the names and addresses that the server's own certificate is for: those under which pages are served."""
    host = os.environ.get("WHARFINGER_HOST", "")
    listening = [host] if host not in ("", "0.0.0.0", "::") else []
    names = [name for name in (*settings.ALLOWED_HOSTS, *listening) if name.strip(".*")]
    return list(dict.fromkeys(name.strip("[]").removeprefix(".") for name in names))


def parse(pem: str) -> x509.Certificate:
    """Return the one certificate in `pem`. Raises `Invalid` for anything else, for an authority's and for an expired one."""
    if len(pem) > MAX_PEM or "PRIVATE KEY" in pem:
        raise _invalid("send the certificate alone; its key is nobody's but yours")
    try:
        found = x509.load_pem_x509_certificates(pem.encode())
    except ValueError as error:
        raise _invalid("this is no certificate in PEM form") from error
    if len(found) != 1:
        raise _invalid("send one certificate, without those of its authority")
    if found[0].not_valid_after_utc <= _now():
        raise _invalid("the certificate has expired")
    if _is_authority(found[0]):
        raise _invalid("this is the certificate of an authority, not of a person")
    return found[0]


def fingerprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex()


def _invalid(text: str) -> Invalid:
    return Invalid(
        text, fields={"certificate": [text]}, hint="a file that begins with -----BEGIN CERTIFICATE-----"
    )


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return bool(certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except (x509.ExtensionNotFound, ValueError):
        return False


def _new_authority() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = f"Wharfinger {x509.random_serial_number():x}"[:40]  # two servers' authorities are told apart by it
    builder = _builder(name, key.public_key(), None, _now() + datetime.timedelta(days=AUTHORITY_DAYS))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    builder = builder.add_extension(usage, critical=True)
    certificate = builder.sign(key, hashes.SHA256())
    return _pem_of(key) + certificate.public_bytes(serialization.Encoding.PEM)


def _builder(
    name: str, key: ec.EllipticCurvePublicKey, issuer: x509.Name | None, ends: datetime.datetime
) -> x509.CertificateBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - EARLIER)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name.strip("[]")))
    except ValueError:
        return x509.DNSName(name)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
