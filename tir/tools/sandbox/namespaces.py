"""Linux namespaces for every call, for any user and without a container tool.

A worker creates a `Namespaces` once, before it imports large libraries. The worker moves into a user and a mount
namespace whose root contains only the Python installation and the system's libraries, read-only, and becomes the first
process of a PID namespace. Each call then costs one `fork` plus about a millisecond. It gets its own PID namespace
(when its first process ends, the kernel kills all others in it), its own user, mount, IPC, network and UTS namespaces,
and an empty /tmp.

Bubblewrap and Apptainer set up the same namespaces around a program that they *start*. A preloaded worker that forks
has to make the system calls itself; the standard library has none of them before Python 3.12.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import sys
from collections.abc import Sequence
from typing import BinaryIO

from tir.common.subprocesses import end_with_parent
from tir.tools.sandbox.trial import trial

# include/uapi/linux/sched.h
_NEWNS, _NEWUTS, _NEWIPC = 0x00020000, 0x04000000, 0x08000000
_NEWUSER, _NEWPID, _NEWNET = 0x10000000, 0x20000000, 0x40000000
# include/uapi/linux/mount.h
_MS_RDONLY, _MS_REMOUNT = 0x1, 0x20
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x2, 0x4, 0x1000, 0x4000, 0x40000
_MNT_DETACH, _AT_RECURSIVE, _MOUNT_ATTR_RDONLY = 0x2, 0x8000, 0x1
_FLAGS_TO_KEEP = {
    os.ST_NOSUID: 0x2,
    os.ST_NODEV: 0x4,
    os.ST_NOEXEC: 0x8,
    os.ST_NOATIME: 0x400,
    os.ST_NODIRATIME: 0x800,
    os.ST_RELATIME: 0x200000,
}
# Numbers of system calls without a libc function; mount_setattr has the same number on every architecture.
_SYS_MOUNT_SETATTR = 442
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_PR_SET_DUMPABLE = 4
_CAPABILITY_VERSION_3 = 0x20080522

NOBODY = 65534
TMP_BYTES, TMP_FILES = 64 * 2**20, 4096
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
# Mount point of the new root while it is assembled: exists on every machine, and calls need nothing in it.
_ASSEMBLY = "/sys"
_SECOND_BINDS = "/.python"  # second binds of sources below /tmp
_HOST_NAME = b"sandbox"

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def _unshare(flags: int) -> None:
    _check(_libc.unshare(flags), "unshare")


def _mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    kind_bytes = kind.encode() if kind else None
    _check(
        _libc.mount(source.encode(), target.encode(), kind_bytes, ctypes.c_ulong(flags), options.encode()),
        f"mount {target}",
    )


def _make_read_only(root: str, mounts: Sequence[str]) -> None:
    """Make all mounts below a root read-only; other flags stay, because a user namespace may not clear them."""
    attributes = (ctypes.c_uint64 * 4)(_MOUNT_ATTR_RDONLY, 0, 0, 0)
    result = _libc.syscall(
        ctypes.c_long(_SYS_MOUNT_SETATTR),
        ctypes.c_int(-100),
        ctypes.c_char_p(root.encode()),
        ctypes.c_uint(_AT_RECURSIVE),
        ctypes.byref(attributes),
        ctypes.c_size_t(32),
    )
    if result != 0 and ctypes.get_errno() == errno.ENOSYS:
        # Kernels before 5.12 have no mount_setattr: remount each mount with its present flags.
        for target in (*mounts, root):
            status = os.statvfs(target).f_flag
            flags = sum(flag for status_bit, flag in _FLAGS_TO_KEEP.items() if status & status_bit)
            _mount("none", target, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | flags)
        return
    _check(result, f"mount_setattr {root}")


def system_files() -> list[str]:
    """Paths that code may read: the Python installation's libraries, the system's shared libraries, time zones.

    Of a directory in `LD_LIBRARY_PATH` they include nothing but shared libraries, and of `sys.path` only what belongs
    to the installation: other directories may be the working directory or somebody's home.
    """
    prefixes = {os.path.realpath(prefix) for prefix in (sys.prefix, sys.base_prefix)}
    installation = tuple(f"{prefix}/{name}/" for prefix in prefixes for name in ("lib", "lib64", "local/lib"))
    importable = [path for path in sys.path if os.path.realpath(path).startswith(installation)]
    directories = [
        *importable,
        os.path.join(sys.base_prefix, "lib"),
        "/usr/lib",
        "/usr/lib64",
        "/lib",
        "/lib64",
        "/etc/ld.so.cache",
        "/usr/share/zoneinfo",
    ]
    paths = _outermost({os.path.realpath(path) for path in directories if os.path.exists(path)})
    # Python looks for modules under the names in sys.path, which go through a link where the environment is one.
    paths += _outermost({path for path in importable if os.path.isdir(path) and path != os.path.realpath(path)})
    for directory in sorted(set(os.environ.get("LD_LIBRARY_PATH", "").split(":"))):
        if directory.startswith("/.singularity.d"):
            continue  # `apptainer --nv` puts the GPU driver's libraries there, which no program here can use
        if os.path.isabs(directory) and not f"{os.path.realpath(directory)}/".startswith(tuple(f"{p}/" for p in paths)):
            paths += _shared_libraries(directory)
    return paths


def _outermost(paths: set[str]) -> list[str]:
    """The paths that are in no other one, sorted."""
    return [path for path in sorted(paths) if not path.startswith(tuple(f"{other}/" for other in paths))]


def _shared_libraries(directory: str) -> list[str]:
    """The shared libraries in a directory, under all their names: the loader looks for the names of links too."""
    found = []
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(directory)):
            path = os.path.join(directory, name)
            with contextlib.suppress(OSError):
                if ".so" in name and os.path.isfile(path):
                    with open(path, "rb") as file:
                        found += [path] if file.read(4) == b"\x7fELF" else []
    return found


class Namespaces:
    """The root and namespaces of a worker and of its calls. Creating one moves this process in: one per process."""

    def __init__(self, sources: Sequence[str]):
        self._proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
        if os.geteuid() == 0 and self._is_root_outside():
            # Root may mount without a user namespace; after mounting the process becomes the user nobody.
            _unshare(_NEWNS)
            self._make_root(sources)
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
        else:
            self._unshare_user(_NEWNS)
            self._make_root(sources)
        self._unshare_user(_NEWNS | _NEWPID | _NEWIPC | _NEWNET | _NEWUTS)
        _check(_libc.sethostname(_HOST_NAME, len(_HOST_NAME)), "sethostname")
        _become_first_process()
        self._own_pids = os.open("self/ns/pid", os.O_RDONLY, dir_fd=self._proc)

    def _is_root_outside(self) -> bool:
        """Whether uid 0 is the machine's root; inside a container uid 0 may be mapped to an ordinary user."""
        with open(os.open("self/uid_map", os.O_RDONLY, dir_fd=self._proc), encoding="ascii") as file:
            inside, outside, count = (int(word) for word in file.readline().split())
        return inside == 0 and outside == 0 and count > NOBODY

    def _unshare_user(self, others: int) -> None:
        """Enter a user namespace that maps only this user, to the same number, and the other given namespaces."""
        user, group = os.geteuid(), os.getegid()
        _unshare(_NEWUSER | others)
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            file = os.open(f"self/{name}", os.O_WRONLY, dir_fd=self._proc)
            try:
                os.write(file, text.encode())
            finally:
                os.close(file)

    def _make_root(self, sources: Sequence[str]) -> None:
        """Assemble a root of read-only binds, make it the root, and unmount the old one."""
        _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
        _mount("tmpfs", _ASSEMBLY, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=755")
        self._under_tmp: list[tuple[str, str]] = []
        mounts = [_ASSEMBLY + path for path in (*sources, *filter(os.path.exists, DEVICES))]
        for number, source in enumerate(sources):
            _bind(source, _ASSEMBLY + source)
            if source.startswith("/tmp/"):
                # The call's own /tmp will hide this source; the call binds it again from a second place.
                second = f"{_SECOND_BINDS}/{number}"
                _bind(source, _ASSEMBLY + second)
                mounts.append(_ASSEMBLY + second)
                self._under_tmp.append((second, source))
        for device in filter(os.path.exists, DEVICES):
            _bind(device, _ASSEMBLY + device)
        for link in ("/lib", "/lib64"):
            if os.path.islink(link):
                os.symlink(os.readlink(link), _ASSEMBLY + link)
        os.makedirs(_ASSEMBLY + "/tmp", exist_ok=True)
        if not os.path.lexists(_ASSEMBLY + "/dev/shm"):
            os.symlink("/tmp", _ASSEMBLY + "/dev/shm")  # where libc keeps semaphores
        _make_read_only(_ASSEMBLY, mounts)
        os.chdir(_ASSEMBLY)
        number = _SYS_PIVOT_ROOT[os.uname().machine]
        _check(_libc.syscall(ctypes.c_long(number), ctypes.c_char_p(b"."), ctypes.c_char_p(b".")), "pivot_root")
        _check(_libc.umount2(b".", _MNT_DETACH), "umount of the old root")
        os.chdir("/")

    def open_own(self, name: str) -> BinaryIO:
        """Open a file of /proc/self for reading, although the new root contains no /proc."""
        return open(os.open(f"self/{name}", os.O_RDONLY, dir_fd=self._proc), "rb")

    def fork(self) -> int:
        """`os.fork` whose child is the first process of a new PID namespace."""
        _unshare(_NEWPID)
        child = os.fork()
        if child:
            _check(_libc.setns(self._own_pids, _NEWPID), "setns")
        return child

    def enter_call(self) -> None:
        """In the child: enter the other namespaces, mount an empty /tmp, drop all capabilities."""
        self._unshare_user(_NEWNS | _NEWIPC | _NEWNET | _NEWUTS)
        _mount("tmpfs", "/tmp", "tmpfs", _MS_NOSUID | _MS_NODEV, f"size={TMP_BYTES},nr_inodes={TMP_FILES},mode=700")
        for second, source in self._under_tmp:
            _bind(second, source)
        os.chdir("/tmp")
        _drop_capabilities()


def _bind(source: str, target: str) -> None:
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    _mount(source, target, None, _MS_BIND | _MS_REC)


def _become_first_process() -> None:
    """Continue in a child that is process 1 of the new PID namespace; the parent waits for it and exits with it."""
    child = os.fork()
    if child == 0:
        end_with_parent(signal.SIGKILL)
        return
    os.closerange(0, 3)  # otherwise these copies would keep the worker's pipes open after the worker has ended
    _, status = os.waitpid(child, 0)
    os._exit(abs(os.waitstatus_to_exitcode(status)))


def _drop_capabilities() -> None:
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _check(_libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")


def probe(sources: Sequence[str]) -> str:
    """Try all namespaces in a throw-away child.

    Returns:
        "" if they work here, else the error.
    """

    def attempt(report) -> None:
        namespaces = Namespaces(sources)
        call = namespaces.fork()
        if call == 0:
            namespaces.enter_call()
            report("works")
            os._exit(0)
        os.waitpid(call, 0)

    return trial(attempt)
