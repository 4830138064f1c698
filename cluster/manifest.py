"""The files of an export with their SHA-256: a process loads only the files that its document names.

Files are verified first and read later, so no other user may write to their folder. The verification detects folders
that were mixed up, files that were damaged or changed in transit, and leftovers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from cluster.errors import Tampered


def digests(folder: Path) -> dict[str, str]:
    """Path below `folder` -> SHA-256, for every file in `folder`."""
    return {name: digest(folder / name) for name in _files(folder, folder)}


def of_portion(files: Mapping[str, str], server: int) -> dict[str, str]:
    """The entries of `files` that the node of portion `server` needs, for every partition (`cluster.partition`)."""
    needed = ("partition.json", f"server-{server}")
    return {name: sha256 for name, sha256 in files.items() if PurePosixPath(name).parts[1] in needed}


def verify(folder: Path, files: Mapping[str, str], below: str = "") -> None:
    """Compare the file or folder `below` (empty: everything in `folder`) with its entries in `files`.

    Raises `Tampered` for a file that has changed, is missing, or has no entry.
    """
    expected = {name: sha for name, sha in files.items() if not below or name == below or name.startswith(f"{below}/")}
    found = {name: digest(folder / name) for name in _files(folder, folder / below)}
    if found != expected:
        name = min(name for name in {**found, **expected} if found.get(name) != expected.get(name))
        raise Tampered(f"{folder / name} is not what was exported; export it again")


def _files(folder: Path, below: Path) -> Iterator[str]:
    """`below` itself if it is a file, and every file below it, as paths below `folder`."""
    for path in [below, *sorted(below.rglob("*"))]:
        if path.is_file():
            yield path.relative_to(folder).as_posix()


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits. Raises `OSError`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
