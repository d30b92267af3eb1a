"""Hostile programs, grouped by attack goal. Each prints BREACH if its attack succeeds.

Programs in `CONTROLLED` are harmless enough to run without a sandbox too, where they must succeed: a program that fails
everywhere proves nothing. `tests/tools/test_sandbox_escapes.py` replaces names in capitals by real paths, ports and
process ids.
"""

_LIBC = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
_SPIN = "while True: pass"


def _tries(*attempts: str) -> str:
    """A program that evaluates each expression; one that raises nothing and is not False is a breach."""
    return "import os, sys, socket, subprocess, signal\n" + "".join(
        "try:\n"
        f"    if ({attempt}) is not False: print('BREACH', {attempt!r})\n"
        "except Exception as error: print(error)\n"
        for attempt in attempts
    )


def _call(*calls: str) -> str:
    """A program that makes raw system calls through ctypes; one that does not fail is a breach."""
    return _LIBC + "".join(f"if libc.syscall({call}) != -1: print('BREACH', {call!r})\n" for call in calls)


CONTROLLED: dict[str, dict[str, str]] = {
    "files": {
        "read": _tries("open('SECRET').read()"),
        "list": _tries("os.listdir('DIRECTORY')"),
        "stat": _tries("os.stat('SECRET')"),
        "password file": _tries("open('/etc/passwd').read()"),
        "overwrite": _tries("open('CANARY', 'a').write('')"),
        "create": _tries("open('DIRECTORY/new', 'w').write('x') and os.remove('DIRECTORY/new')"),
        "through a symlink": _tries("os.symlink('SECRET', 'link') or open('link').read()"),
        "through a hard link": _tries("os.link('SECRET', 'DIRECTORY/hard') or os.remove('DIRECTORY/hard')"),
        "through a directory link": _tries("os.symlink('/', 'root') or open('rootSECRET').read()"),
        "dots": _tries("open('../' * 30 + 'SECRET'[1:]).read()"),
        "own root in proc": _tries("open('/proc/self/rootSECRET').read()"),
        "descriptor of a parent": "import os\nup = os.open('.', os.O_RDONLY)\n"
        "for _ in range(30): up = os.open('..', os.O_RDONLY, dir_fd=up); os.fchdir(up)\n"
        + _tries("os.open('SECRET'[1:], os.O_RDONLY, dir_fd=up)"),
        "numpy": _tries("np.fromfile('SECRET', dtype='uint8')"),
        "import from elsewhere": _tries("sys.path.append('DIRECTORY') or __import__('planted')"),
        "shared memory file": _tries(
            "open('/dev/shm/tir-test', 'w').write('x') and os.remove('/dev/shm/tir-test')"
            " or os.path.realpath('/dev/shm') == '/dev/shm' or 1 / 0"
        ),
        "kernel settings": _tries("open('/proc/sys/kernel/hostname').read()", "os.listdir('/sys/class')"),
    },
    "secrets": {
        "environment of another": _tries("b'HIDDEN' in open('/proc/VICTIM/environ', 'rb').read()"),
        "command line of the evaluator": _tries("open('/proc/EVALUATOR/cmdline', 'rb').read()"),
        "memory map of a process": _tries("open('/proc/VICTIM/maps').read()"),
        "list of processes": _tries("len([name for name in os.listdir('/proc') if name.isdigit()]) > 3"),
        "mounts": _tries("open('/proc/self/mounts').read()"),
    },
    "network": {
        "connect": _tries("socket.create_connection(('127.0.0.1', PORT), 1)"),
        "connect by version 6": _tries("socket.socket(socket.AF_INET6)"),
        "datagram": _tries("socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', PORT))"),
        "listen": _tries("socket.create_server(('127.0.0.1', 0))"),
        "abstract unix socket": _tries("socket.socket(socket.AF_UNIX).connect(chr(0) + 'ABSTRACT')"),
        "web request": "import urllib.request\n"
        + _tries("urllib.request.urlopen('http://127.0.0.1:PORT', timeout=1).read()"),
        "netlink": _tries("socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)"),
        "by ctypes": _LIBC + "if libc.socket(2, 1, 0) >= 0: print('BREACH')",
    },
    "processes": {
        "fork": "import os\n"
        "try:\n"
        "    child = os.fork()\n"
        "    if child == 0: os._exit(0)\n"
        "    print('BREACH')\n"
        "except OSError as error: print(error)",
        "subprocess": _tries("subprocess.run(['/bin/true'])"),
        "shell": "import os\nif os.system('true') == 0: print('BREACH')",
        "attribute by name": "import os\nif getattr(os, 'sy' + 'stem')('true') == 0: print('BREACH')",
        "import by name": _tries("getattr(__import__('o' + 's'), 'po' + 'pen')('echo 1').read() == '1' + chr(10)"),
        "subclasses": "import subprocess\nfound = [c for c in object.__subclasses__() if c.__name__ == 'Popen']\n"
        + _tries("found[0](['/bin/true']).wait() == 0"),
        "made-up code object": "import os\n"
        "code = compile('os.spawnl(os.P_WAIT, \"/bin/true\", \"true\")', 'x', 'eval')\n"
        + _tries("eval(code.replace(co_name='harmless')) == 0"),
        "pool": "import multiprocessing\n" + _tries("multiprocessing.get_context('fork').Pool(1).map(abs, [-1])"),
        "raw fork": _LIBC + "child = libc.fork()\nif child == 0: os._exit(0)\nif child > 0: print('BREACH')",
        "posix_spawn": _tries("os.posix_spawn('/bin/true', ['true'], {})"),
        "see another": _tries("os.kill(VICTIM, 0) is None"),
        "see the parent": "import os\nparent = os.getppid()\n" + _tries("parent > 1 and os.kill(parent, 0) is None"),
    },
    "kernel": {
        "user namespace": _LIBC + "if libc.unshare(0x10000000) == 0: print('BREACH')",
        "shared memory segment": _LIBC + "if libc.shmget(0, 4096, 0o1600) != -1: print('BREACH')",
        "memory file": _tries("os.memfd_create('x')"),
        "new session keyring": _call("250, 1, 0"),
        "inotify": _LIBC + "if libc.inotify_init() >= 0: print('BREACH')",
        "personality": _LIBC + "if libc.personality(0x0040000) >= 0: print('BREACH')",
        "be traced": _LIBC + "if libc.ptrace(0, 0, 0, 0) >= 0: print('BREACH')",
        "message queue": _LIBC + "if libc.msgget(0, 0o1600) != -1: print('BREACH')",
    },
}

