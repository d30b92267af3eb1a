"""The Python tool: upstream's golden vectors, faulty code, limits, and concurrent calls."""

import asyncio
import time

import pytest

from tir.common.errors import ToolUnavailable
from tir.config.presets import PRESETS
from tir.tools.python_tool import PythonTool, PythonToolConfig


@pytest.fixture(scope="module")
def tool():
    with PythonTool(timeout_s=2.0, workers=2) as tool:
        yield tool


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("print(1+1)", "2"),
        ("a = 1", "Done"),
        ("1+1", "Done"),
        ("print(solve(Eq(x**2,4),x))", "[-2, 2]"),
        ("print(np.arange(3))", "[0 1 2]"),
        ("import scipy; print(scipy.__name__)", "scipy"),
        ("# a comment with input( in it\nprint(3)", "3"),
        ("import sys; print(sys.stdin.buffer.read(), sys.stdin.fileno(), list(sys.stdin))", "b'' 0 []"),
    ],
)
def test_correct_code_returns_its_output(tool, code, text):
    result = tool.run(code)
    assert (result.status, result.text) == ("ok", text)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("import os; os._exit(1)", "exited with status 1"),
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
        ("a = ' ' * 10**11", "out of memory"),
        ("print(input())", "EOF"),
        ("import sys; sys.stdin.readline(); input('x')", "EOF"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("import os; os.abort()", "killed by SIG"),
        ("def f(): f()\nf()", "recursion"),
        ("import sys; sys.exit('words')", "SystemExit: words"),
        ("import sys; sys.exit('killed it')", "SystemExit: killed it"),
        ("import sys; sys.exit('exited')", "SystemExit: exited"),
        ("class E(Exception):\n  def __str__(self): raise SystemExit\nraise E", "E"),
        ("class E(SystemExit):\n  @property\n  def code(self): raise SystemExit\nraise E", "SystemExit"),
        ("print('\\ud800'.encode('utf-8'))", "surrogates"),
        ("raise ValueError('é' * 5000)", "é"),
    ],
)
def test_faulty_code_returns_an_error_text(tool, code, text):
    result = tool.run(code)
    assert result.status == "error" and text in result.text
    assert tool.run("print('alive')").text == "alive"


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("d={}; print(d[42])", "KeyError: 42"),
        ("print({}['a'])", "KeyError: 'a'"),
        ("def f():\n    yield 1\n    return 7\ng=f(); next(g); print(next(g))", "StopIteration: 7"),
        ("raise StopIteration", "StopIteration"),
        ("assert 1==2", "AssertionError"),
        ("assert 1==2, 'unequal'", "AssertionError: unequal"),
        ("print(1/0)", "ZeroDivisionError: division by zero"),
        ("print(foo)", "NameError: name 'foo' is not defined"),
        ("x = = 1", "SyntaxError: invalid syntax (<string>, line 1)"),
        ("[][3]", "IndexError: list index out of range"),
        ("import json; json.loads('?')", "JSONDecodeError: Expecting value: line 1 column 1 (char 0)"),
        ("np.linalg.inv(np.zeros((2, 2)))", "LinAlgError: Singular matrix"),
        ("class Wrong(Exception): pass\nraise Wrong('17')", "Wrong: 17"),
        ("raise ValueError('a: b')", "ValueError: a: b"),
        ("import sys; sys.exit('17')", "SystemExit: 17"),
        ("import sys; sys.exit(True)", "SystemExit: True"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise ValueError(None)", "ValueError: None"),
        ("raise Exception('a', 'b')", "Exception: ('a', 'b')"),
        ("raise ExceptionGroup('two', [ValueError(1)])", "ExceptionGroup: two (1 sub-exception)"),
        ("class E(Exception):\n  def __str__(self): return 5\nraise E", "E"),
        ("raise 5", "TypeError: exceptions must derive from BaseException"),
        ("print(1 − 2)", "SyntaxError: invalid character '−' (U+2212) (<string>, line 1)"),
        ("print('a'\n", "SyntaxError: '(' was never closed (<string>, line 1)"),
        ("return 5", "SyntaxError: 'return' outside function (<string>, line 1)"),
        ("list(range(10**10))", "MemoryError: out of memory"),
        ("import asyncio\nasync def main(): raise ValueError('late')\nasyncio.run(main())", "ValueError: late"),
        ("import warnings\nwarnings.simplefilter('error')\nwarnings.warn('strict')", "UserWarning: strict"),
        ("raise SystemExit(1, 2)", "SystemExit: (1, 2)"),
        # what was printed before
        ("x = input('Enter: ')", "Enter:\nEOFError: EOF when reading a line"),
        ("try:\n    1/0\nfinally:\n    print('end')", "end\nZeroDivisionError: division by zero"),
        ("Divide:\n```python\nprint('a')\n1/0\n```", "a\nZeroDivisionError: division by zero"),
        ("print('a')\n```python\n1/0\n```", "SyntaxError: invalid syntax (<string>, line 2)"),
        ("print('step'); 1/0", "step\nZeroDivisionError: division by zero"),
        ("print('step')\nimport sys\nsys.exit(3)", "step\nSystemExit: 3"),
        ("print('step', flush=True)\nimport os\nos._exit(3)", "step\nexited with status 3"),
        (
            "print('a' * 1000); raise ValueError('b' * 1000)",
            f"{'a' * 100}...{'a' * 100}\nValueError: {'b' * 88}...{'b' * 100}",
        ),
        ("print('a' * 390); 1/0", f"{'a' * 100}...{'a' * 100}\nZeroDivisionError: division by zero"),
        ("print('step', end='')\nimport os\nos._exit(3)", "step\nexited with status 3"),
        ("print('step', end='')\nimport ctypes\nctypes.string_at(0)", "step\nkilled by SIGSEGV"),
        # the program replaced what reports its outcome
        ("import json\njson.dumps = None\n1/0", "ZeroDivisionError: division by zero"),
        ("import os\nos.write = os._exit = None\n1/0", "ZeroDivisionError: division by zero"),
    ],
)
def test_an_error_has_its_type_and_follows_the_output(tool, code, text):
    result = tool.run(code)
    assert (result.status, result.text) == ("error", text)


