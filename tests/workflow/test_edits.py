"""Edits of a finished workflow: a plan has exactly the jobs whose results they change, no more and no fewer.

What each job depends on is stated a second time in `support/study.py`, from the documentation. TIR_EDITS is the number
of plans after random edits (default 300), TIR_EDITS_SEED their seed (default 0).
"""

import os
import random
import shutil
from collections import Counter

import pytest
from support.dependencies import planned
from support.edits import State, Workspace, prepare, random_edit
from support.paths import SNAKEMAKE
from support.study import Study
from support.workflow_copy import Forks, copy_workflow, jobs_of

from tir.common.errors import ConfigError

pytestmark = pytest.mark.skipif(not SNAKEMAKE.is_file(), reason="no .venv/workflow: run `make environments`")
PLANS = int(os.environ.get("TIR_EDITS", 300))
SEED = int(os.environ.get("TIR_EDITS_SEED", 0))
RETRAINED = {"learning_rate": 0.001, "save_every": 5}  # a changed setting of a job that also gets new outputs


class Finished:
    """A finished workflow, and what the jobs depended on when they ran."""

    def __init__(self, directory, forks, jobs=None):
        self.directory, self.forks = directory, forks
        self.workspace = Workspace(directory)
        self.before = jobs or Study(directory).jobs

    def copy(self, directory, copy=shutil.copy2):
        shutil.copytree(self.directory, directory, copy_function=copy)
        return Finished(directory, self.forks, self.before)

    def run(self, *arguments, status=0, stop_after=None, **environment):
        """Run jobs, without their commands; returns the output."""
        fake = {"fake": True, "stop_after": stop_after, "environment": environment}
        code, text = self.forks.run(self.directory, *arguments, **fake)
        assert code == status, text
        return text

    def planned(self, *arguments):
        return set(jobs_of(self.run("-n", *arguments)))

    def expected(self, stated=None):
        """Jobs that must run, from the documented dependencies; raises `ConfigError` for an invalid configuration."""
        after = Study(self.directory, stated).jobs
        return planned(self.before, after, self.workspace.deleted, self.workspace.foreign)

    def drawing(self, seed):
        """A random generator, and what random edits are drawn from."""
        self.planned()
        modules = {name.replace(".", "/") + end for name in self.forks.modules for end in (".py", "/__init__.py")}
        outputs = [path for job in self.before.values() for path in job.outputs if (self.directory / path).is_file()]
        draw = random.Random(seed)
        return draw, State(self.directory, outputs, modules, draw)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    directory = prepare(copy_workflow(tmp_path_factory.mktemp("made")))
    finished = Finished(directory, Forks(directory))
    finished.run()
    assert finished.planned() == set() and len(finished.before) > 130
    return finished


@pytest.fixture
def finished(made, tmp_path):
    return made.copy(tmp_path / "copy")


def apply_some(draw, finished, state, invalid=None):
    """Apply one to three random edits that make a valid configuration; returns them and the jobs that must run."""
    while True:
        edits = [random_edit(draw, state) for _ in range(draw.choice([1, 1, 2, 3]))]
        for each in edits:
            each.apply(finished.workspace)
        try:
            return edits, finished.expected()
        except ConfigError:
            finished.workspace.restore()
            if invalid is not None:
                invalid.append(edits)


def test_random_edits_repeat_exactly_what_they_change(made, capsys):
    draw, state = made.drawing(SEED)
    invalid, wrong, kinds, rules, keys = [], [], Counter(), Counter(), set()
    for _ in range(PLANS):
        edits, expected = apply_some(draw, made, state, invalid)
        found = made.planned()
        made.workspace.restore()
        kinds.update(each.kind for each in edits)
        keys |= {each.what.partition(" = ")[0] for each in edits if each.kind == "setting"}
        rules.update({job.partition(":")[0] for job in expected} or {"nothing"})
        if found != expected:
            wrong.append(f"{[str(each) for each in edits]}\n  {difference(found, expected)}")
    with capsys.disabled():
        print(f"\n{PLANS} plans, seed {SEED}, {len(wrong)} wrong; drawn again because invalid: {len(invalid)}")
        print(f"edits: {dict(kinds.most_common())}; {len(keys)} settings\nplans with: {dict(rules.most_common())}")
    assert not wrong, "\n".join(wrong)
    assert PLANS < 300 or (len(kinds) > 20 and all(rules[job.partition(":")[0]] for job in made.before))


