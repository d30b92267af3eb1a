"""The command-line interface of scripts: error messages, interruptions by a signal or a time limit, a full disk."""

import os
import signal
import subprocess
import sys
import time

import pytest
from support.paths import ROOT

from scripts.check_machine import LIBRARIES, missing
from scripts.check_machine import main as check_machine


def start_script(body: str, **environment) -> subprocess.Popen:
    """Start a script whose `main` has the given body."""
    imports = "import time\nfrom tir.common.cli import run\nfrom tir.common.errors import ConfigError\n"
    program = f"{imports}def main():\n    {body}\nrun(main)\n"
    return subprocess.Popen(
        [sys.executable, "-u", "-c", program],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
    )


def test_typed_error_is_printed_without_traceback():
    process = start_script(
        "raise ConfigError('no such arm', where='config.yaml:arms', why='a typo', remedy='arms: {aspo: {}}')"
    )
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1 and "Traceback" not in error
    assert "config.yaml:arms" in error and "arms: {aspo: {}}" in error


@pytest.mark.parametrize(
    "number,cause", [(signal.SIGTERM, "SIGTERM: the job was cancelled or preempted"), (signal.SIGINT, "Ctrl-C")]
)
def test_interrupted_script_names_the_cause_and_how_to_continue(number, cause):
    process = start_script("print('ready'); time.sleep(60)")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in error
    assert f"interrupted ({cause}): completed work is kept" in error


def test_script_interrupts_itself_before_its_time_limit():
    end = int(time.time()) + 20
    process = start_script("time.sleep(60)", JOB_END_TIME=str(end))
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in error
    assert "interrupted (the job's time limit is near)" in error
    assert time.time() < end


def test_full_disk_is_printed_without_traceback():
    process = start_script("with open('/dev/full', 'w') as file: file.write('x')")
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1 and "no space left" in error and "df -h" in error and "Traceback" not in error


def test_error_names_missing_system_library_and_how_to_install_it(monkeypatch):
    assert missing() == {}
    monkeypatch.setitem(LIBRARIES, "libnowhere.so.9", ("libnowhere9", "a test"))
    with pytest.raises(SystemExit, match=r"libraries: libnowhere.so.9 \(a test\)\n  try: apt-get install libnowhere9"):
        check_machine()


def test_a_stage_keeps_its_caches_on_the_nodes_disk_and_asks_no_hub(tmp_path):
    """Libraries write to ~/.cache, ~/.triton, ~/.nv: the home is often shared, and is missing in an image."""
    program = "print(os.path.expanduser('~'), os.environ['XDG_CACHE_HOME'], os.environ['HF_HUB_OFFLINE'])"
    away = {"HOME": "/nonexistent", "TMPDIR": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    output, error = start_script("import os; " + program, **away).communicate(timeout=60)
    home = f"{tmp_path}/tir-home-{os.getuid()}"
    assert output.split() == [home, f"{home}/.cache", "1"], error
    output, _ = start_script("import os; " + program, **away).communicate(timeout=60)
    assert output.split()[0] == home  # the next job on the node finds the compiled kernels


def test_a_cache_directory_that_others_can_write_to_is_not_used(tmp_path):
    taken = tmp_path / f"tir-home-{os.getuid()}"
    taken.mkdir()
    taken.chmod(0o777)
    output, _ = start_script("import os; print(os.environ['HOME'])", TMPDIR=str(tmp_path)).communicate(timeout=60)
    assert output.strip().startswith(f"{taken}-")


@pytest.mark.parametrize("script", ["fetch_data", "fetch_model", "build_image", "preflight", "smoke"])
def test_scripts_that_download_or_start_snakemake_keep_the_users_environment(script):
    """With the environment of a stage, they and the downloads that they start would be offline."""
    assert "run(main, host=True)" in (ROOT / f"scripts/{script}.py").read_text()
