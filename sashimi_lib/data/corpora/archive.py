"""Download the archive of a published corpus, verify its checksum, and unpack it atomically.

The download is pooch's, which compares hashes before a file gets its name. pooch cannot resume an interrupted
download, so it is given a downloader that keeps the partial file and requests the remaining bytes.

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

CHUNK_BYTES = 1 << 16  # read at a time: what an interrupted download loses
TIMEOUT = 30  # seconds without a response
# Of a damaged archive; RuntimeError for a zip file with a password.
UNPACK_ERRORS = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    RuntimeError,
)


@dataclass(frozen=True)
class Archive:
    """The zip or tar file of a published corpus: its URL, file name, size and SHA-256 checksum.

    Without a ``sha256`` the archive has to be downloaded by hand, and ``url`` is the page to get it from.
    ``members`` are the top-level files and folders to unpack (default: all). ``max_bytes`` limits the
    unpacked size of an archive without a checksum.

    Chapter: 10.
    """

    url: str
    filename: str
    size: str  # for messages: "2.4 GB"
    sha256: str | None
    members: tuple[str, ...] = ()
    max_bytes: int | None = None


def download(archive: Archive, folder: str | Path, progress: bool = True) -> Path:
    """Return the path of the archive in ``folder``, after downloading it if it is not there; verify its hash.

    An interrupted download is kept as ``.part`` and resumed by the next call. Raises FileNotFoundError, with
    instructions, for an archive without a hash that has to be fetched by hand; ConnectionError, with
    instructions, if the server cannot be reached; ValueError, with both hashes, for a file with another hash;
    and ImportError, naming the extra to install, if pooch is missing.

    Chapter: 10.
    """
    path = Path(folder) / archive.filename
    if path.is_file():
        _check(path, archive.sha256)
        return path
    if archive.sha256 is None:
        raise FileNotFoundError(
            f"{archive.filename} has to be downloaded by hand, because it requires a login and has no "
            f"published hash: open {archive.url} in a browser, log in, accept the conditions, download "
            f"{archive.filename} ({archive.size}), move it to {path}, and fetch again to unpack it"
        )
    try:
        import pooch
        import requests
    except ImportError as error:
        raise ImportError('pooch is missing: pip install "sashimi_lib[data]"') from error
    part = path.with_name(f"{archive.filename}.{archive.sha256[:8]}.part")

    def resume(url: str, output_file: str, _: object) -> None:
        _resume_download(url, part, progress)
        os.replace(part, output_file)

    try:
        pooch.retrieve(archive.url, archive.sha256, path.name, path.parent, downloader=resume)
    except requests.RequestException as error:
        raise ConnectionError(
            f"{archive.url} could not be downloaded ({error}). The partial file is kept: try again to "
            f"resume. Without a connection, copy the file ({archive.size}, SHA-256 {archive.sha256}) "
            f"to {path}"
        ) from error
    return path


def _resume_download(url: str, part: Path, progress: bool) -> None:
    """Download a URL to ``part``, requesting only the bytes that are not there yet."""
    import requests

    offset = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={offset}-"} if offset else {})}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            return  # the file is complete
        response.raise_for_status()
        if response.status_code != requests.codes.partial_content:  # not every server supports ranges
            offset = 0
        total = offset + int(response.headers.get("Content-Length", 0))
        _append(response.iter_content(CHUNK_BYTES), part, offset, total, progress)
    if part.stat().st_size < total:  # old versions of urllib3 do not raise
        raise requests.ConnectionError(f"received {part.stat().st_size:,} of {total:,} bytes")


def _append(chunks: Iterable[bytes], part: Path, offset: int, total: int, progress: bool) -> None:
    """Write chunks to a file from byte ``offset``, its end, on."""
    with (
        part.open("ab" if offset else "wb") as file,
        tqdm(total=total, initial=offset, unit="B", unit_scale=True, disable=not progress) as bar,
    ):
        for chunk in chunks:
            file.write(chunk)
            bar.update(len(chunk))


def _check(path: Path, sha256: str | None) -> None:
    """Raise ValueError if the hash of a file differs from ``sha256``."""
    if sha256 is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise ValueError(
            f"{path} is damaged, truncated or another version: its SHA-256 must be {sha256}, got {found}. "
            "Delete it to download it again"
        )


def unpack(
    path: str | Path,
    target: str | Path,
    members: tuple[str, ...] = (),
    progress: bool = True,
    max_bytes: int | None = None,
) -> None:
    """Unpack a zip or tar file into the new folder ``target``, or only the top-level ``members`` of it.

    Atomic: the folder gets its name when it is complete. Raises ValueError, naming the archive, if it is
    damaged, contains none of ``members`` or more than ``max_bytes``; and naming the member too, if one has a
    path outside the folder, or is a link or device.

    Chapter: 10.
    """
    path, target = Path(path), Path(target)
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        _unpack_into(part, path, members, max_bytes, progress)
        part.replace(target)
    except UNPACK_ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # not caused by the archive: a full disk, for example
        raise ValueError(f"{path} is damaged ({error}); nothing was unpacked. Download it again") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _unpack_into(
    folder: Path, path: Path, members: tuple[str, ...], max_bytes: int | None, progress: bool
) -> None:
    remaining = math.inf if max_bytes is None else max_bytes
    for name, data in tqdm(_files(path), desc=folder.stem, unit="file", disable=not progress):
        target = (folder / name).resolve()
        if folder.resolve() not in target.parents or "\\" in name:
            raise ValueError(f"{path}: {name} is outside the target folder; nothing was unpacked")
        if members and PurePosixPath(name).parts[0] not in members:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            while remaining >= 0 and (chunk := data.read(CHUNK_BYTES)):
                remaining -= file.write(chunk)
        if remaining < 0:
            raise ValueError(f"{path} must unpack to at most {max_bytes:,} bytes, but contains more")
    if not any(folder.iterdir()):
        raise ValueError(f"{path} contains none of the expected files: {', '.join(members) or 'it is empty'}")


def _files(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield the name and the content of every file in an archive."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if not entry.is_dir():
                    _check_regular(not stat.S_ISLNK(entry.external_attr >> 16), path, entry.filename)
                    with archive.open(entry) as data:
                        yield entry.filename, data
    elif tarfile.is_tarfile(path):
        with tarfile.open(path) as tar:
            for member in tar:
                if not member.isdir():
                    _check_regular(member.isreg(), path, member.name)
                    content = tar.extractfile(member)
                    assert content is not None  # None only for other than regular files
                    yield member.name, content
    else:
        raise ValueError(
            f"{path} must be a zip or tar file, got another: damaged, or a web page saved under this name"
        )


def _check_regular(is_regular: bool, path: Path, name: str) -> None:
    if not is_regular:
        raise ValueError(f"{path}: {name} must be a regular file, got a link or device; nothing was unpacked")
