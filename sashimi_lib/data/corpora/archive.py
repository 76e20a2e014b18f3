"""A published archive: fetched once, checked, and unpacked whole or not at all.

The download is pooch's, which compares hashes and lets a file take its name only if it is the right one. What
pooch cannot do is go on where a broken download stopped: it throws away what came. So it is handed a
downloader that keeps it, and asks the server for the rest.

Chapter: 10.
"""

import hashlib
import lzma
import math
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm.auto import tqdm

CHUNK = 1 << 16  # bytes at a time: what a broken download loses
TIMEOUT = 30  # seconds that a server may say nothing
# What unpacking may raise; RuntimeError for a zip file with a password.
DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError)


@dataclass(frozen=True)
class Archive:
    """A zip or tar file that a corpus is published as: where it is, and its SHA-256, by which it is known.

    Without a ``sha256`` it is never downloaded, but to be fetched by hand, and ``url`` is the page to get it
    from. ``only`` names what is unpacked, where that is not all: the top of its paths; and ``most`` is how
    many bytes that may be, of an archive that nobody vouches for.

    Chapter: 10.
    """

    url: str
    file: str
    size: str  # in words
    sha256: str | None
    only: tuple[str, ...] = ()
    most: int | None = None


def download(archive: Archive, folder: str | Path, progress: bool = True) -> Path:
    """The archive in ``folder``: the one that lies there already, or else fetched and checked.

    What came of a broken download stays there, as ``.part``, and the next call takes it up. Raises
    FileNotFoundError, saying what to fetch by hand and where to put it, for an archive without a hash;
    ConnectionError, saying the same, where it cannot be reached; ValueError for a file with another hash,
    naming both; and ImportError, saying what to install, where pooch is missing.

    Chapter: 10.
    """
    path = Path(folder) / archive.file
    if path.is_file():
        _check(path, archive.sha256)
        return path
    if archive.sha256 is None:
        raise FileNotFoundError(
            f"{archive.file} has to be fetched by hand, for it is behind a login and no hash of it is "
            f"published: open {archive.url} in a browser, log in, accept the conditions, download "
            f"{archive.file} ({archive.size}), put it at {path}, and fetch again, which unpacks it"
        )
    try:
        import pooch
        import requests
    except ImportError as error:
        raise ImportError('pooch is missing: pip install "sashimi_lib[data]"') from error
    part = path.with_name(f"{archive.file}.{archive.sha256[:8]}.part")

    def resume(url: str, output_file: str, _: object) -> None:
        """What pooch calls to download: goes on with ``part``, and hands it over once it is whole."""
        have = part.stat().st_size if part.exists() else 0
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            if answer.status_code != requests.codes.requested_range_not_satisfiable:  # else it was all there
                answer.raise_for_status()
                goes_on = answer.status_code == requests.codes.partial_content  # not every server can
                have = have if goes_on else 0
                total = have + int(answer.headers.get("Content-Length", 0))
                _append(answer.iter_content(CHUNK), part, have, total, progress)
                if part.stat().st_size < total:  # not every version of urllib3 says so
                    raise requests.ConnectionError(f"{part.stat().st_size:,} of {total:,} bytes came")
        os.replace(part, output_file)

    try:
        pooch.retrieve(archive.url, archive.sha256, path.name, path.parent, downloader=resume)
    except requests.RequestException as error:
        raise ConnectionError(
            f"{archive.url} could not be fetched ({error}). What came so far is kept: try again to go on. "
            f"Without a connection, bring the file ({archive.size}, SHA-256 {archive.sha256}) from elsewhere "
            f"and put it at {path}"
        ) from error
    return path


def _append(chunks: Iterable[bytes], part: Path, have: int, total: int, progress: bool) -> None:
    """Write what a server sends behind the first ``have`` bytes of a file."""
    with (
        part.open("ab" if have else "wb") as file,
        tqdm(total=total, initial=have, unit="B", unit_scale=True, disable=not progress) as bar,
    ):
        for chunk in chunks:
            file.write(chunk)
            bar.update(len(chunk))


def _check(path: Path, sha256: str | None) -> None:
    """Raise ValueError for another hash."""
    if sha256 is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise ValueError(
            f"{path} is damaged, cut short, or another version: its SHA-256 is {found}, and should be "
            f"{sha256}. Delete it to fetch it again"
        )


def unpack(
    path: str | Path,
    home: str | Path,
    only: tuple[str, ...] = (),
    progress: bool = True,
    most: int | None = None,
) -> None:
    """Unpack a zip or tar file into a new folder ``home``; of some only what lies in the folders ``only``.

    All or nothing: the folder takes its name when everything is there. Raises ValueError, naming archive and
    member, for one that is damaged, holds nothing of use or more than ``most`` bytes, wants to lie outside
    the folder, or is a link or anything else that is neither file nor folder.

    Chapter: 10.
    """
    path, home = Path(path), Path(home)
    part = home.with_name(f"{home.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    left = math.inf if most is None else most
    try:
        for name, data in tqdm(_members(path), desc=home.name, unit="file", disable=not progress):
            target = (part / name).resolve()
            if part.resolve() not in target.parents or "\\" in name:
                raise ValueError(f"{path}: {name} would lie outside the folder; nothing was unpacked")
            if only and PurePosixPath(name).parts[0] not in only:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                while left >= 0 and (chunk := data.read(CHUNK)):
                    left -= file.write(chunk)
            if left < 0:
                raise ValueError(f"{path} holds more than {most:,} bytes, so it is not what it should be")
        if not any(part.iterdir()):
            raise ValueError(f"{path} holds nothing of use; expected {', '.join(only) or 'files'}")
        part.replace(home)
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # a full disk, say: not the archive's fault
        raise ValueError(f"{path} is damaged ({error}); nothing was unpacked. Fetch it again") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of every file in an archive."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if not entry.is_dir():
                    _refuse_unless(not stat.S_ISLNK(entry.external_attr >> 16), path, entry.filename)
                    with archive.open(entry) as data:
                        yield entry.filename, data
    elif tarfile.is_tarfile(path):
        with tarfile.open(path) as tar:
            for member in tar:
                if not member.isdir():
                    _refuse_unless(member.isreg(), path, member.name)
                    content = tar.extractfile(member)
                    assert content is not None  # it is None for what is no file alone
                    yield member.name, content
    else:
        raise ValueError(
            f"{path} is neither a zip nor a tar file: damaged, or a web page that was saved under its name"
        )


def _refuse_unless(plain: bool, path: Path, name: str) -> None:
    if not plain:
        raise ValueError(f"{path}: {name} is a link or a device, not a file; nothing was unpacked")
