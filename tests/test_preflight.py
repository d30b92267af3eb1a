"""Preflight: each check finds its fault and says what to do about it."""

import os
import stat

import pytest

from tir import preflight
from tir.errors import InfrastructureFault

SINFO = "gpu|gpu:h100:8(S:0-1)|64|1000000\ngpu|gpu:a10g:4|48|190000\ncpu|(null)|64+|250000+\n"
SFT = {"rule": "sft", "partition": "gpu", "gres": "gpu:h100:8", "cpus": 64, "memory_mb": 400000}


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A place whose sinfo prints a known cluster."""
    for name, text in {"sinfo": f"#!/bin/sh\nprintf '{SINFO}'", "sbatch": "#!/bin/sh"}.items():
        path = tmp_path / name
        path.write_text(text.replace("\n", "\\n").replace("#!/bin/sh\\n", "#!/bin/sh\n"))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


def found(findings):
    return {finding.check: finding for finding in findings}


def test_a_stage_that_fits(slurm):
    assert found(preflight.cluster([SFT]))["nodes for sft"].ok


@pytest.mark.parametrize("change, words, remedy", [
    ({"gres": "gpu:a100:8"}, "no node of gpu has gpu:a100:8", "this cluster has a10g:4, h100:8"),
    ({"gres": "gpu:a10g:8"}, "no node of gpu has gpu:a10g:8", "gres"),
    ({"partition": "long"}, "no partition long", "one of cpu, gpu"),
    ({"cpus": 128}, "the largest such node has 64 CPUs", "set-threads"),
    ({"memory_mb": 2_000_000}, "1000 GB", "mem_mb"),
    ({"gres": "", "wants_gpu": True}, "asks for no GPU, and device is cuda", "set-resources: sft: in the profile: gres"),
])
def test_a_stage_that_does_not_fit(slurm, change, words, remedy):
    finding = found(preflight.cluster([SFT | change]))["nodes for sft"]
    assert not finding.ok and words in finding.found and remedy in finding.remedy


def test_disk_tokens_files_and_endpoint(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert not found(preflight.disk(1e9, tmp_path))["disk"].ok
    assert not found(preflight.tokens(["HF_TOKEN"]))["HF_TOKEN"].ok
    monkeypatch.setenv("APPTAINERENV_HF_TOKEN", "x")
    missing = found(preflight.tokens(["HF_TOKEN"]))["HF_TOKEN"]
    assert not missing.ok and missing.remedy == "export HF_TOKEN=..."  # downloads run outside the images
    monkeypatch.setenv("APPTAINERENV_TAVILY_API_KEY", "x")
    assert found(preflight.tokens(["TAVILY_API_KEY"]))["TAVILY_API_KEY"].ok
    file = tmp_path / "a.jsonl"
    file.write_text("{}\n")
    source = {"name": "a", "path": str(file), "kind": "url", "url": "http://127.0.0.1:9/a", "sha256": "0" * 64}
    assert not found(preflight.sources([source]))["file a"].ok
    absent = source | {"path": str(tmp_path / "b")}
    assert "ConnectError" in found(preflight.sources([absent]))["127.0.0.1:9"].found
    assert not found(preflight.ports("http://127.0.0.1:9"))["retrieval server"].ok
    assert found(preflight.ports("none"))["ports"].ok


def test_an_old_gpu_is_refused(tmp_path):
    lock = tmp_path / "lock.txt"
    lock.write_text("nvidia-cuda-runtime==13.0.96\n")
    stages = [SFT | {"gres": "gpu:v100:4"}, SFT]
    gpus = found(preflight.architectures(stages, [str(lock)]))
    assert not gpus["GPU v100"].ok and gpus["GPU h100"].ok


def test_a_failure_ends_the_run_by_name():
    findings = [preflight.Finding("disk", False, "1 GB free", "free space"), preflight.Finding("ports", True, "fine")]
    assert "try: free space" in preflight.table(findings)
    with pytest.raises(InfrastructureFault, match="1 of 2 checks failed: disk"):
        preflight.require(findings)