def test_output_before_the_time_limit_or_a_crash_is_kept(tool):
    result = tool.run("print('step')\nwhile True: pass")
    assert (result.status, result.text) == ("timeout", "step\ntimed out after 2 s")
    result = tool.run("import sys\nprint('a', end=' ')\nsys.stdout.write('b')\nwhile True: pass")
    assert (result.status, result.text) == ("timeout", "a b\ntimed out after 2 s")
    assert tool.run("print('step')\nimport os\nos._exit(3)").text == "step\nexited with status 3"


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.2), print('late'))).start()", "late"),
        ("import threading, time\nthreading.Thread(target=time.sleep, args=[100], daemon=True).start()", "Done"),
        ("import threading\nthread = threading.Thread(target=lambda: 1 / 0)\nthread.start(), print('main')", "main"),
        ("from concurrent.futures import ThreadPoolExecutor\nThreadPoolExecutor(2).submit(print, 'work')", "work"),
        ("import atexit\natexit.register(print, 'end')\nprint('main')", "main\nend"),
        ("import atexit, sys\natexit.register(print, 'end')\nsys.exit()", "end"),
        ("import atexit\natexit.register(lambda: 1 / 0)\nprint('main')", "main"),
    ],
)
def test_a_program_ends_as_it_would_in_python(tool, code, text):
    """Python waits for threads that are no daemons, and calls what was registered for the end."""
    result = tool.run(code)
    assert (result.status, result.text) == ("ok", text)


