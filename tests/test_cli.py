"""How a script ends: errors as one paragraph, interruptions by a signal or a time limit, a full disk."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.check_machine import LIBRARIES, missing
from scripts.check_machine import main as check_machine

ROOT = Path(__file__).resolve().parents[1]


def script(body: str, **environment) -> subprocess.Popen:
    program = f"import time\nfrom tir.cli import run\nfrom tir.errors import ConfigError\ndef main():\n    {body}\nrun(main)\n"
    return subprocess.Popen([sys.executable, "-u", "-c", program], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            env={**os.environ, **environment})


def test_a_known_error_is_a_paragraph_and_no_traceback():
    process = script("raise ConfigError('no such arm', where='config.yaml:arms', why='a typo', remedy='arms: {aspo: {}}')")
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1 and "config.yaml:arms" in error and "arms: {aspo: {}}" in error and "Traceback" not in error


@pytest.mark.parametrize("number,cause", [(signal.SIGTERM, "SIGTERM: the job was cancelled or preempted"), (signal.SIGINT, "Ctrl-C")])
def test_an_interruption_says_that_what_is_complete_is_kept(number, cause):
    process = script("print('ready'); time.sleep(60)")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and f"interrupted ({cause}): what is complete is kept" in error and "Traceback" not in error


def test_a_stage_interrupts_itself_before_its_time_limit():
    end = int(time.time()) + 20
    process = script("time.sleep(60)", JOB_END_TIME=str(end))
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted (the job's time limit is near)" in error and "Traceback" not in error
    assert time.time() < end


def test_a_full_disk_is_a_paragraph():
    process = script("with open('/dev/full', 'w') as file: file.write('x')")
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1 and "no space left" in error and "df -h" in error and "Traceback" not in error


def test_a_missing_system_library_is_named_with_the_line_to_paste(monkeypatch):
    assert missing() == {}
    monkeypatch.setitem(LIBRARIES, "libnowhere.so.9", ("libnowhere9", "a test"))
    with pytest.raises(SystemExit, match=r"missing: libnowhere.so.9 \(a test\)\n  try: apt-get install libnowhere9"):
        check_machine()
