"""The seccomp filter of a call: the system calls that numerical Python needs, and no others.

An allow list, because the next kernel's new call should be refused too. What is not listed fails with "Operation not
permitted": making processes, running programs, sockets, mounts, namespaces, ptrace, keys, BPF, io_uring. libseccomp
(through pyseccomp) writes the filter; it also ends a process that uses another architecture's numbers (`int 0x80`, x32).
"""

from __future__ import annotations

import ctypes
import errno
import os

from tir.tools.sandbox.trial import trial

try:
    import pyseccomp
except (ImportError, OSError, RuntimeError) as error:  # the package or libseccomp itself is not there
    pyseccomp, _missing = None, str(error)

ALLOWED = """
    access alarm arch_prctl brk chdir clock_getres clock_gettime clock_nanosleep close close_range copy_file_range
    creat dup dup2 dup3 epoll_create1 epoll_ctl epoll_pwait epoll_wait eventfd2 exit exit_group faccessat faccessat2
    fadvise64 fallocate fchdir fdatasync fstat fstatfs fsync ftruncate futex getcwd getdents getdents64 getegid
    geteuid getgid getgroups getitimer getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid
    getrlimit getrusage getsid gettid gettimeofday getuid getxattr lgetxattr link linkat lseek lstat madvise
    membarrier mincore mkdir mkdirat mmap mprotect mremap msync munmap nanosleep newfstatat open openat openat2 pause
    pipe pipe2 poll ppoll pread64 preadv preadv2 pselect6 pwrite64 pwritev pwritev2 read readahead readlink readlinkat
    readv recvfrom rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask
    rt_sigreturn rt_sigsuspend rt_sigtimedwait sched_getaffinity sched_getparam sched_getscheduler sched_yield select
    sendfile set_robust_list set_tid_address setitimer sigaltstack splice stat statfs statx symlink symlinkat
    sync_file_range sysinfo tee time timerfd_create timerfd_gettime timerfd_settime times truncate umask uname unlink
    unlinkat wait4 waitid write writev
""".split()
# These reach any file whose path is known, and Landlock does not refuse them; a root of its own does.
ALLOWED_ON_OWN_FILES = "chmod fchmod fchmodat utime utimensat utimes".split()
_CLONE_THREAD, _CLONE_NAMESPACES = 0x00010000, 0x7E020080
_TERMINAL_AND_PIPE_QUERIES = (0x5401, 0x5413, 0x541B, 0x5450, 0x5451, 0x5421)  # TCGETS TIOCGWINSZ FIONREAD FIOCLEX ..
# F_DUPFD F_GETFD F_SETFD F_GETFL F_SETFL F_GETLK F_SETLK F_SETLKW, the same of open files, F_DUPFD_CLOEXEC F_GETPIPE_SZ;
# not F_SETOWN and F_SETSIG, which have the kernel signal anyone.
_FCNTL_COMMANDS = (*range(8), 36, 37, 38, 1030, 1032)
_PR_SET_SECCOMP, _MODE_FILTER, _PR_SET_NO_NEW_PRIVS = 22, 2, 38
_BINARY_TREE = 2  # of libseccomp's CTL_OPTIMIZE: a third fewer steps per system call
_AF_UNIX, _PR_GET_NAME, _PR_SET_NAME = 1, 16, 15


def probe() -> str:
    """Load the filter in a child that is thrown away; "" if it holds there, else what refused."""
    if pyseccomp is None:
        return _missing

    def attempt(report) -> None:
        build_filter(os.getpid(), own_root=False).load()
        try:
            os.fork()
            report("it was loaded, but a process could still be made")
        except PermissionError:
            report("works")

    return trial(attempt)


class _Program(ctypes.Structure):
    """`struct sock_fprog` of linux/filter.h."""

    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


class Filter:
    """A finished filter. libseccomp could load it too, but builds it anew for that, on pages a fork must copy: 3 ms.

    Args:
        instructions: the program, 8 bytes each.
    """

    def __init__(self, instructions: bytes):
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._program = _Program(len(instructions) // 8, instructions)

    def load(self) -> None:
        """Restrict the calling process for good, and the threads it will have."""
        for arguments in ((_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(self._program))):
            if self._libc.prctl(*arguments) != 0:
                error = ctypes.get_errno()
                raise OSError(error, f"prctl: {os.strerror(error)}")


def build_filter(pid: int, own_root: bool) -> Filter:
    """The filter of a call.

    Args:
        pid: the process that will load it, by the number it knows itself by: it may signal no other.
        own_root: whether it sees no files but its own and read-only ones.
    """
    allow, equal = pyseccomp.ALLOW, pyseccomp.EQ
    rules = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.EPERM))
    rules.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, _BINARY_TREE)
    for name in ALLOWED + ALLOWED_ON_OWN_FILES * own_root:
        # A name this architecture (or this libseccomp) does not know is refused by being absent.
        if pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) >= 0:
            rules.add_rule(allow, name)
    # Threads, yes; processes and namespaces, no. clone3 hides its flags in memory: libc falls back to clone.
    rules.add_rule(allow, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, _CLONE_THREAD | _CLONE_NAMESPACES, _CLONE_THREAD))
    rules.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "clone3")
    for name in ("kill", "tgkill"):
        rules.add_rule(allow, name, pyseccomp.Arg(0, equal, pid))
    rules.add_rule(allow, "prlimit64", pyseccomp.Arg(0, equal, 0))
    # A pair of sockets is how asyncio wakes itself; an address would lead elsewhere.
    rules.add_rule(allow, "socketpair", pyseccomp.Arg(0, equal, _AF_UNIX))
    rules.add_rule(allow, "sendto", pyseccomp.Arg(4, equal, 0))
    for command in _FCNTL_COMMANDS:
        rules.add_rule(allow, "fcntl", pyseccomp.Arg(1, equal, command))
    for request in _TERMINAL_AND_PIPE_QUERIES:
        rules.add_rule(allow, "ioctl", pyseccomp.Arg(1, equal, request))
    for option in (_PR_GET_NAME, _PR_SET_NAME):
        rules.add_rule(allow, "prctl", pyseccomp.Arg(0, equal, option))
    with os.fdopen(os.memfd_create("filter"), "w+b") as file:
        rules.export_bpf(file)
        file.seek(0)
        return Filter(file.read())
