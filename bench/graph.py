"""Time of a dry run: the paper's graph and an empty Snakefile; ten thousand jobs and a bare Snakefile of equal size.

make bench-graph
"""

import argparse
import os
import subprocess
import tempfile
from pathlib import Path

import yaml

from bench.table import Figure, show
from tir.config.experiment import load

ROOT = Path(__file__).resolve().parents[1]
SNAKEMAKE = ROOT / ".venv/workflow/bin/snakemake"
JOBS = 10_000

# The same jobs with as many files, parameters and arguments, without the workflow's code: the time of Snakemake itself.
BARE = """
models = [f"{{arm}}-step30-seed{{seed}}" for arm in {arms} for seed in range({seeds})]

rule all:
    default_target: True
    input: expand("scores/{{model}}/{{benchmark}}.jsonl", model=models, benchmark={benchmarks})

rule rl:
    input: **{{name: f"{{name}}.txt" for name in ["image", "model", "train", "validation", "prompt", "index"]}}
    output:
        metrics="runs/{{arm}}/{{seed}}.jsonl",
        models=expand("models/{{{{arm}}}}-step{{step}}-seed{{{{seed}}}}", step=[15, 30])
    log: "logs/rl/{{arm}}-{{seed}}.log"
    benchmark: "benchmarks/rl/{{arm}}-{{seed}}.tsv"
    threads: 16
    params: code="code", config="x" * 1000, arm="x" * 100
    shell:
        "rl {{input.model}} {{input.train}} {{input.prompt}} {{wildcards.arm}} "
        "{{params.arm:q}} {{params.config:q}} > {{log}}"

rule traces:
    input: "models/{{model}}", **{{name: f"{{name}}.txt" for name in ["image", "questions", "prompt", "index"]}}
    output: "traces/{{model}}/{{benchmark}}.jsonl"
    log: "logs/traces/{{model}}/{{benchmark}}.log"
    benchmark: "benchmarks/traces/{{model}}/{{benchmark}}.tsv"
    params: code="code", config="x" * 1000
    shell: "traces {{wildcards.model}} {{input.questions}} {{input.prompt}} {{output}} {{params.config:q}} > {{log}}"

rule scores:
    input: "image.txt", traces="traces/{{model}}/{{benchmark}}.jsonl"
    output: "scores/{{model}}/{{benchmark}}.jsonl"
    log: "logs/scores/{{model}}/{{benchmark}}.log"
    params: code="code", config="x" * 100, judge=""
    shell: "scores {{input.traces}} {{output}} {{params.judge}} {{params.config:q}} > {{log}}"
"""


def benchmarks(config) -> list[str]:
    """Names of Table 5's benchmarks."""
    return [name for name, benchmark in config.benchmarks.items() if benchmark.standard]


def overlay(config) -> dict:
    """A configuration overlay with so many seeds that Table 5 needs about ten thousand jobs."""
    seeds = JOBS // (len(config.arms) * (1 + 2 * len(benchmarks(config)))) + 1
    rows = [{"label": arm, "model": f"{arm}@last"} for arm in config.arms]
    return {"rl": {"seeds": list(range(1, seeds + 1))}, "tables": {"table5": {"rows": rows}}}


def write_bare_workflow(directory: Path, config, many: dict) -> None:
    """Write the bare Snakefile and its input files."""
    for name in ("image", "model", "train", "validation", "questions", "prompt", "index"):
        (directory / f"{name}.txt").touch()
    snakefile = BARE.format(arms=list(config.arms), seeds=len(many["rl"]["seeds"]), benchmarks=benchmarks(config))
    (directory / "Snakefile").write_text(snakefile)


def plan(directory: Path, *arguments: str, environment: dict[str, str]) -> tuple[float, int]:
    """CPU seconds and number of jobs of a dry run."""
    process = subprocess.Popen(
        [SNAKEMAKE, "-n", *arguments],
        cwd=directory,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    text = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(text)
    total = [line.split()[1] for line in text.splitlines() if line.startswith("total ")]
    return used.ru_utime + used.ru_stime, int(total[0]) if total else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rounds", type=int, default=3, help="number of runs of each plan, in turn; the fastest of each is reported"
    )
    rounds = parser.parse_args().rounds
    config = load(yaml.safe_load((ROOT / "config.yaml").read_text()), ["config.yaml"])
    many = overlay(config)
    with tempfile.TemporaryDirectory() as scratch:
        (empty := Path(scratch, "empty")).mkdir()
        (empty / "Snakefile").touch()
        (bare := Path(scratch, "bare")).mkdir()
        write_bare_workflow(bare, config, many)
        enlarged = Path(scratch, "many.yaml")
        enlarged.write_text(yaml.safe_dump(many))
        large = ["results/table5.csv", "--profile", "slurm", "--configfile", "profiles/slurm/site.yaml", str(enlarged)]
        small = "--cores 100 --scheduler greedy --default-resources mem_mb=4000 disk_mb=1000".split()
        plans = {
            "empty": (empty, "--cores", "1"),
            "paper": (ROOT, "--profile", "slurm", "results/table5.csv"),
            "many": (ROOT, *large),
            "quiet": (ROOT, *large, "--quiet"),
            "bare": (bare, *small),
            "bare quiet": (bare, *small, "--quiet"),
        }
        # Let Python cache compiled modules even if this environment forbids it.
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        environment |= {"PYTHONPYCACHEPREFIX": str(Path(scratch, "compiled"))}
        for name in ("empty", "paper"):
            plan(*plans[name], environment=environment)
        times: dict[str, list[float]] = {name: [] for name in plans}
        jobs = {}
        for _ in range(rounds):
            for name, (directory, *arguments) in plans.items():
                seconds, jobs[name] = plan(directory, *arguments, environment=environment)
                times[name].append(seconds)
    best = {name: min(plan_times) for name, plan_times in times.items()}
    figures = [
        Figure("empty Snakefile", "s", best["empty"]),
        Figure(f"the paper's graph, {jobs['paper']} jobs", "s", best["paper"]),
        Figure("", "ratio to the empty Snakefile", best["paper"] / best["empty"], "<= 2"),
        Figure(f"arms x seeds x benchmarks, {jobs['many']:,} jobs", "s", best["many"]),
        Figure(f"bare Snakefile of equal size, {jobs['bare']:,} jobs", "s", best["bare"], "time of Snakemake itself"),
        Figure("", "ratio to the bare Snakefile", best["many"] / best["bare"], "<= 2"),
        Figure("arms x seeds x benchmarks with --quiet (prints no list of jobs)", "s", best["quiet"]),
        Figure("bare Snakefile with --quiet", "s", best["bare quiet"], "time of Snakemake itself"),
        Figure("", "ratio to the bare Snakefile", best["quiet"] / best["bare quiet"], "<= 2"),
    ]
    show([("Dry runs (snakemake -n), CPU seconds, the fastest of each", figures)])


if __name__ == "__main__":
    main()
