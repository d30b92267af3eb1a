"""A root directory of its own and fresh namespaces for every call, as any user and without a container tool.

A worker calls `enter` once, before it imports anything large: it moves into a user and mount namespace whose root holds
nothing but the Python installation and the system's libraries, read-only, and becomes the first process of a PID
namespace. Each call then costs one `fork` plus about a millisecond: a PID namespace of its own (when its first process
ends, the kernel kills all others in it), then user, mount, IPC, network and UTS namespaces and an empty /tmp.

Bubblewrap and Apptainer make the same walls around a program they *start*; a preloaded worker that forks must make them
itself, and before Python 3.12 the standard library has none of these system calls.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
from collections.abc import Sequence
from typing import BinaryIO

from tir.subprocesses import end_with_parent
from tir.tools.sandbox.trial import trial

# include/uapi/linux/sched.h
_NEWNS, _NEWUTS, _NEWIPC = 0x00020000, 0x04000000, 0x08000000
_NEWUSER, _NEWPID, _NEWNET = 0x10000000, 0x20000000, 0x40000000
# include/uapi/linux/mount.h
_MS_RDONLY, _MS_REMOUNT = 0x1, 0x20
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x2, 0x4, 0x1000, 0x4000, 0x40000
_MNT_DETACH, _AT_RECURSIVE, _MOUNT_ATTR_RDONLY = 0x2, 0x8000, 0x1
_FLAGS_TO_KEEP = {os.ST_NOSUID: 0x2, os.ST_NODEV: 0x4, os.ST_NOEXEC: 0x8, os.ST_NOATIME: 0x400, os.ST_NODIRATIME: 0x800,
                  os.ST_RELATIME: 0x200000}
# Numbers of system calls that libc has no function for; mount_setattr is the same on every architecture.
_SYS_MOUNT_SETATTR = 442
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_PR_SET_DUMPABLE = 4
_CAPABILITY_VERSION_3 = 0x20080522

NOBODY = 65534
TMP_BYTES, TMP_FILES = 64 * 2**20, 4096
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
# The new root is assembled here: a directory that exists on every machine and holds nothing a call needs.
_ASSEMBLY = "/sys"
_KEPT = "/.python"
_HOST = b"sandbox"

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def _unshare(flags: int) -> None:
    _check(_libc.unshare(flags), "unshare")


def _mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    kind_bytes = kind.encode() if kind else None
    _check(_libc.mount(source.encode(), target.encode(), kind_bytes, ctypes.c_ulong(flags), options.encode()), f"mount {target}")


def _make_read_only(root: str, mounts: Sequence[str]) -> None:
    """Recursively; other flags of the mounts stay as they are, which user namespaces insist on."""
    attributes = (ctypes.c_uint64 * 4)(_MOUNT_ATTR_RDONLY, 0, 0, 0)
    result = _libc.syscall(ctypes.c_long(_SYS_MOUNT_SETATTR), ctypes.c_int(-100), ctypes.c_char_p(root.encode()),
                           ctypes.c_uint(_AT_RECURSIVE), ctypes.byref(attributes), ctypes.c_size_t(32))
    if result != 0 and ctypes.get_errno() == errno.ENOSYS:
        # Before kernel 5.12 one mount at a time, each with the flags it has.
        for target in (*mounts, root):
            has = os.statvfs(target).f_flag
            keep = sum(flag for status, flag in _FLAGS_TO_KEEP.items() if has & status)
            _mount("none", target, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | keep)
        return
    _check(result, f"mount_setattr {root}")


def system_files() -> list[str]:
    """What code may read: the Python installation's libraries, the system's shared libraries, time zones."""
    libraries = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    wanted = [*sys.path, *libraries, os.path.join(sys.base_prefix, "lib"), "/usr/lib", "/usr/lib64", "/lib", "/lib64",
              "/etc/ld.so.cache", "/usr/share/zoneinfo"]
    real = sorted({os.path.realpath(path) for path in wanted if path and os.path.exists(path)})
    return [path for path in real if not any(path.startswith(other + "/") for other in real)]


class Namespaces:
    """A worker's own root and PID namespace, and those of its calls. One instance per process, made by `enter`."""

    def __init__(self, sources: Sequence[str]):
        self._proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
        if os.geteuid() == 0 and self._is_root_outside():
            # Root needs no user namespace for its mounts, and afterwards stops being root like everyone else.
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
        _check(_libc.sethostname(_HOST, len(_HOST)), "sethostname")
        _become_first_process()
        self._own_pids = os.open("self/ns/pid", os.O_RDONLY, dir_fd=self._proc)

    def _is_root_outside(self) -> bool:
        """Whether uid 0 is the machine's own, and so may become anyone; inside a container it may map to a user."""
        with open(os.open("self/uid_map", os.O_RDONLY, dir_fd=self._proc), encoding="ascii") as file:
            inside, outside, count = (int(word) for word in file.readline().split())
        return inside == 0 and outside == 0 and count > NOBODY

    def _unshare_user(self, others: int) -> None:
        """A user namespace that knows this user by its own number and no one else, with other namespaces in it."""
        user, group = os.geteuid(), os.getegid()
        _unshare(_NEWUSER | others)
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            file = os.open(f"self/{name}", os.O_WRONLY, dir_fd=self._proc)
            try:
                os.write(file, text.encode())
            finally:
                os.close(file)

    def _make_root(self, sources: Sequence[str]) -> None:
        """Assemble a root of read-only binds, enter it, and let go of the old one."""
        _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
        _mount("tmpfs", _ASSEMBLY, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=755")
        self._under_tmp: list[tuple[str, str]] = []
        mounts = [_ASSEMBLY + path for path in (*sources, *filter(os.path.exists, DEVICES))]
        for number, source in enumerate(sources):
            _bind(source, _ASSEMBLY + source)
            if source.startswith("/tmp/"):
                # A call's own /tmp will hide this one; a second way to it lets the call put it back.
                kept = f"{_KEPT}/{number}"
                _bind(source, _ASSEMBLY + kept)
                mounts.append(_ASSEMBLY + kept)
                self._under_tmp.append((kept, source))
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
        """Open a file of /proc/self for reading; this process's new root has no /proc."""
        return open(os.open(f"self/{name}", os.O_RDONLY, dir_fd=self._proc), "rb")

    def fork(self) -> int:
        """`os.fork` whose child is the first process of a new PID namespace."""
        _unshare(_NEWPID)
        child = os.fork()
        if child:
            _check(_libc.setns(self._own_pids, _NEWPID), "setns")
        return child

    def enter_call(self) -> None:
        """In the child: the other namespaces, an empty /tmp, and no privilege left in any of them."""
        self._unshare_user(_NEWNS | _NEWIPC | _NEWNET | _NEWUTS)
        _mount("tmpfs", "/tmp", "tmpfs", _MS_NOSUID | _MS_NODEV, f"size={TMP_BYTES},nr_inodes={TMP_FILES},mode=700")
        for kept, source in self._under_tmp:
            _bind(kept, source)
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
    """Continue in a child that is process 1 of the new PID namespace; this process waits and ends with it."""
    child = os.fork()
    if child == 0:
        end_with_parent(signal.SIGKILL)
        return
    os.closerange(0, 3)  # or the other end would never see the worker's pipes close
    _, status = os.waitpid(child, 0)
    os._exit(abs(os.waitstatus_to_exitcode(status)))


def _drop_capabilities() -> None:
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _check(_libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")


def probe(sources: Sequence[str]) -> str:
    """Try all of it in a child that is thrown away.

    Returns:
        "" if namespaces work here, else what refused.
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
