"""A certificate authority that exists for one test run, and the certificates that it signs."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


class Authority:
    """Writes its files into `folder`; `path` is the file with its own certificate."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"authority of {folder.name}")])
        signed = self._builder(self.name, self.key).add_extension(x509.BasicConstraints(True, 0), True)
        self.path = self._write("ca.pem", signed.sign(self.key, hashes.SHA256()).public_bytes(PEM))

    def issue(self, host: str) -> dict[str, str]:
        """Options of an end whose certificate names `host`, an IP address or a name."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "splitbench test")])
        names = x509.SubjectAlternativeName([_named(host)])
        signed = self._builder(subject, key).add_extension(names, False).sign(self.key, hashes.SHA256())
        stem = host.replace(":", "-")
        secret = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        cert, private = self._write(f"{stem}.pem", signed.public_bytes(PEM)), self._write(f"{stem}.key", secret)
        return {"tls_cert": str(cert), "tls_key": str(private), "tls_ca": str(self.path)}

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        own, signer = key.public_key(), self.key.public_key()
        return (
            x509.CertificateBuilder(self.name, subject, own, x509.random_serial_number(), now - DAY, now + DAY)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(own), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), False)
        )

    def _write(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path


PEM = serialization.Encoding.PEM


def _named(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
