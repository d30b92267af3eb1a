"""Output files and scratch directories: complete or absent, one writer at a time, cleaned up after killed processes.

A file is written under the name `.NAME.tmp` beside its final one, and renamed when its content is on the disk. The
writer holds a lock on it, which the kernel releases when the process ends, however it ends. So a second writer gets an
error, and the next run takes over what a killed one has left. A few network file systems have no locks; on these, a
second writer is not noticed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tir.common.errors import DataError, OutputInUse

_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


def open_alone(path: str | os.PathLike) -> BinaryIO:
    """Open a file for reading and writing that no other process has open through this function; create it if missing.

    Raises `OutputInUse` if one has; `OSError` if the file cannot be opened.
    """
    while True:
        file = open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), "r+b")
        try:
            if not _lock(file.fileno()):
                raise OutputInUse(
                    "another process writes this output",
                    where=str(path),
                    why="two runs have the same output",
                    remedy=f"fuser -v {path}  # lists the process; wait for it or end it, then run this again",
                )
            if _is_at(file.fileno(), path):
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # its writer renamed it after this function had opened it


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Raise `DataError` with the path if writing it in this context fails."""
    try:
        yield
    except OSError as error:
        raise DataError(
            "cannot write file",
            where=str(path),
            why=error.strerror or str(error),
            remedy="free space or fix permissions, then run the same command again",
        ) from error


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike, *, private: bool = False) -> Iterator[Path]:
    """Yield the path of an empty file beside `path`; on success rename it to `path`, on failure remove it.

    Args:
        private: let only this user read the file.

    Raises `OutputInUse` if another process writes `path`, `DataError` if it cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_alone(temporary) as file:
            try:
                file.truncate(0)  # left by a killed process
                if private:
                    temporary.chmod(0o600)
                yield temporary
                sync(temporary)
                os.replace(temporary, path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise


@contextlib.contextmanager
def only_writer(directory: str | os.PathLike) -> Iterator[None]:
    """Be the only process that writes an output directory, by a lock on `.NAME.lock` beside it, removed at the end.

    Raises `OutputInUse` if another process writes it, `DataError` if the lock cannot be made. The lock of a killed
    process is taken over.
    """
    directory = Path(directory)
    path = directory.with_name(f".{directory.name}.lock")
    with writing(path):
        directory.parent.mkdir(parents=True, exist_ok=True)
        file = open_alone(path)
    with file:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def new_directory(target: str | os.PathLike) -> Iterator[Path]:
    """Yield an empty directory `.NAME.partial` beside `target`; on success it replaces `target`.

    After a failure it is left, and the next call empties it.
    """
    target = Path(target)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)


def link_or_copy(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """Hard-link a file; copy it if the file system does not allow links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def sync(path: str | os.PathLike) -> None:
    """Wait until a file's content is on the disk; renamed before that, it could be empty after a power failure."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


class Scratch:
    """A new directory for temporary files, on one machine. A context manager that yields its path and removes it.

    Making one also removes those with the same prefix whose process has been killed.

    Args:
        prefix: beginning of its name.
        base: directory to make it in; None: the system's directory for temporary files.

    Attributes:
        path: the directory; only this user may enter it.
    """

    def __init__(self, prefix: str, base: str | os.PathLike | None = None):
        base = Path(base or tempfile.gettempdir())
        for entry in base.glob(f"{prefix}*"):
            with contextlib.suppress(OSError):  # e.g. another user's
                _remove_abandoned(entry)
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=base))
            self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            if _lock(self._lock) and _is_at(self._lock, self.path):
                return
            os.close(self._lock)  # before it was locked, another process removed it as abandoned

    def remove(self) -> None:
        """Remove the directory and everything in it."""
        remove_tree(self.path)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.remove()


def _remove_abandoned(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_uid == os.geteuid() and _lock(descriptor, if_unknown=False):
            remove_tree(directory)
    finally:
        os.close(descriptor)


def remove_tree(directory: str | os.PathLike) -> None:
    """Remove a directory and everything in it; entries that this user may not remove are skipped.

    `shutil.rmtree` recurses: a thousand nested directories raise `RecursionError` and make paths longer than the system
    allows. This function instead moves each subdirectory to the top before emptying it.
    """
    directory = os.fspath(directory)
    prefix, directories = uuid.uuid4().hex, [directory]
    for current in directories:  # the loop appends to this list
        with contextlib.suppress(OSError):
            os.chmod(current, 0o700)  # without write permission a directory can be neither emptied nor moved
            for entry in list(os.scandir(current)):
                with contextlib.suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        os.chmod(entry.path, 0o700)
                        moved = os.path.join(directory, f"{prefix}-{len(directories)}")
                        os.rename(entry.path, moved)
                        directories.append(moved)
                    else:
                        os.unlink(entry.path)
    for current in reversed(directories):
        with contextlib.suppress(OSError):
            os.rmdir(current)


def _lock(descriptor: int, *, if_unknown: bool = True) -> bool:
    """Lock an open file or directory; returns whether it is locked now, or `if_unknown` without locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return if_unknown


def _is_at(descriptor: int, path: str | os.PathLike) -> bool:
    """Whether an open file or directory is the one that a path names."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False
