"""Access to attributes of Snakemake's `workflow` object that are not documented; the rules read none themselves.

`make snakemake-versions` tests it with the oldest, a middle and the newest supported version of Snakemake.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

from tir.workflow import identity
from tir.workflow.cost import Job


def config_files(workflow: Any) -> list[str]:
    """Files given to `--configfile`, on the command line or in the profile, in order."""
    return [str(file) for file in workflow.config_settings.configfiles]


def stated_config(workflow: Any) -> dict[str, Any]:
    """The values of `--config`, as Snakemake parsed them."""
    return dict(workflow.config_settings.config)


def rules_of_profile(workflow: Any) -> dict[str, Iterable[str]]:
    """Rule names in `--set-resources` and `--set-threads`, from the profile and the command line, by option."""
    settings = workflow.resource_settings
    return {"set-resources": settings.overwrite_resources, "set-threads": settings.overwrite_threads}


def machine_gpus(workflow: Any) -> int:
    """GPUs of `--resources gpu=N`, from the profile or the command line; 0 without it, as on a cluster."""
    stated = workflow.global_resources
    number = stated["gpu"] if "gpu" in stated else 0
    return int(getattr(number, "value", number))  # older versions of Snakemake hold plain numbers


def gpus_of_profile(workflow: Any) -> dict[str, str]:
    """The resource `gres` in the profile's `set-resources`, by rule, as it is written there."""
    tables = workflow.resource_settings.overwrite_resources
    return {
        rule: str(getattr(table["gres"], "raw", table["gres"])) for rule, table in tables.items() if "gres" in table
    }


def is_plan(workflow: Any) -> bool:
    """Whether Snakemake only plans (`-n`)."""
    return workflow.output_settings.dryrun


def container_command(workflow: Any, image: str) -> str:
    """The beginning of a shell command that runs in an image, as Snakemake runs the stages there."""
    arguments = workflow.deployment_settings.apptainer_args
    tool = "apptainer" if shutil.which("apptainer") else "singularity"
    return f'{tool} exec --home "$PWD" {arguments} {image}'


def requests(workflow: Any) -> dict[str, dict[str, Any]]:
    """Resources that the profile requests per job, by rule: `{rule, partition, gres, cpus, memory_mb, most_memory_mb}`.

    The memory is that of the first attempt and of the last, because a profile may request more for each (`* attempt`).

    Contains the rules that have a job in this run or plan. The values are those of the rule's first job: evaluating the
    profile's expressions for ten thousand jobs would take four seconds.
    """
    found: dict[str, dict[str, Any]] = {}
    for job in _jobs(workflow):
        if job.rule.name not in found:
            found[job.rule.name] = {
                "rule": job.rule.name,
                "partition": str(job.resources.get("slurm_partition", "")),
                "gres": _gres(job),
                "cpus": int(job.resources.get("_cores", 1)),
                "memory_mb": _known(job.resources.get("mem_mb", 0)),
                "most_memory_mb": _memory_of_last_attempt(job),
            }
    return found


def planned_jobs(workflow: Any) -> list[Job]:
    """The jobs of this run or plan; empty if Snakemake failed before it built the graph."""
    requested = requests(workflow)
    return [Job(job.rule.name, job.wildcards_dict, requested[job.rule.name]["gres"]) for job in _jobs(workflow)]


def _memory_of_last_attempt(job: Any) -> int:
    resources = job.rule.expand_resources(
        job.wildcards_dict, job.input, job.restart_times + 1, skip_evaluation={"tmpdir"}
    )
    return _known(resources.get("mem_mb", 0))


def _known(value: Any) -> int:
    """A resource; 0 while it is not known, because it depends on the size of inputs that do not exist yet."""
    return int(value) if isinstance(value, (int, float)) else 0


def _gres(job: Any) -> str:
    """GPUs of a job in Slurm's notation; on a machine without Slurm it asks for them as `gpu` and `gpu_model`."""
    number = int(job.resources.get("gpu", 0))
    kind = str(job.resources.get("gpu_model", "any"))
    return f"gpu:{kind}:{number}" if number else str(job.resources.get("gres", ""))


def _jobs(workflow: Any) -> list[Any]:
    return list(workflow.dag.needrun_jobs(exclude_finished=False)) if workflow.dag else []


# --- identities: what each output was made from ---


