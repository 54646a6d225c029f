"""Uploaded data sets: an archive becomes a folder of the server, named by the hash of its content."""

from __future__ import annotations

import errno
import hashlib
import secrets
import shutil
import stat
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from nas.core.errors import InvalidData, StorageError
from nas.datasets.check import usual_name
from nas.datasets.limits import check_expansion
from nas.schemas.named_data import DataFileSchema

MAX_FILES = 200_000
MAX_UNPACKED = 8 * 2**30
GRACE_S = 24 * 3600.0  # for which an upload waits for its name
_BROKEN = (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError)


def store_upload(file: Path, filename: str, folder: Path) -> DataFileSchema:
    """Unpack a zip file of images in folders, or keep an archive of arrays as it is, below ``folder``. The same content
    is stored once.

    Raises InvalidData for another file and for an archive that is corrupt, leads out of its folder or is far larger
    than its file; StorageError where it cannot be written.
    """
    suffix = PurePosixPath(filename.replace("\\", "/")).suffix.lower()
    if suffix not in (".zip", ".npz"):
        raise InvalidData(f"expected a file .zip (images in folders of their classes) or .npz, got {filename!r}")
    target = folder / _sha256(file)[:32]
    with _storage_errors(folder):
        if not target.exists():
            part = folder / f".{target.name}.{secrets.token_hex(4)}.part"
            part.mkdir(parents=True)
            try:
                if suffix == ".zip":
                    _unpack(file, part)
                else:
                    shutil.copyfile(file, part / "data.npz")
                part.rename(target)
            finally:
                shutil.rmtree(part, ignore_errors=True)
        target.touch()
    return _described(target)


def delete_unused(folder: Path, is_used: Callable[[str], bool], now: float | None = None) -> None:
    """Delete uploads that have had no name for a day, and that no job has read."""
    limit = (time.time() if now is None else now) - GRACE_S
    for upload in folder.iterdir() if folder.is_dir() else ():
        if upload.stat().st_mtime < limit and not is_used(_described(upload).path):
            shutil.rmtree(upload)


def delete_upload(path: str, folder: Path) -> None:
    """Delete an upload by the path of its data; nothing where the data are no upload."""
    data = Path(path)
    if data.is_relative_to(folder) and data != folder:
        shutil.rmtree(folder / data.relative_to(folder).parts[0], ignore_errors=True)


def _described(upload: Path) -> DataFileSchema:
    files = [path for path in upload.rglob("*") if path.is_file()]
    archive = upload / "data.npz"
    path = archive if archive.is_file() else _single_folder(upload)
    size_bytes = sum(file.stat().st_size for file in files)
    return DataFileSchema(kind=usual_name(path), path=str(path), files=len(files), size_bytes=size_bytes)


def _single_folder(upload: Path) -> Path:
    """The folder that a zip file holds, where it holds one only that has folders: what programs make of a folder."""
    visible = [path for path in upload.iterdir() if not path.name.startswith((".", "__MACOSX"))]
    if len(visible) == 1 and visible[0].is_dir() and any(path.is_dir() for path in visible[0].iterdir()):
        return visible[0]
    return upload


def _unpack(file: Path, target: Path) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            _check_members(members, file.stat().st_size)
            for member in members:
                place = target / _relative(member)
                place.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, place.open("xb") as copy:
                    shutil.copyfileobj(source, copy)
    except _BROKEN as error:
        raise InvalidData(f"expected a zip file, got a corrupt one or none: {error}") from error
    except FileExistsError as error:
        raise InvalidData(f"the zip file holds {Path(str(error.filename)).name} twice") from error


def _check_members(members: list[zipfile.ZipInfo], packed_bytes: int) -> None:
    if not members:
        raise InvalidData("expected images in folders of their classes, got an empty zip file")
    if len(members) > MAX_FILES:
        raise InvalidData(f"expected at most {MAX_FILES:,} files, got {len(members):,}: upload them as fewer data sets")
    unpacked_bytes = sum(member.file_size for member in members)
    if unpacked_bytes > MAX_UNPACKED:
        raise InvalidData(f"expected at most {MAX_UNPACKED:,} bytes when it is unpacked, got {unpacked_bytes:,}")
    check_expansion("the zip file", unpacked_bytes, packed_bytes)
    for member in members:
        _relative(member)
        if member.flag_bits & 0x1:
            raise InvalidData(f"{member.filename}: expected a zip file without a password")


def _relative(member: zipfile.ZipInfo) -> PurePosixPath:
    """Raises InvalidData for a name that leads out of the folder, and for what is no plain file."""
    path = PurePosixPath(member.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts or ":" in path.parts[0]:
        raise InvalidData(f"{member.filename!r}: expected a name inside of the zip file's folder")
    mode = member.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise InvalidData(f"{member.filename!r}: expected plain files, got a link or a device")
    return path


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


@contextmanager
def _storage_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full" if full else str(error.strerror or error)
        raise StorageError(f"{folder}: the upload cannot be stored: {reason}") from error
