"""The identity by which the processes of one experiment authenticate each other: files that every host gets.

Between machines, an identity is made for each experiment: a certificate, signed by an authority whose key is then
discarded, and a key pair for ZeroMQ. A process with the files belongs to the experiment. The launcher copies the files
to the hosts, and deletes them when it ends.
"""

from __future__ import annotations

import ipaddress
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import transports
from transports.errors import UsageError
from transports.limits import TLS_FILES

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    from cluster.launchers.base import Launcher

LIFE = timedelta(days=30)
"""How long a certificate is valid. The clocks of hosts may be up to a day behind."""
BEHIND = timedelta(days=1)
CURVE = "curve"
"""The stem of the key files of ZeroMQ."""


@dataclass(frozen=True)
class Identity:
    """The files of an identity: name -> content. If there are none, processes do not authenticate."""

    files: Mapping[str, bytes]

    def options(self, names: Iterable[str], folder: str) -> dict[str, str]:
        """The options of the transports `names` (NAME.KEY -> value) on a host that has the files in `folder`."""
        made: dict[str, str] = {}
        for name in names if self.files else ():
            match transports.kind(name).secure:
                case "tls" if "tls_cert" in self.files:
                    made |= {f"{name}.{item}": f"{folder}/{item}" for item in TLS_FILES}
                case "curve" if f"{CURVE}.key" in self.files:
                    made |= {
                        f"{name}.curve_secret": f"{folder}/{CURVE}.key_secret",
                        f"{name}.curve_server": f"{folder}/{CURVE}.key",
                        f"{name}.curve_clients": folder,
                    }
        return made

    def installed(self, launcher: Launcher, host: str, names: Iterable[str]) -> dict[str, str]:
        """Copy the files to `host`; returns the options of the transports `names` on that host."""
        paths = [launcher.secret(host, name, data) for name, data in self.files.items()]
        return self.options(names, str(Path(paths[0]).parent)) if paths else {}

    def write(self, folder: Path) -> None:
        """Write the files to `folder`, readable for this user only."""
        for name, data in self.files.items():
            (path := folder / name).touch(mode=0o600)
            path.write_bytes(data)


NOBODY = Identity({})


def given(paths: Sequence[str]) -> Identity:
    """The identity from the user's own TLS files, in the order of `TLS_FILES`. Raises `UsageError`."""
    files = {}
    for name, path in zip(TLS_FILES, paths, strict=True):
        try:
            files[name] = Path(path).read_bytes()
        except OSError as error:
            raise UsageError(f"--{name.replace('_', '-')}: cannot read {path}: {error.strerror}") from None
    return Identity(files)


def throwaway(names: Iterable[str], addresses: Iterable[str]) -> Identity:
    """A new identity for the transports `names` on hosts with these `addresses` (host names or IP addresses).

    Raises `UsageError` if a library that it needs is not installed.
    """
    kinds = {transports.kind(name).secure for name in names}
    files: dict[str, bytes] = {}
    if "tls" in kinds:
        files |= _certificate(dict.fromkeys([*addresses, "127.0.0.1", "localhost"]))
    if "curve" in kinds:
        files |= _curve()
    return Identity(files)


def _curve() -> dict[str, bytes]:
    from zmq.auth import create_certificates

    with tempfile.TemporaryDirectory() as folder:
        create_certificates(folder, CURVE)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def _certificate(addresses: Iterable[str]) -> dict[str, bytes]:
    """A certificate that names all `addresses`, its key, and the signing authority, each by the name of its option."""
    try:
        from cryptography import x509
    except ImportError:
        raise UsageError(
            "several hosts speak TLS, for which the package 'cryptography' makes certificates: pip install "
            "'splitbench[hosts]', give --tls-cert, --tls-key and --tls-ca, or measure without it: --insecure"
        ) from None
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    authority, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    known = x509.SubjectKeyIdentifier.from_public_key(authority.public_key())
    signer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(known)
    both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    names = x509.SubjectAlternativeName([_general_name(address) for address in addresses])
    ca = _signed(authority, authority, x509.BasicConstraints(ca=True, path_length=0), _signs(), known)
    cert = _signed(own, authority, x509.BasicConstraints(ca=False, path_length=None), both, signer, names)
    plain = serialization.NoEncryption()
    key = own.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    return dict(zip(TLS_FILES, (cert, key, ca), strict=True))


def _signed(
    own: ec.EllipticCurvePrivateKey, authority: ec.EllipticCurvePrivateKey, *extensions: x509.ExtensionType
) -> bytes:
    """A certificate in PEM for the key `own`, signed by `authority`. Its constraints and usages are marked critical."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.x509.oid import NameOID

    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of one experiment")])
    process = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "process of one experiment")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        issuer,
        issuer if own is authority else process,
        own.public_key(),
        x509.random_serial_number(),
        now - BEHIND,
        now + LIFE,
    )
    for extension in extensions:
        critical = isinstance(extension, x509.BasicConstraints | x509.KeyUsage)
        builder = builder.add_extension(extension, critical)
    return builder.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _signs() -> x509.KeyUsage:
    """The usage of an authority's key."""
    from cryptography import x509

    names = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
        *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**{name: name == "key_cert_sign" for name in names})


def _general_name(address: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        return x509.DNSName(address)