class Reached(NamedTuple):
    """A job that the targets need, whether or not it would run."""

    rule: Any
    wildcards: dict[str, str]
    inputs: list[str]
    outputs: list[str]


def record_identities(workflow: Any) -> None:
    """Make every job write the identity records of its outputs when its command has succeeded."""
    for rule in workflow.rules:
        if rule.shellcmd is not None:
            rule.run_func = _recording(rule, rule.run_func)


def _recording(rule: Any, run: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(run)
    def run_and_record(inputs: Any, outputs: Any, params: Any, *rest: Any) -> None:
        read = identity.entries(map(str, inputs))
        run(inputs, outputs, params, *rest)
        identity.write(_job(rule, dict(params.items())), read, map(str, outputs))

    return run_and_record


def _job(rule: Any, params: dict[str, Any]) -> dict[str, Any]:
    """What a job does, apart from its inputs and outputs."""
    return {"command": rule.shellcmd, **{name: str(value) for name, value in params.items()}}


def _params(rule: Any, wildcards: dict[str, str]) -> dict[str, Any]:
    """The parameters that Snakemake would give to a job: functions of its wildcards, or values without wildcards."""
    names = SimpleNamespace(**wildcards)
    return {name: each(names) if callable(each) else each for name, each in rule.params.items()}


def rerun_changed(workflow: Any, accept: bool, report: Callable[[dict[str, str]], None]) -> None:
    """Make Snakemake repeat the jobs whose outputs are not what the jobs would make now, and no others.

    Snakemake's own comparisons of metadata and of modification times are switched off. It sets the targets of a run
    after it has read the Snakefile, so the check waits until then.

    Args:
        accept: instead record the outputs as what the jobs would make now.
        report: is given the first such output of each job, and why.
    """

    def check(settings: Any) -> None:
        changed, comparison = {}, identity.Comparison()
        for job in _reached(workflow, settings.targets):
            known = [path for path in job.outputs if comparison.known(path)]
            if job.rule.shellcmd is None or not known:
                continue
            now = functools.cache(lambda job=job: _job(job.rule, _params(job.rule, job.wildcards)))
            if accept:
                for path in known:
                    comparison.accept(path, now(), job.inputs)
            reasons = (comparison.difference(path, now, job.inputs) for path in known)
            if reason := next(filter(None, reasons), None):
                changed[known[0]] = reason
        settings.forcerun = frozenset(settings.forcerun) | changed.keys()
        settings.rerun_triggers = frozenset()
        comparison.save()
        report(changed)

    class Checked(type(workflow)):
        def __setattr__(self, name: str, value: Any) -> None:
            if name == "dag_settings" and value is not None:
                check(value)
            super().__setattr__(name, value)

    if workflow.is_main_process:
        workflow.__class__ = Checked
        _ignore_times(workflow)


def _ignore_times(workflow: Any) -> None:
    """Make Snakemake treat no input as newer than an output."""

    async def is_newer(self: Any, time: float) -> bool:
        return False

    kind = next(type(path) for rule in workflow.rules for path in rule.output)
    kind.is_newer = is_newer


def _reached(workflow: Any, targets: Iterable[str]) -> Iterator[Reached]:
    """The jobs that targets need, each once; by default those of the default target."""
    rules = {rule.name: rule for rule in workflow.rules}
    # `is_producer` matches a regular expression for each output; few rules have one that begins as a path does.
    beginnings = {rule: tuple(str(each).partition("{")[0] for each in rule.products()) for rule in workflow.rules}
    waiting = [(each, rules.get(each)) for each in map(str, targets or filter(None, [workflow.default_target]))]
    seen: set[Any] = set()
    while waiting:
        path, rule = waiting.pop()
        if rule is None:
            path = path if os.path.isabs(path) else os.path.relpath(path)
            rules_of = (each for each, begin in beginnings.items() if path.startswith(begin))
            rule = next((each for each in rules_of if each.is_producer(path)), None)
        if rule is None:
            continue
        values = rule.get_wildcards(path) if rule.has_wildcards() else {}
        if (key := (rule.name, tuple(sorted(values.items())))) in seen:
            continue
        inputs = [str(each) for each in rule.expand_input(values)[0]]
        outputs = [str(each) for each in rule.expand_output(values)[0]]
        waiting += [(each, None) for each in inputs if each not in seen]
        seen.update((key, *inputs))
        yield Reached(rule, values, inputs, outputs)
