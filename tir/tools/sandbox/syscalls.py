"""The seccomp filter of a call: it allows only the system calls that numerical Python needs.

It is an allow list, so that system calls of future kernels are refused too. All others fail with "Operation not
permitted": creating processes, running programs, sockets, mounts, namespaces, ptrace, keys, BPF, io_uring. libseccomp
(through pyseccomp) generates the filter, which also kills a process that uses the system call numbers of another
architecture (`int 0x80`, x32).
"""

from __future__ import annotations

import ctypes
import errno
import os

from tir.tools.sandbox.trial import trial

try:
    import pyseccomp
except (ImportError, OSError, RuntimeError) as error:  # pyseccomp or libseccomp is not installed
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
# These change any file whose path is known, and Landlock does not restrict them: allowed only inside a separate root.
ALLOWED_ON_OWN_FILES = "chmod fchmod fchmodat utime utimensat utimes".split()
_CLONE_THREAD, _CLONE_NAMESPACES = 0x00010000, 0x7E020080
_TERMINAL_AND_PIPE_QUERIES = (0x5401, 0x5413, 0x541B, 0x5450, 0x5451, 0x5421)  # TCGETS TIOCGWINSZ FIONREAD FIOCLEX ..
# F_DUPFD F_GETFD F_SETFD F_GETFL F_SETFL F_GETLK F_SETLK F_SETLKW, the locks of open file descriptions (F_OFD_*),
# F_DUPFD_CLOEXEC F_GETPIPE_SZ; without F_SETOWN and F_SETSIG, by which the kernel would signal any process.
_FCNTL_COMMANDS = (*range(8), 36, 37, 38, 1030, 1032)
_PR_SET_SECCOMP, _MODE_FILTER, _PR_SET_NO_NEW_PRIVS = 22, 2, 38
_BINARY_TREE = 2  # value of libseccomp's CTL_OPTIMIZE: a third fewer instructions per system call
_AF_UNIX, _PR_GET_NAME, _PR_SET_NAME = 1, 16, 15


def probe() -> str:
    """Load the filter in a throw-away child; returns "" if it works, else the reason why not."""
    if pyseccomp is None:
        return _missing

    def attempt(report) -> None:
        build_filter(os.getpid(), own_root=False).load()
        try:
            os.fork()
            report("the filter was loaded, but fork still worked")
        except PermissionError:
            report("works")

    return trial(attempt)


class _Program(ctypes.Structure):
    """`struct sock_fprog` of linux/filter.h."""

    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


class Filter:
    """A compiled filter. Loading through libseccomp would compile it again for every call, which takes 3 ms.

    Args:
        instructions: the BPF program, 8 bytes per instruction.
    """

    def __init__(self, instructions: bytes):
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._program = _Program(len(instructions) // 8, instructions)

    def load(self) -> None:
        """Restrict the calling process and its future threads irrevocably."""
        for arguments in (
            (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
            (_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(self._program)),
        ):
            if self._libc.prctl(*arguments) != 0:
                error = ctypes.get_errno()
                raise OSError(error, f"prctl: {os.strerror(error)}")


def build_filter(pid: int, own_root: bool) -> Filter:
    """The filter of a call.

    Args:
        pid: id of the process that will load the filter, in its own PID namespace; it may signal only itself.
        own_root: whether the process has a separate root, with read-only files and its own files only.
    """
    allow, equal = pyseccomp.ALLOW, pyseccomp.EQ
    rules = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.EPERM))
    rules.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, _BINARY_TREE)
    for name in ALLOWED + ALLOWED_ON_OWN_FILES * own_root:
        # A name that this architecture or libseccomp does not have gets no rule, so the call stays refused.
        if pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) >= 0:
            rules.add_rule(allow, name)
    # clone may create threads, but no processes or namespaces. A filter cannot read clone3's flags, which are in
    # memory: ENOSYS makes libc fall back to clone.
    rules.add_rule(
        allow, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, _CLONE_THREAD | _CLONE_NAMESPACES, _CLONE_THREAD)
    )
    rules.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "clone3")
    for name in ("kill", "tgkill"):
        rules.add_rule(allow, name, pyseccomp.Arg(0, equal, pid))
    rules.add_rule(allow, "prlimit64", pyseccomp.Arg(0, equal, 0))
    # asyncio wakes itself through a socket pair. sendto is allowed without an address only, so it cannot reach others.
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