def test_a_thread_that_does_not_end_is_ended_at_the_time_limit(tool):
    result = tool.run("import threading, time\nthreading.Thread(target=time.sleep, args=[100]).start()\nprint('main')")
    assert (result.status, result.text) == ("timeout", "main\ntimed out after 2 s")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("print(17); exit()", "17"),
        ("print(17); quit()", "17"),
        ("print(17)\nimport sys\nsys.exit()\nprint(18)", "17"),
        ("import sys\ndef main(): print(5); return 0\nsys.exit(main())", "5"),
        ("import sys\ndef main(): print(5)\nsys.exit(main())", "5"),
        ("print(5); raise SystemExit", "5"),
        ("print(5); raise SystemExit(0)", "5"),
        ("print(5); exit(False)", "5"),
        ("def f():\n    print(5)\n    exit(0)\nf()", "5"),
        ("class Stop(SystemExit): pass\nprint(5); raise Stop", "5"),
        ("print(5, flush=True)\nimport os\nos._exit(0)", "5"),
        ("exit()", "Done"),
    ],
)
def test_a_clean_exit_is_a_success(tool, code, text):
    result = tool.run(code)
    assert (result.status, result.text) == ("ok", text)


WRAPPED = [
    ("```python\nprint(3)\n```", "3"),
    ("```\nprint(3)\n```", "3"),
    ("\n\n```py\nprint(3)\n```\n", "3"),
    ("```Python\nprint(3)\n```", "3"),
    ("```{python}\nprint(3)\n```", "3"),
    ("~~~python\nprint(3)\n~~~", "3"),
    ("````python\nprint('```')\n````", "```"),
    ("```python\r\nprint(3)\r\n```", "3"),
    ("```python\nprint(3)", "3"),
    ("print(3)\n```", "3"),
    ("```python print(3)```", "3"),
    ("`print(3)`", "3"),
    ("Compute it:\n```python\nprint(3)\n```\nThat is all.", "3"),
    ("```python\na = 1\n```\nand\n```python\nprint(a + 2)\n```", "3"),
    ("```python\n    print(3)\n```", "3"),
    ("```python\n  def f():\n      return 3\n  print(f())```", "3"),
    ("```bash\npip install numpy\n```\n```python\nprint(3)\n```", "3"),
    ("```py\nprint(3)\n```\nOutput:\n```text\n3 is the answer\n```", "3"),
    ("    ```python\n    print(3)\n    ```", "3"),
    ("    print(4)", "4"),
    ("\tprint(4)", "4"),
    ("\n    a = 1\n\n    if a:\n        print(4)\n", "4"),
    ("  # a comment\n  print(4)", "4"),
    ("\ufeffprint(4)", "4"),
    (">>> print(4)", "4"),
    (">>> x = 2\n>>> print(x)\n2", "2"),
    (">>> for i in range(2):\n...     print(i)\n...\n0\n1\n>>> print('end')", "0\n1\nend"),
    ("```python\n>>> print(4)\n4\n```", "4"),
    ("    >>> print(4)\n    4", "4"),
    (">>>print(4)\n4\n>>>print(5)", "4\n5"),
    ("Let me try:\n>>> print(4)\n4", "4"),
    ("print(3)\n```\n", "3"),
    ("# Solution\n\n```python\nprint(3)\n```", "3"),
    ("Answer\n```python\nprint(3)\n```", "3"),
    ("\ufeff```python\nprint(3)\n```", "3"),
    ('```python title="a.py"\nprint(3)\n```', "3"),
    ("```{.python .numberLines}\nprint(3)\n```", "3"),
    ("```text\nno code\n```\n```python:a.py {.numberLines}\nprint(3)\n```", "3"),
    ("```python print(3)\n```", "3"),
    ("```python\n'''\n>>> f()\n'''\nprint(3)\n```", "3"),
]


