"""Preflight: each check detects its fault and gives a remedy."""

import json
import os
import stat
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from support.nvidia_smi import fake_nvidia_smi

from tir.common.errors import InfrastructureFault
from tir.workflow import findings, gpu_checks, preflight

SINFO = "gpu|gpu:h100:8(S:0-1)|64|1000000\ngpu|gpu:a10g:4|48|190000\ncpu|(null)|64+|250000+\n"
SFT = {"rule": "sft", "partition": "gpu", "gres": "gpu:h100:8", "cpus": 64, "memory_mb": 400000}


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A PATH with `sinfo` and `sbatch` of a known cluster."""
    for name, text in {"sinfo": f"#!/bin/sh\nprintf '{SINFO}'", "sbatch": "#!/bin/sh"}.items():
        path = tmp_path / name
        path.write_text(text.replace("\n", "\\n").replace("#!/bin/sh\\n", "#!/bin/sh\n"))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


def found(findings):
    return {finding.check: finding for finding in findings}


def test_a_stage_that_fits(slurm):
    assert found(preflight.cluster([SFT]))["nodes for sft"].ok


def test_the_job_of_the_run_s_retrieval_server(slurm, tmp_path):
    options = ["--gres=gpu:h200:1"]
    assert found(preflight.server_job(options))["retrieval server"].ok
    (tmp_path / "sbatch").write_text(
        '#!/bin/sh\n[ "$1 $2" = "--test-only --gres=gpu:h200:1" ] || exit 0\n'
        'echo "Requested node configuration is not available" >&2; exit 1\n'
    )
    finding = found(preflight.server_job(options))["retrieval server"]
    assert not finding.ok and "not available" in finding.found and "sbatch" in finding.remedy


@pytest.mark.parametrize(
    "change, words, remedy",
    [
        ({"gres": "gpu:a100:8"}, "no node of gpu has gpu:a100:8", "this cluster has a10g:4, h100:8"),
        ({"gres": "gpu:a10g:8"}, "no node of gpu has gpu:a10g:8", "gres"),
        ({"partition": "long"}, "no partition long", "one of cpu, gpu"),
        ({"cpus": 128}, "such nodes have at most 64 CPUs", "set-threads"),
        ({"memory_mb": 2_000_000}, "1000 GB", "mem_mb"),
        ({"most_memory_mb": 1_200_000}, "1200 GB in the last attempt", "mem_mb, e.g. min(400000 * attempt, 1000000)"),
        (
            {"gres": "", "needs_gpu": True},
            "requests no GPU, but device is cuda",
            "in the profile, set-resources: sft: gres",
        ),
    ],
)
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
    with monkeypatch.context() as proxy:
        proxy.setenv("ALL_PROXY", "socks://127.0.0.1:1")
        assert "ALL_PROXY" in found(preflight.sources([absent]))["127.0.0.1:9"].remedy
    assert not found(preflight.ports("http://127.0.0.1:9"))["retrieval server"].ok
    assert found(preflight.ports("none"))["ports"].ok


def test_a_gpu_older_than_the_wheels_support_is_reported(tmp_path):
    lock = tmp_path / "lock.txt"
    lock.write_text("nvidia-cuda-runtime==13.0.96\n")
    stages = [SFT | {"gres": "gpu:v100:4"}, SFT]
    gpus = found(gpu_checks.architectures(stages, [str(lock)]))
    assert not gpus["GPU v100"].ok and gpus["GPU h100"].ok


NVRM = "NVRM version: NVIDIA UNIX {} Kernel Module for x86_64  {}.65.06  Release Build\\n"


@pytest.mark.parametrize("version, good", [(580, True), (575, False)])
def test_the_driver_of_a_node_is_compared_with_the_wheels_cuda(slurm, tmp_path, version, good):
    """No GPU is asked for: a job of seconds reads a file of a free node."""
    lock = tmp_path / "lock.txt"
    lock.write_text("nvidia-cuda-runtime==13.0.96\n")
    free = "n1|gpu:h100:8(S:0-1)\\nn2|gpu:a10g:4\\n"
    for name, text in {
        "sinfo": f"printf '{free}'",
        "srun": f"echo $* >{tmp_path}/asked; printf '{NVRM.format('Open', version)}'",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    finding = found(gpu_checks.drivers([SFT, SFT], [str(lock)], True))["driver of h100 in gpu"]
    assert finding.ok is good and f"{version}; PyTorch's wheels (cu13) need 580 or newer" == finding.found
    asked = (tmp_path / "asked").read_text()
    assert "-w n1 " in asked and "gres" not in asked and "--immediate" in asked
    busy = found(gpu_checks.drivers([SFT | {"gres": "gpu:h200:1"}], [str(lock)], True))["driver of h200 in gpu"]
    assert busy.ok and "not checked (no such node is free)" in busy.found


def test_the_driver_of_this_machine(tmp_path, monkeypatch):
    lock, file = tmp_path / "lock.txt", tmp_path / "version"
    lock.write_text("nvidia-cuda-runtime==13.0.96\n")
    monkeypatch.setattr(gpu_checks, "DRIVER_FILE", file)
    stage = SFT | {"gres": "gpu:any:1", "partition": ""}
    assert not found(gpu_checks.drivers([stage], [str(lock)], False))["driver"].ok
    file.write_text(NVRM.format("", 550))
    assert found(gpu_checks.drivers([stage], [str(lock)], False))["driver"].found.startswith("550;")
    assert list(gpu_checks.drivers([SFT | {"gres": ""}], [str(lock)], False)) == []


@pytest.mark.parametrize(
    "stated, server, good", [(4, "", True), (2, "", True), (8, "", False), (4, "3", False), (3, "GPU-d4", True)]
)
def test_the_gpus_of_the_profile_are_compared_with_those_of_this_machine(tmp_path, monkeypatch, stated, server, good):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", fake_nvidia_smi(tmp_path))
    finding = found(gpu_checks.devices(stated, server))["GPUs"]
    number = 3 if server else 4
    assert finding.ok is good and f"the profile states {stated}, this machine has {number}" in finding.found
    assert f"resources: [gpu={number}, ...]" in finding.remedy


def test_a_machine_that_lists_no_gpus_is_reported(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    finding = found(gpu_checks.devices(8, ""))["GPUs"]
    assert not finding.ok and "nvidia-smi" in finding.remedy


@pytest.mark.parametrize("gpus, gres, checked", [(8, "gpu:any:8", True), (8, "", False), (0, "gpu:any:8", False)])
def test_the_gpus_are_counted_only_where_jobs_use_those_of_this_machine(monkeypatch, tmp_path, gpus, gres, checked):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    required = {"slurm": False, "stages": [SFT | {"gres": gres}], "containers": False, "hardware": "cpu"}
    required |= {"disk_gb": 0, "sources": [], "tokens": [], "endpoint": "none", "locks": [], "sbatch": None}
    checks = found(preflight.preflight(required | {"gpus": gpus, "server_gpus": ""}, tmp_path))
    assert ("GPUs" in checks) is checked and (not checked or not checks["GPUs"].ok)


def test_a_branch_on_the_hub_is_reported_with_the_line_that_pins_it(tmp_path, monkeypatch):
    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self):
            found = self.path in ("/", "/api/models/a/judge/revision/main")
            body = json.dumps({"sha": "c" * 40}).encode()
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if self.command == "GET" else b"")

        do_GET = do_HEAD

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        named = {"models/judge": "a/judge", "models/encoder": "a/missing"}
        hub = [
            {"name": n, "path": str(tmp_path / n), "kind": "hub", "repo": r, "revision": "main"}
            for n, r in named.items()
        ]
        checked = found(preflight.sources(hub))
        server.shutdown()
    assert checked["source models/judge"].ok and f"revision: {'c' * 40}" in checked["source models/judge"].found
    assert not checked["source models/encoder"].ok and "HF_TOKEN" in checked["source models/encoder"].remedy


def test_a_failed_check_stops_the_run_with_its_name():
    checks = [findings.Finding("disk", False, "1 GB free", "free space"), findings.Finding("ports", True, "fine")]
    assert "try: free space" in findings.table(checks)
    with pytest.raises(InfrastructureFault, match="1 of 2 checks failed: disk"):
        findings.require(checks)