def difference(found, expected):
    return f"too many: {sorted(found - expected)}, too few: {sorted(expected - found)}"


def test_a_new_output_does_not_hide_changed_settings(made):
    """More saved steps add outputs without metadata; Snakemake then compares no setting of the job."""
    found = made.planned("--config", f"rl={RETRAINED}".replace("'", ""))
    assert found == made.expected({"rl": RETRAINED})
    assert {job.partition(",")[0] for job in found if job.startswith("rl:")} == {"rl:aspo", "rl:grpo", "rl:gamma_only"}


@pytest.mark.parametrize("copy", [shutil.copy2, shutil.copyfile])
def test_results_from_another_machine_are_checked_like_those_made_here(made, tmp_path, copy):
    """Without Snakemake's metadata, and also without the times of the files."""
    there = made.copy(tmp_path / "there", copy)
    shutil.rmtree(there.directory / ".snakemake")
    assert there.planned() == set()
    draw, state = made.drawing(SEED + 1)
    for _ in range(6):
        edits, expected = apply_some(draw, there, state)
        assert there.planned() == expected, edits
        there.workspace.restore()


def test_touch_neither_hides_nor_adds_a_change(finished):
    finished.run("--touch")
    assert finished.planned() == set()
    draw, state = finished.drawing(SEED + 2)
    for _ in range(3):
        edits, expected = apply_some(draw, finished, state)
        finished.run("--touch")
        assert finished.planned() == expected, edits
        finished.workspace.restore()


@pytest.mark.parametrize("metadata", [True, False])
def test_an_interrupted_run_leaves_what_it_has_not_done(finished, metadata):
    """A run that dies with and without Snakemake's metadata; the next one does the rest, and no more."""
    finished.workspace.configure({"rl": RETRAINED, "statistics": {"seed": 4}})
    expected = finished.expected()
    begun = jobs_of(finished.run("--cores", "1", status=-9, stop_after=20))
    done = [*begun][:20]
    if not metadata:
        shutil.rmtree(finished.directory / ".snakemake")
    assert len(begun) == 21 and finished.planned() == expected - {*done}
    assert jobs_of(finished.run()).keys() == expected - {*done}
    assert finished.planned() == set()


def test_deleted_results_are_not_made_again_until_something_needs_them(finished):
    """Their records still tell whether what was made of them is right."""
    for folder in ("traces", "models", "data", "index", ".snakemake"):
        shutil.rmtree(finished.directory / folder)
    finished.workspace.deleted = {
        path for job in finished.before.values() for path in job.outputs if not (finished.directory / path).exists()
    }
    assert finished.planned() == set()
    for change in ({"evaluation": {"samples": 2}}, {"judge": {"name": "x"}}, {"tables": {"table5": {"in_all": False}}}):
        finished.workspace.configure(change)
        assert finished.planned() == finished.expected(), change
    shutil.rmtree(finished.directory / "identity/index")
    assert "index" in finished.planned()


def test_accepted_results_count_as_made_with_the_present_settings(finished):
    """What is made of inputs that do not exist yet cannot be accepted."""
    draw, state = finished.drawing(SEED + 3)
    for _ in range(4):
        edits, _ = apply_some(draw, finished, state)
        after = Study(finished.directory).jobs
        made = {path for job in finished.before.values() for path in job.outputs}
        made_later = {path for job in after.values() for path in job.outputs} - made
        accepted = {
            name: job for name, job in after.items() if made & {*job.outputs} and not made_later & {*job.inputs}
        }
        finished.run("-n", TIR_ACCEPT="1")
        expected = planned(finished.before | accepted, after, finished.workspace.deleted, ())
        assert finished.planned() == expected, edits
        finished.workspace.restore()
        finished.run("-n", TIR_ACCEPT="1")
        assert finished.planned() == set()