@pytest.mark.parametrize(("code", "text"), WRAPPED)
def test_fenced_and_indented_code_runs(tool, code, text):
    result = tool.run(code)
    assert (result.status, result.text) == ("ok", text)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("print('''\n```python\n1\n```\n''')", "```python\n1\n```"),
        ("print('''\n    a\n''')", "a"),
        ("x = '''\n  a\n  b'''\nprint(len(x))", "8"),
    ],
)
def test_valid_code_runs_as_written(tool, code, text):
    assert tool.run(code).text == text


@pytest.mark.parametrize(
    "code",
    [
        "print(1)\n  print(2)",
        "```python\nx = = 1\n```",
        "    x = = 1",
        "Just words, no code.",
        "print(1\n>>>",
        "<<<<<<< HEAD\nprint(1)\n=======\nprint(2)\n>>>>>>> b",
        "x = 8\nx\n>>> 1\nprint(x",
        "```python\n```\nprint(1)",
        "```\n```",
        "def f(x):\n    '''\n>>> print('from doc')\n'''\n    retrun x\n",
        "s='''\n```python\nprint('from string')\n```\n'''\nprint(s",
        "x = 5\n```python\nprint(x)\n```",
    ],
)
def test_code_that_is_no_python_without_its_wrapping_is_an_error(tool, code):
    result = tool.run(code)
    assert result.status == "error" and ("SyntaxError: " in result.text or "IndentationError: " in result.text)


def test_standard_error_and_warnings_are_shown_when_asked_for(tool):
    code = "import sys, warnings\nprint(1)\nprint('two', file=sys.stderr)\nwarnings.warn('three')\nprint(4)"
    division = "print(np.array([1.0]) / 0)"
    assert tool.run(code).text == "1\n4" and tool.run(division).text == "[inf]"
    with PythonTool(workers=1, stderr=True) as verbose:
        assert verbose.run(code).text.splitlines() == ["1", "two", "<string>:4: UserWarning: three", "4"]
        assert "RuntimeWarning: divide by zero" in verbose.run(division).text
        assert verbose.run("import os; os.write(2, b'low')").text == "low"
        assert verbose.run("import sys; sys.stderr.write('a'); 1/0").text == "a\nZeroDivisionError: division by zero"


def test_calls_share_no_state(tool):
    assert tool.run("zz = 1").status == "ok"
    assert "zz" in tool.run("print(zz)").text


def test_long_output_keeps_both_ends(tool):
    result = tool.run("print('a' * 1000)")
    assert len(result.text) == 403 and result.text == "a" * 200 + "..." + "a" * 200


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time; time.sleep(20)",
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(1)",
    ],
)
def test_code_is_ended_at_its_time_limit(tool, code):
    started = time.monotonic()
    result = tool.run(code)
    assert result.status == "timeout" and "2 s" in result.text and time.monotonic() - started < 4


@pytest.mark.parametrize(
    "report,status", [("{}", "ok"), ('{"type": "X", "text": "said"}', "error"), ("no", "error"), ("[1]", "error")]
)
def test_program_that_writes_a_report_ends_there(tool, report, status):
    """A program that writes to the report pipe is killed; output written before that is kept."""
    started = time.monotonic()
    result = tool.run(
        f"import os, time\nprint('out', flush=True)\nos.write(3, {report!r}.encode() + b'\\n')\ntime.sleep(20)"
    )
    assert result.status == status and time.monotonic() - started < 1.5
    assert status == "error" or result.text == "out"
    assert tool.run("print(6 * 7)").text == "42"


def test_endless_output_is_bounded(tool):
    result = tool.run("while True: print('x' * 10000)")
    assert result.status == "timeout" and len(result.text) < 500


def test_code_cannot_create_processes(tool):
    assert "not permitted" in tool.run("import os; os.fork()").text
    assert "not permitted" in tool.run("import subprocess; subprocess.run(['true'])").text


