"""The seccomp filter of a call: the system calls that numerical Python needs, and no others.

An allow list, because the next kernel's new call should be refused too. What is not listed fails with "Operation not
permitted": making processes, running programs, sockets, mounts, namespaces, ptrace, keys, BPF, io_uring. libseccomp
(through pyseccomp) writes the filter; it also ends a process that uses another architecture's numbers (`int 0x80`, x32).
"""

from __future__ import annotations

import errno
import os

try:
    import pyseccomp
except (ImportError, OSError, RuntimeError) as error:  # the package or libseccomp itself is not there
    pyseccomp, _missing = None, str(error)

ALLOWED = """
    access arch_prctl brk chdir chmod clock_getres clock_gettime clock_nanosleep close close_range copy_file_range
    creat dup dup2 dup3 epoll_create1 epoll_ctl epoll_pwait epoll_wait eventfd2 exit exit_group faccessat faccessat2
    fadvise64 fallocate fchdir fchmod fchmodat fcntl fdatasync flock fstat fstatfs fsync ftruncate futex getcwd getdents
    getdents64 getegid geteuid getgid getgroups getitimer getpgid getpgrp getpid getppid getpriority getrandom getresgid
    getresuid getrlimit getrusage getsid gettid gettimeofday getuid getxattr lgetxattr link linkat lseek lstat madvise
    membarrier mincore mkdir mkdirat mmap mprotect mremap msync munmap nanosleep newfstatat open openat openat2 pause pipe
    pipe2 poll ppoll pread64 preadv preadv2 pselect6 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv
    rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigreturn
    rt_sigsuspend rt_sigtimedwait sched_getaffinity sched_getparam sched_getscheduler sched_yield select sendfile
    set_robust_list set_tid_address setitimer sigaltstack splice stat statfs statx symlink symlinkat sync_file_range
    sysinfo tee time timerfd_create timerfd_gettime timerfd_settime times truncate umask uname unlink unlinkat utime
    utimensat utimes wait4 waitid write writev alarm
""".split()
_CLONE_THREAD, _CLONE_NAMESPACES = 0x00010000, 0x7E020080
_TERMINAL_AND_PIPE_QUERIES = (0x5401, 0x5413, 0x541B, 0x5450, 0x5451, 0x5421)  # TCGETS TIOCGWINSZ FIONREAD FIOCLEX ..
_BINARY_TREE = 2  # of libseccomp's CTL_OPTIMIZE: a third fewer steps per system call
_AF_UNIX, _PR_GET_NAME, _PR_SET_NAME = 1, 16, 15


def probe() -> str:
    """Load the filter in a child that is thrown away; "" if it holds there, else what refused."""
    if pyseccomp is None:
        return _missing
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            build_filter(os.getpid()).load()
            try:
                os.fork()
                os.write(write, b"it was loaded, but a process could still be made")
            except PermissionError:
                os.write(write, b"works")
        except Exception as error:  # noqa: BLE001  (the reason is the result)
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with open(read, encoding="utf-8", errors="replace") as file:
        answer = file.read()
    return "" if answer == "works" else answer or "the probe ended without a word"


def build_filter(pid: int):
    """The rules; `.load()` restricts the calling process for good, and its threads with it.

    Args:
        pid: the process that will load it, by the number it knows itself by: it may signal no other.

    Returns:
        A `pyseccomp.SyscallFilter`. Building takes a millisecond and a half, loading a third of one.
    """
    allow, equal = pyseccomp.ALLOW, pyseccomp.EQ
    rules = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.EPERM))
    rules.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, _BINARY_TREE)
    for name in ALLOWED:
        # A name this architecture (or this libseccomp) does not know is refused by being absent.
        if pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) >= 0:
            rules.add_rule(allow, name)
    # Threads, yes; processes and namespaces, no. clone3 hides its flags in memory: libc falls back to clone.
    rules.add_rule(allow, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, _CLONE_THREAD | _CLONE_NAMESPACES, _CLONE_THREAD))
    rules.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "clone3")
    for name in ("kill", "tgkill"):
        rules.add_rule(allow, name, pyseccomp.Arg(0, equal, pid))
    rules.add_rule(allow, "prlimit64", pyseccomp.Arg(0, equal, 0))
    rules.add_rule(allow, "socketpair", pyseccomp.Arg(0, equal, _AF_UNIX))
    for request in _TERMINAL_AND_PIPE_QUERIES:
        rules.add_rule(allow, "ioctl", pyseccomp.Arg(1, equal, request))
    for option in (_PR_GET_NAME, _PR_SET_NAME):
        rules.add_rule(allow, "prctl", pyseccomp.Arg(0, equal, option))
    return rules