# Never run without a sandbox: they would harm the machine, or could not succeed there either.
ONLY_INSIDE: dict[str, dict[str, str]] = {
    "files": {
        "root is read-only": _tries("open('/new', 'w')", "os.mkdir('/new')", "os.rmdir('/tmp')"),
        "libraries are read-only": "import math\n"
        + _tries(
            "open(np.__file__, 'a')",
            "os.remove(np.__file__)",
            "os.chmod(np.__file__, 0)",
            "os.rename('/usr/lib', '/usr/lib2')",
            "os.utime(np.__file__)",
        ),
        "a way put back": _tries(
            "os.listdir('/.python')", "os.chroot('/tmp')", "os.listdir('/root')", "os.listdir('/home')"
        ),
        "race of links": "import os, threading\n"
        "def swap():\n    while True:\n        for target in ('x', 'SECRET'):\n"
        "            try: os.symlink(target, 'new'); os.replace('new', 'race')\n            except OSError: pass\n"
        "threading.Thread(target=swap, daemon=True).start()\n"
        "for _ in range(3000):\n    try: open('race').read(); print('BREACH')\n    except OSError: pass",
        "device": _tries("os.mknod('device', 0o666 | 0o020000, os.makedev(1, 3))"),
        "disk devices": _tries(
            "open('/dev/vda', 'rb')",
            "open('/dev/sda', 'rb')",
            "open('/dev/mem', 'rb')",
            "open('/dev/kmsg')",
            "open('/dev/tty')",
        ),
    },
    "secrets": {
        "own environment": "import os\nif os.environ or os.environb: print('BREACH')\n"
        + _LIBC
        + "libc.getenv.restype = ctypes.c_char_p\nif libc.getenv(b'TIR_TEST_SECRET'): print('BREACH')",
        "memory of the parent": _tries("open('/proc/1/mem', 'rb')", "open('/proc/self/mem', 'rb')"),
        "inherited descriptors": "import os\n"
        "for fd in range(4, 1024):\n"
        "    try: os.fstat(fd); print('BREACH', fd)\n"
        "    except OSError: pass",
        "the worker's own objects": "import os, sys\nframe, seen = sys._getframe(), []\n"
        "while frame := frame.f_back: seen += frame.f_locals.values()\n"
        "barriers = [thing for thing in seen if type(thing).__name__ == 'Barriers']\n"
        "assert barriers, 'nothing to try'\n"
        "for namespaces in (thing.namespaces for thing in barriers):\n"
        "    for fd in (namespaces._proc, namespaces._own_pids):\n"
        "        try: os.open('EVALUATOR/environ', os.O_RDONLY, dir_fd=fd); print('BREACH')\n"
        "        except OSError: pass\n"
        "    try: namespaces.fork(); print('BREACH')\n    except OSError: pass\nprint('tried')",
        "hidden in memory": "import ctypes, sys\nframe, seen = sys._getframe(), ''\n"
        "while frame := frame.f_back: seen += repr(frame.f_locals)\n"
        "libc, secret = ctypes.CDLL(None), 'HID' + 'DEN'\nlibc.malloc.restype = ctypes.c_void_p\n"
        "for size in (64, 1024, 65536):\n"
        "    seen += str(ctypes.string_at(libc.malloc(ctypes.c_size_t(size)), size))\n"
        "if secret in seen: print('BREACH')",
    },
    "network": {
        "raw and packet sockets": _tries(
            "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
            "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
            "socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)",
            "socket.getaddrinfo('localhost', 80) == []",
        ),
        "a pair, connected elsewhere": "import socket\na, b = socket.socketpair()\n"
        + _tries("a.connect(('127.0.0.1', PORT))", "a.connect(chr(0) + 'ABSTRACT')"),
    },
    "processes": {
        "kill another": _tries(
            "os.kill(VICTIM, 9)", "os.kill(EVALUATOR, 9)", "os.kill(-1, 9)", "os.killpg(0, 9)", "os.killpg(VICTIM, 9)"
        ),
        "kill the parent": _tries("os.kill(os.getppid(), 9)", "os.killpg(os.getpgid(os.getppid()), 9)"),
        "kill by descriptor": _call("434, VICTIM, 0", "434, EVALUATOR, 0"),
        "kill by thread": _call("200, VICTIM, 9", "234, VICTIM, VICTIM, 9", "129, VICTIM, 9, 0"),
        "slow down others": _tries(
            "os.setpriority(os.PRIO_PROCESS, VICTIM, 19)",
            "os.sched_setaffinity(VICTIM, {0})",
            "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))",
            "os.nice(-1)",
        ),
        "fork bomb": "import os\nfor _ in range(5000):\n    try: os.fork(); print('BREACH')\n    except OSError: pass",
        "orphan by two forks": "import os\n"
        "try:\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        if os.fork() == 0:\n"
        "            while True: pass\n    print('BREACH')\nexcept OSError: pass",
        "session of its own": "import os\n" + _tries("os.setsid()", "os.setpgid(0, VICTIM)"),
        "thread bomb": "import threading, time\n"
        "count = 0\n"
        "try:\n"
        "    while count < 1000:\n"
        "        threading.Thread(target=time.sleep, args=(60,), daemon=True).start(); count += 1\n"
        "    print('BREACH')\nexcept RuntimeError as error: print(count, error)",
        "at exit": "import atexit\natexit.register(lambda: [None for _ in iter(int, 1)])",
        "many threads": "import threading\n"
        "for _ in range(20): threading.Thread(target=lambda: [None for _ in iter(int, 1)]).start()",
        "clone in disguise": _call(
            "56, 17, 0, 0, 0, 0", "56, 0x10000011, 0, 0, 0, 0", "56, 0x10010000, 0, 0, 0, 0", "57", "58", "435, 0, 0"
        ),
        "attach to another": _LIBC + "if libc.ptrace(16, VICTIM, 0, 0) == 0: print('BREACH')\n"
        "if libc.ptrace(0x4206, VICTIM, 0, 0) == 0: print('BREACH')",
        "read another's memory": _call(
            "310, VICTIM, 0, 0, 0, 0, 0", "311, VICTIM, 0, 0, 0, 0, 0", "438, 3, 1, 0", "312, VICTIM, VICTIM, 0, 0, 0"
        ),
    },
    "kernel": {
        "mounts": _LIBC
        + "for source, target, kind, flags in ((b'proc', b'/tmp', b'proc', 0), (b'/', b'/tmp', None, 4096),\n"
        "                                    (None, b'/', None, 4128), (b'tmpfs', b'/usr/lib', b'tmpfs', 0)):\n"
        "    if libc.mount(source, target, kind, flags, None) == 0: print('BREACH')\n"
        "for target in (b'/tmp', b'/usr/lib', b'/'):\n    if libc.umount2(target, 2) == 0: print('BREACH')",
        "namespaces": _LIBC + "for flag in (0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):\n"
        "    if libc.unshare(flag) == 0 or libc.setns(3, flag) == 0: print('BREACH')",
        "new mount calls": _call(
            "428, -100, b'/', 0",
            "430, b'tmpfs', 0",
            "442, -100, b'/', 0, 0, 0",
            "155, b'.', b'.'",
            "161, b'/tmp'",
            "165, 0, 0, 0, 0, 0",
        ),
        "privileges": _tries("os.setuid(0)", "os.setgid(0)", "os.setgroups([0])", "os.setresuid(0, 0, 0)")
        + _LIBC
        + "header, all_capabilities = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(*[0xFFFFFFFF] * 6)\n"
        "if libc.capset(header, all_capabilities) == 0: print('BREACH')\n"
        "for option in (8, 24, 28, 47):\n    if libc.prctl(option, 0, 0, 0, 0) == 0: print('BREACH')",
        "dangerous calls": _call(
            "321, 0, 0, 0",
            "425, 8, 0",
            "323, 0",
            "298, 0, 0, -1, -1, 0",
            "246, 0, 0, 0, 0",
            "169, 0xfee1dead, 0x28121969, 0x89abcdef, 0",
            "175, 0, 0, b''",
            "313, 0, b'', 0",
            "167, b'/tmp', 0",
            "164, 0, 0",
            "170, b'x', 1",
            "172, 3",
            "103, 2, 0, 0",
            "163, 0",
            "248, b'user', b'a', b'b', 1, -3",
            "304, -1, 0, 0",
            "303, -100, b'/', 0, 0, 0",
            "240, b'/q', 66, 384, 0",
            "222, 0, 0, 0",
        ),
        "running a program": _call("59, b'/bin/true', 0, 0", "322, -100, b'/bin/true', 0, 0, 0"),
        "32-bit numbers": "import mmap, ctypes\n"
        "code = mmap.mmap(-1, 4096, prot=7)\n"
        "code.write(bytes.fromhex('b814000000cd80c3'))\n"
        "call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))\n"
        "print('BREACH' if call() > 0 else 'refused')",
        "x32 numbers": _call("0x40000000 + 39", "0x40000000 + 57"),
        "lifted limits": "import resource\n"
        "for name in ('AS', 'CPU', 'NPROC', 'NOFILE', 'FSIZE'):\n"
        "    limit = getattr(resource, 'RLIMIT_' + name)\n"
        "    try: resource.setrlimit(limit, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)); print('BREACH')\n"
        "    except (ValueError, OSError): pass\n" + _LIBC + "if libc.prlimit(VICTIM, 7, 0, 0) == 0: print('BREACH')",
        "the filter itself": _LIBC + "if libc.prctl(22, 0, 0, 0, 0) == 0: print('BREACH')\n"
        "if libc.syscall(317, 0, 0, 0) == 0 or libc.syscall(446, 3, 0) == 0: print('BREACH')\n"
        "import sys\n"
        "for name, module in list(sys.modules.items()):\n"
        "    if name.startswith('tir.'): module.__dict__.clear()\n"
        "try: os.fork(); print('BREACH')\nexcept OSError: pass",
        "terminal input": "import fcntl\n"
        "for fd in (0, 1, 2):\n"
        "    try: fcntl.ioctl(fd, 0x5412, b'x'); print('BREACH')\n"
        "    except OSError: pass",
    },
    "bombs": {
        "list": "items = []\nwhile True: items.append([0] * 10**6)\n",
        "bytes": "items = [bytearray(2**28) for _ in range(8)]\nprint('BREACH')",
        "numpy": "items = [np.ones(2**25) for _ in range(8)]\nprint('BREACH')",
        "power": "print(9**9**9)",
        "string": "text = 'x' * 2**40\nprint('BREACH')",
        "anonymous map": "import mmap\nmaps = [mmap.mmap(-1, 2**28) for _ in range(8)]\nprint('BREACH')",
        "swallowed": "items = []\nwhile True:\n    try: items.append(bytearray(2**24))\n    except MemoryError: pass",
        "recursion": "import sys\nsys.setrecursionlimit(10**9)\ndef f(n): return f(n + 1) + 1\nf(0)",
        "nested data": "item = []\nfor _ in range(10**6): item = [item]\nprint(repr(item))",
        "file": "with open('big', 'wb') as file:\n    for _ in range(1000): file.write(b'x' * 2**20)\nprint('BREACH')",
        "sparse file": "with open('big', 'wb') as file: file.truncate(2**40)\nprint('BREACH')",
        "many files": "for number in range(10**5): open(f'file{number}', 'w').close()\nprint('BREACH')",
        "full disk": "for number in range(100): open(f'file{number}', 'wb').write(b'x' * 2**23)\nprint('BREACH')",
        "descriptors": "files = []\nfor _ in range(1000): files.append(open('/dev/null'))\nprint('BREACH')",
        "pipes": "import os\npipes = []\nfor _ in range(1000): pipes.append(os.pipe())\nprint('BREACH')",
        "deep directories": "import os\nfor _ in range(5000): os.mkdir('d'); os.chdir('d')\nprint('BREACH')",
    },
    "output": {
        "endless lines": "while True: print('x' * 10000)",
        "one long line": "print('x' * 10**8)",
        "raw bytes": "import os\nwhile True: os.write(1, b'\\xff\\x00' * 30000)",
        "no newline, no flush": "import sys\nfor _ in range(10**5): sys.stdout.write('x' * 10**4)",
        "on the error stream": "import sys\nwhile True: sys.stderr.write('x' * 10**5)",
        "on the report": "import os\nwhile True: os.write(3, b'x' * 60000)",
        "a huge exception": "raise ValueError('x' * 10**8)",
        "closed at once": "import os\nos.close(1); os.close(3)\nwhile True: pass",
    },
    "time": {
        "loop": _SPIN,
        "sleep": "import time\ntime.sleep(1000)",
        "signals ignored": "import signal\n"
        "for number in range(1, 64):\n"
        "    try: signal.signal(number, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\n" + _SPIN,
        "signals blocked": "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64))\n" + _SPIN,
        "exceptions swallowed": "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "inside C": "sum(range(10**12))",
        "regular expression": "import re\nre.match('(a+)+$', 'a' * 40 + 'b')",
        "deadlock": "import threading\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()",
        "in a destructor": "class T:\n    def __del__(self):\n        while True: pass\nT()",
        "stopped": "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\nwhile True: pass",
    },
    "endings": {
        "exit": "exit(3)",
        "exit with a code": "import os\nos._exit(7)",
        "kill itself": "import os, signal\nsignal.raise_signal(signal.SIGABRT)\nos.abort()",
        "null pointer": "import ctypes\nctypes.string_at(0)",
        "made-up bytecode": "exec((lambda: 1).__code__.replace(co_code=b'\\xff' * 8))",
        "interpreter's end": "import ctypes\nctypes.pythonapi.Py_Finalize()",
        "a forged report": 'import os\nos.write(3, b\'{"type": 1, "text": [[[\')\nos._exit(0)',
        "stack": "import ctypes, threading\nctypes.memset(ctypes.addressof(ctypes.c_int()), 0, 10**8)",
    },
}
ALL = {group: {**CONTROLLED.get(group, {}), **ONLY_INSIDE.get(group, {})} for group in CONTROLLED | ONLY_INSIDE}


def counts() -> str:
    """The table of classes in docs/sandbox.md: number of programs, and of those that are also run without a sandbox."""
    rows = [(group, len(programs), len(CONTROLLED.get(group, {}))) for group, programs in ALL.items()]
    rows.append((f"{len(ALL)} classes", *(sum(column) for column in list(zip(*rows, strict=True))[1:])))
    lines = [f"| {name} | {programs} | {controlled} |" for name, programs, controlled in rows]
    return "\n".join(["| class | programs | also run without a sandbox |", "| --- | ---: | ---: |", *lines])
