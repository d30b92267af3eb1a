"""Write trajectories as an evaluation log of inspect_ai (.eval): of a model on a benchmark, or of a step of RL."""

from pathlib import Path

from inspect_ai.log import write_eval_log

from tir.analysis import exports
from tir.analysis.inspect_log import eval_log
from tir.common import cli
from tir.common.files import atomic_path
from tir.common.records import write_provenance
from tir.workflow.digests import code_digest


def main() -> None:
    parse = cli.parser(__doc__)
    parse.add_argument("--traces", type=Path, help="trace records (JSON Lines); with --scores")
    parse.add_argument("--scores", type=Path, help="score records (JSON Lines)")
    parse.add_argument("--run", type=Path, help="folder of a run of reinforcement learning; with --kind and --step")
    parse.add_argument("--kind", choices=("train", "val"), help="trajectories of training or of validation")
    parse.add_argument("--step", type=int, help="step of this run")
    parse.add_argument("--system-prompt", required=True, help="text file")
    parse.add_argument("--output", required=True, help="log to write, .eval")
    given = parse.parse_args()
    if given.traces and given.scores:
        found = exports.of_benchmark(given.traces, given.scores)
        model, task = given.traces.parent.name, given.traces.stem
    elif given.run and given.kind and given.step is not None:
        found = exports.of_rollouts(given.run, given.kind, given.step)
        model, task = "-".join(given.run.parts).rpartition("rl-")[2], f"{given.kind}-step{given.step}"
    else:
        parse.error("either --traces and --scores, or --run, --kind and --step")
    prompt = Path(given.system_prompt).read_text(encoding="utf-8")
    log = eval_log(found, model=model, task=task, system_prompt=prompt, settings=given.params)
    with atomic_path(given.output) as temporary:
        write_eval_log(log, temporary, format="eval")
    write_provenance(
        given.output,
        config=given.params,
        packages=("inspect-ai",),
        code=code_digest("scripts.write_inspect_log"),
    )


if __name__ == "__main__":
    cli.run(main)