def test_code_can_start_threads(tool):
    code = (
        "import threading\nthreads = [threading.Thread(target=print, args=(n,)) for n in range(3)]\n"
        "[(t.start(), t.join()) for t in threads]"
    )
    assert tool.run(code).text == "0\n1\n2"


def test_very_long_output_keeps_its_last_characters(tool):
    result = tool.run("print('a' * 3_000_000 + 'z' * 200)")
    assert result.text == "a" * 200 + "..." + "z" * 200


def test_environment_and_directory_are_empty(tool):
    code = "import os; print(dict(os.environ), [name for name in os.listdir('.') if os.path.isfile(name)])"
    assert tool.run(code).text == "{} []"


def test_calls_run_concurrently(tool):
    async def both():
        return await asyncio.gather(*(tool.call(f"import time; time.sleep(0.5); print({n})") for n in range(2)))

    tool.run_many(["1"] * 4)
    started = time.monotonic()
    assert [result.text for result in asyncio.run(both())] == ["0", "1"]
    assert time.monotonic() - started < 0.95


def test_queue_timeout_raises_and_does_not_count_as_run_time():
    with PythonTool(workers=1, timeout_s=3.0, queue_timeout_s=0.3) as tool:
        tool.start()

        async def overload():
            first = asyncio.create_task(tool.call("import time; time.sleep(1.5)"))
            await asyncio.sleep(0.2)
            with pytest.raises(ToolUnavailable, match="0.3 s for one of 1"):
                await tool.call("print(1)")
            with pytest.raises(ToolUnavailable, match="0.3 s for one of 1"):
                await asyncio.to_thread(tool.run, "print(1)")
            return await first

        assert asyncio.run(overload()).status == "ok"


UPSTREAM = {name: PRESETS[name]["tools"]["python"] for name in ("upstream_eval", "upstream_rl")}
GOLDEN = [
    ("print(1+1)", "2"),
    ("a = 1", ""),
    ("1+1", ""),
    ("print(1/0)", "division by zero"),
    ("print(foo)", "name 'foo' is not defined"),
    ("x = = 1", "invalid syntax (<string>, line 1)"),
    ("# input(\nprint(1)", ""),
    ("import os; os.system('true')", ""),
    ("assert 1==2", ""),
    ("print('a'); raise ValueError('boom')", "boom"),
    ("d={}; print(d[42])", "42"),
    ("import sys; print('a', file=sys.stderr)", ""),
    ("```python\nprint(3)\n```", "invalid syntax (<string>, line 1)"),
    ("    print(4)", "unexpected indent (<string>, line 1)"),
    ("print('a'*1000)", "a" * 200 + "..." + "a" * 200),
    ("while True: pass", "'Timed Out'"),
    ("import time; time.sleep(20)", "'Timed Out'"),
    ("print(solve(Eq(x**2,4),x))", "[-2, 2]"),
    ("print(np.arange(3))", "[0 1 2]"),
]


@pytest.fixture(scope="module", params=UPSTREAM)
def upstream(request):
    with PythonTool(workers=1, **UPSTREAM[request.param]) as tool:
        yield request.param, tool


@pytest.mark.parametrize(("code", "payload"), GOLDEN)
def test_golden_vectors_of_upstream_executor(upstream, code, payload):
    name, tool = upstream
    printed_nothing = payload == "" and tool.run(code).status == "ok"
    assert tool.run(code).text == ("Done" if printed_nothing and name == "upstream_rl" else payload)


def test_variables_of_one_call_are_undefined_in_the_next(upstream):
    _, tool = upstream
    tool.run("zz = 5")
    assert tool.run("print(zz)").text == "name 'zz' is not defined"


@pytest.mark.parametrize("name", UPSTREAM)
def test_upstream_presets_are_valid_settings(name):
    assert set(UPSTREAM[name]) <= set(PythonToolConfig.model_fields)
    settings = PythonToolConfig(**UPSTREAM[name])
    assert settings.timeout_text == "'Timed Out'" and settings.timeout_s == 5
