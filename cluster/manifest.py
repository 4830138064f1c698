"""What the launcher exported, file by file, by SHA-256: a node loads that and nothing else.

    FOLDER/manifest.json     path below FOLDER -> SHA-256, of every file

The manifest's own digest travels on the node's command line. Files are read again after they were verified: the folder
has to be the user's alone, and what this finds are folders that were mixed up, kept from before, or tampered with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from cluster.errors import Tampered

MANIFEST = "manifest.json"


def seal(folder: Path) -> str:
    """Write down every file that lies below `folder` by now; the digest of what was written down."""
    record = {name: _digest(folder / name) for name in _files(folder, folder)}
    manifest = json.dumps(record, indent=1).encode()
    (folder / MANIFEST).write_bytes(manifest)
    return hashlib.sha256(manifest).hexdigest()


def verify(folder: Path, digest: str, *below: str) -> None:
    """Hold the files of each folder or file `below` against what was sealed under `digest`.

    Raises `Tampered` where one has changed, is missing, or was added since.
    """
    record = sealed(folder, digest)
    for part in below:
        expected = {name: sha for name, sha in record.items() if name == part or name.startswith(f"{part}/")}
        found = {name: _digest(folder / name) for name in _files(folder, folder / part)}
        if found != expected:
            name = min(name for name in {**found, **expected} if found.get(name) != expected.get(name))
            raise Tampered(f"{folder / name} is not what was exported; export it again")


def sealed(folder: Path, digest: str) -> dict[str, str]:
    """Path below `folder` -> SHA-256, of every file that was sealed. Raises `Tampered` for another manifest."""
    try:
        manifest = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise Tampered(f"{folder / MANIFEST}: {error.strerror}; only what was exported and sealed is loaded") from error
    if hashlib.sha256(manifest).hexdigest() != digest:
        raise Tampered(f"{folder / MANIFEST} is not the one of SHA-256 {digest}; nothing is loaded")
    record: dict[str, str] = json.loads(manifest)
    return record


def _files(folder: Path, below: Path) -> Iterator[str]:
    """`below` itself where it is a file, and every file below it, as paths below `folder`; but for the manifest."""
    for path in [below, *sorted(below.rglob("*"))]:
        if path.is_file() and path != folder / MANIFEST:
            yield path.relative_to(folder).as_posix()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
