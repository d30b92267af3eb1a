"""Configuration: valid and invalid configurations, and the text of errors."""

import copy
import re
from typing import get_args

import pytest
import yaml
from support.configuration import PAPER, fault, merged, overlaid
from support.paths import ROOT

from tir.common.errors import ConfigError
from tir.config.arms import coefficients
from tir.config.command_line import refuse_repeated_values, typed
from tir.config.data import METRICS
from tir.config.experiment import load
from tir.config.references import TAKEN
from tir.config.world import ProblemKind
from tir.config.yaml_files import refuse_repeated_keys
from tir.scoring.metrics import METRICS as SCORED
from tir.scoring.score import score_trace, with_verdicts
from tir.workflow.targets import Targets
from tir.world.problems import KINDS


def test_both_scales_are_valid():
    assert load(PAPER, ["config.yaml"]).rl.steps == 30
    tiny = load(merged("config.yaml", "profiles/laptop/tiny.yaml", "profiles/laptop/site.yaml"), ["config.yaml"])
    assert tiny.device == "cpu" and tiny.data.sft.kind == "world" and tiny.data.sft.repo is None


def test_operational_fields_are_exactly_these():
    """Snakemake does not notice edits of operational fields, so none of them may affect results."""
    config = load({**PAPER, "evaluation": {"helpers": {"debugger": {"model": "m"}}}}, ["config.yaml"])
    assert config.model_dump(mode="json", context={"operational": True}) == {
        "tools": {
            "python": {"workers": None, "queue_timeout_s": 300.0, "recycle_after": 10_000},
            "search": {"timeout_s": 60.0, "retry_budget_s": 90.0},
            "web_search": {"timeout_s": 20.0, "retry_budget_s": 120.0, "concurrency": 8},
        },
        "sft": {"processes": 0, "micro_batch_tokens": 0, "gradient_checkpointing": None, "stall_s": 3600},
        "synthesis": {"teacher": {"endpoint": None, "timeout_s": 120.0, "retry_s": 120.0, "lost_in_a_row": 20}},
        "rl": {"processes": 0, "max_overlong": 0.1},
        "dpo": {"processes": 0, "pass_pairs": 1, "gradient_checkpointing": True, "stall_s": 3600},
        "evaluation": {"helpers": {"debugger": {"timeout_s": 120.0}}},
        "judge": {"concurrency": 50, "timeout_s": 120.0},
    }


def test_arms_inherit():
    arms = load(PAPER, ["config.yaml"]).arms
    assert arms["gamma_only"].gamma == 0.5 and arms["gamma_only"].alpha == 0.0
    assert arms["lambda_0.3"].lam == 0.3 and arms["lambda_0.3"].alpha == 1.0


def test_runs_of_arms_without_newer_coefficients_keep_their_parameters():
    """Another parameter would train every arm again."""
    arms = load(PAPER, ["config.yaml"]).arms
    older = {
        "lam": 0.5,
        "alpha": 1.0,
        "beta": 1.0,
        "gamma": 0.5,
        "psi_k": 5.0,
        "psi": "exp",
        "mode": "additive",
        "clip_kappa": 0.7,
        "delta": None,
        "require_correct": False,
    }
    assert coefficients(arms["aspo"]) == older
    assert coefficients(arms["aspo_centered"]) == older | {"mode": "centered"}
    assert coefficients(arms["placebo"]) == older | {"permuted": True}
    assert coefficients(arms["phi_on_qa"]) == older | {"tasks": "all"}
    assert coefficients(arms["standardised"]) == older | {"scale": "group"}
    assert coefficients(arms["reward_shaped"]) == older | {"mode": "reward"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda c: c["arms"]["aspo"].update(lamda=1),
            ["config.yaml: arms.aspo.lamda", "did you mean `lambda`", "lambda: 1"],
        ),
        (
            lambda c: c["arms"]["beta_only"].update(base="asbo"),
            ["arms.beta_only.base", "did you mean `aspo`", "base: aspo"],
        ),
        (lambda c: c["sft"].update(epochs=0), ["sft.epochs: 0", "greater than or equal to 1", "epochs: 3"]),
        (lambda c: c["rl"].update(steps="thirty"), ["rl.steps: 'thirty'", "integer"]),
        (
            lambda c: c["tables"]["table5"]["rows"].append({"label": "x", "model": "aspo@7"}),
            ["aspo@7", "every 15 steps"],
        ),
        (lambda c: c["benchmarks"]["gsm8k"].update(task="maths"), ["benchmarks.gsm8k.task", "did you mean `math`"]),
        (lambda c: c["data"].pop("sft"), ["data.sft", "missing key"]),
        (lambda c: c.update(tool={}), ["tool: unknown key", "did you mean `tools`"]),
        (lambda c: c["arms"].update(q={"base": "q"}), ["circular inheritance: q -> q"]),
        (lambda c: c["rl"].update(save_every=7), ["save_every 7 must divide steps 30"]),
        (lambda c: c["rl"].update(rows=20_000), ["rl.rows: 20000 is more than the 10000 rows", "rows: 10000"]),
        (
            lambda c: c["data"].update(rl_train={"kind": "world"}) or c.update(world={"rl_train_rows": 100}),
            ["rl.rows: 1000 is more than the 100 rows of world.rl_train_rows", "rows: 100"],
        ),
        (lambda c: c["data"]["sft"].pop("file"), ["data.sft.file: missing key: name of the file in "]),
        (
            lambda c: c.update(world={"trajectories": {"problems": {"expand:2": 1}}}),
            ["world.trajectories.problems.expand:2", "did you mean `expand:3`"],
        ),
        (
            lambda c: c.update(world={"trajectories": {"problems": {"expand:3": 0}}}),
            ["world.trajectories.problems: all weights are 0"],
        ),
        (
            lambda c: c.update(world={"trajectories": {"mix": {"no_tools": 0.5}}}),
            ["world.trajectories.mix: the sum of the fractions is 0.5, but must be 1"],
        ),
        (
            lambda c: c["sft_pilots"]["medium"].update(stall_s=60),
            ["sft_pilots.medium.stall_s", "it holds for all runs, under `sft`"],
        ),
        (lambda c: c["rl"].update(rows=16), ["batch_prompts 32 must not exceed rows 16"]),
        (
            lambda c: c["arms"].update(q={"base": "aspo", "delta": -2.0}),
            ["arms.q", "delta -2 has an effect only with mode clipped"],
        ),
        (
            lambda c: c["arms"].update(q={"base": "aspo_original", "permuted": True}),
            ["arms.q", "delta -2 replaces phi, so permuted has no effect"],
        ),
        (lambda c: c["data"]["sft"].update(repo=None), ["kind hub needs `repo`"]),
        (lambda c: c["data"].update(sft={"kind": "local", "path": ""}), ["kind local needs `path`"]),
        (lambda c: c["data"]["sft"].update(kind=["hub"]), ["data.sft.kind: ['hub']: should be 'hub', 'url'"]),
        (lambda c: c["models"]["base"].update(kind={"hub": 1}), ["models.base.kind: should be 'hub', 'local'"]),
        (
            lambda c: c["benchmarks"]["gsm8k"]["source"].update(kind=5),
            ["benchmarks.gsm8k.source.kind: 5: should be 'hub', 'url'"],
        ),
        *(
            (
                lambda c, url=url: c["data"].update(sft={"kind": "url", "url": url}),
                [f"data.sft.url: '{url}': should be"],
            )
            for url in ("http://HOST:PORT/x", "https://[::1/x", "http://host:99999", "https:///x", "ftp://host/x")
        ),
        (
            lambda c: c.update(synthesis={"teacher": {"endpoint": "http://host:port/v1"}}),
            ["synthesis.teacher.endpoint: 'http://host:port/v1': should be an address", "as 'port'"],
        ),
        (
            lambda c: c["arms"]["aspo"].update({"lambda": True}),
            ["arms.aspo.lambda: true: should be a valid number", "lambda: 0.5"],
        ),
        (lambda c: c["data"]["corpus"].update(kind="world"), ["needs a `world:` section"]),
        (
            lambda c: (
                c["benchmarks"].update(gsm9k={**c["benchmarks"]["gsm8k"], "source": {"kind": "world"}})
                or c.update(world={})
            ),
            ["benchmarks.gsm9k: the world has no benchmark gsm9k", "did you mean `gsm8k`"],
        ),
    ],
)
def test_an_error_has_place_reason_and_correction(change, words):
    text = fault(change)
    for word in words:
        assert word in text, text


def test_an_inherited_fault_is_reported_once():
    assert fault(lambda c: c["arms"]["aspo"].update(lamda=1)).count("unknown key") == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda c: c["arms"].update({"lambda-0.2": {"base": "aspo", "lambda": 0.2}}),
            [
                "arms.lambda-0.2: a name is letters, digits, `_` and `.`; write `lambda_0.2`",
                "lambda_0.2:\n        base: aspo\n        lambda: 0.2",
            ],
        ),
        (
            lambda c: c["benchmarks"].update({"my-bench": c["benchmarks"]["gsm8k"]}),
            ["benchmarks.my-bench: a name is", "write `my_bench`"],
        ),
        (
            lambda c: c["benchmarks"].update({2024: c["benchmarks"]["gsm8k"]}),
            ["benchmarks.2024: a name is text", "'2024':\n        label"],
        ),
        (
            lambda c: c["arms"].update({None: {"base": "aspo"}}),
            ["arms.null: a name is text; put it in quotes", "'null':\n        base: aspo"],
        ),
        (
            lambda c: c["sft_pilots"].update({"5K-rows": {"max_rows": 5000}}),
            ["sft_pilots.5K-rows: a name is", "beginning with a lower-case letter"],
        ),
    ],
)
def test_an_error_of_an_invalid_name_suggests_a_valid_one(change, words):
    text = fault(change)
    assert text.startswith("a fault in the configuration\n\n") and all(word in text for word in words), text


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda c: c["rl"].update(save_every=7),
            "rl: save_every 7 must divide steps 30, or the last step is not saved",
        ),
        (lambda c: c["arms"].update(q={"base": "q"}), "arms.q.base: circular inheritance: q -> q"),
        (lambda c: c["models"].update(base={"kind": "local"}), "models.base: a source of kind local needs `path`"),
        (
            lambda c: c["benchmarks"]["gsm8k"].pop("label"),
            "benchmarks.gsm8k.label: missing key: column title in tables",
        ),
        (lambda c: c.update(rl=None), "rl: null: should be a mapping of keys to values"),
        (
            lambda c: c["tools"].update(routes={"maths": ["python"]}),
            "tools.routes.maths: should be 'math', 'qa' or 'web'; did you mean `math`?\n"
            "  write:\n    tools:\n      routes:\n        math:\n        - python",
        ),
        (
            lambda c: c["tools"].update(routes={"math": ["pyton"]}),
            "tools.routes.math.0: 'pyton': should be 'python', 'search' or 'web_search'; did you mean `python`?\n"
            "  write:\n    - python",
        ),
        (
            lambda c: c["tools"].update(budget={"serch": 2}),
            "tools.budget.serch: should be 'python' or 'search'; did you mean `search`?\n"
            "  write:\n    tools:\n      budget:\n        search: 2",
        ),
        (
            lambda c: c["tools"].update(budget=[2]),
            "tools.budget: [2]: should be a valid integer or should be a mapping of keys to values\n"
            "  write:\n    tools:\n      budget: 3",
        ),
    ],
)
def test_printed_yaml_can_be_pasted_and_replaces_only_the_faulty_value(change, text):
    """No YAML is printed for a fault of a whole section, or for a key without an obvious value."""
    assert fault(change) == f"a fault in the configuration\n\n{ROOT / 'config.yaml'}: {text}"


def test_an_error_of_a_renamed_section_prints_the_section_to_paste():
    assert fault(lambda c: c.update(model={"base": {"kind": "local", "path": "x"}})) == (
        f"a fault in the configuration\n\n{ROOT / 'config.yaml'}: model: unknown key; did you mean `models`?\n"
        "  write:\n    models:\n      base:\n        kind: local\n        path: x"
    )


def test_any_named_model_can_be_used_in_tables_and_analyses():
    config = load(
        merged("config.yaml")
        | {
            "models": PAPER["models"] | {"my_llama3.1": {"kind": "local", "path": "x"}},
            "tables": {"mine": {"rows": [{"model": "my_llama3.1"}, {"label": "b", "model": "base"}]}},
            "trace_analysis": [{"model": "my_llama3.1", "benchmark": "gsm8k"}],
            "judge": PAPER["judge"] | {"model": "my_llama3.1"},
            "full_size": None,
        },
        ["config.yaml"],
    )
    assert [row.label for row in config.tables["mine"].rows] == ["my_llama3.1", "b"]
    assert config.model_ids("my_llama3.1") == ["my_llama3.1"] and config.models["my_llama3.1"].path == "x"


def test_helpers_ask_a_named_model_or_one_that_the_site_serves():
    helpers = {"debugger": {"model": "judge"}, "refiner": {"model": "Qwen2.5-72B-Instruct"}}
    config = load({**PAPER, "evaluation": {"helpers": helpers}}, ["config.yaml"])
    assert config.helper_models("http://host:1/v1") == ([], {"judge": config.models["judge"]})
    with pytest.raises(ConfigError, match="helpers.refiner.model: no such model: models has no Qwen2.5-72B-Instruct"):
        config.helper_models("none")
    del helpers["refiner"]
    assert load({**PAPER, "evaluation": {"helpers": helpers}}, ["c"]).helper_models("none") == (["judge"], {})
    assert load(PAPER, ["config.yaml"]).helper_models("none") == ([], {})


def without_tables(config):
    config["tables"] = {name: None if table.get("in_all", True) else table for name, table in config["tables"].items()}
    config["full_size"] = None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["arms"].update(mine={"base": ["aspo"]}), ["arms.mine.base: ['aspo'] is not an arm", "base: aspo"]),
        (
            lambda c: c["tables"].update(table3=c["tables"]["table5"]),
            ["tables.table3: table3 is the name of a rule or result"],
        ),
        (
            lambda c: c["tables"].update(figure1=c["tables"]["table5"]),
            ["tables.figure1: figure1 is the name of a rule"],
        ),
        (lambda c: c["tables"].update(sft=c["tables"]["table5"]), ["tables.sft: sft is the name of a rule"]),
        (lambda c: c["sft_pilots"].update(checkpoint={}), ["sft_pilots.checkpoint: the names full, checkpoint"]),
        (
            lambda c: c["tables"]["table6"]["rows"].append({"label": "x", "model": "aspo@0"}),
            ["rows.3.model: shows aspo@0", "every 15 steps"],
        ),
        (
            lambda c: c["judge"].update(model="nope"),
            ["judge.model: models has no nope; there is base, published, judge, encoder, sft"],
        ),
        (without_tables, ["tables: no table is made by default"]),
        (
            lambda c: c.update(world={"benchmark_rows": "many"}),
            ["world.benchmark_rows: 'many': should be a valid integer"],
        ),
        (
            lambda c: c.update(world={"benchmark_row": 10}),
            ["world.benchmark_row: unknown key; did you mean `benchmark_rows`?"],
        ),
        (
            lambda c: c.update(world={"trajectories": {"habits": {"chek": 0.5}}}),
            ["world.trajectories.habits.chek", "did you mean `check`"],
        ),
        (lambda c: c.update(tiny_model={"layer": 2}), ["tiny_model.layer: unknown key; did you mean `layers`?"]),
        (
            lambda c: c["models"].update(base={"kind": "world"}) or c.update(world={}),
            ["models.base.kind: a model of kind world needs a `tiny_model:` section"],
        ),
        (lambda c: c["models"].update(base=None), ["models.base: missing key: fine-tuning starts from it"]),
        (
            lambda c: c["models"].update(sft={"kind": "local", "path": "x"}),
            [
                "models.sft: this is the id of the selected fine-tuned model",
                "models:\n      my_sft:\n        kind: local",
            ],
        ),
        (
            lambda c: c["models"].update({"aspo-step30-seed1": {"kind": "local", "path": "x"}}),
            ["models.aspo-step30-seed1: a name is letters, digits, `_` and `.`; write `aspo_step30_seed1`"],
        ),
        (
            lambda c: (
                c["tables"]["table6"]["rows"].append({"label": "x", "model": "my_lama"})
                or c["models"].update(my_llama={"kind": "local", "path": "x"})
            ),
            ["rows.3.model: shows my_lama, but models has no my_lama; did you mean `my_llama`?"],
        ),
        (
            lambda c: c["retrieval"]["encoder"].update(model="intfloat/e5-base-v2"),
            [
                "retrieval.encoder.model",
                "must be a name under `models`",
                "encoder:\n        kind: hub\n        repo: intfloat/e5",
            ],
        ),
        (
            lambda c: c["retrieval"]["encoder"].update(model="e5"),
            ["retrieval.encoder.model: models has no e5; there is base"],
        ),
        (
            lambda c: (
                c.update(world={}, tiny_model={})
                or c["data"]["sft"].update(kind="world")
                or c["models"].update(encoder={"kind": "world"})
            ),
            ["retrieval.encoder.model: encoder is made of the SFT data", "encoder:\n        kind: package"],
        ),
        (
            lambda c: c["benchmarks"].update(gsm8k=None) or c["benchmarks"]["webwalker"].update(metric="judge"),
            ["trace_analysis.0.benchmark: benchmarks has no gsm8k"],
        ),
    ],
)
def test_configurations_that_no_rule_could_run_are_errors(change, words):
    text = fault(change)
    assert all(word in text for word in words), text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["sft"].update(epochs="3"), ["sft.epochs: '3': should be a valid integer"]),
        (lambda c: c["sft"].update(epochs=True), ["sft.epochs: true: should be a valid integer"]),
        (
            lambda c: c["sft"].update(mask_results="no"),
            ["sft.mask_results: 'no': should be a valid boolean", "mask_results: false"],
        ),
        (lambda c: c["rl"].update(seeds=["1"]), ["rl.seeds.0: '1'"]),
        (
            lambda c: c["rl"].update(seeds=[1, 2, 1]),
            ["rl.seeds: [1, 2, 1]: duplicate seeds", "seeds:\n      - 1\n      - 2"],
        ),
        (
            lambda c: c["tables"]["table6"]["rows"].append({"label": "ASPO @ 30", "model": "aspo@15"}),
            ["tables.table6.rows.3.label: another row has the label ASPO @ 30"],
        ),
        (
            lambda c: c["benchmarks"]["hotpotqa"].update(metric="math_equal"),
            ["benchmarks.hotpotqa.metric: scores of qa have no math_equal; there is em, f1, acc, char_f1"],
        ),
        (
            lambda c: c["benchmarks"]["gsm8k"].update(metric="char_f1"),
            ["benchmarks.gsm8k.metric: scores of math have no char_f1"],
        ),
        (
            lambda c: c["benchmarks"]["gsm8k"].update(metric="judge"),
            ["benchmarks.gsm8k.metric: 'judge': no verdicts exist for sft, grpo@30"],
        ),
    ],
)
def test_configurations_that_would_give_wrong_numbers_are_errors(change, words):
    text = fault(change)
    assert all(word in text for word in words), text


def test_a_float_may_be_a_string():
    value = copy.deepcopy(PAPER)
    value["sft"].update(yaml.safe_load("learning_rate: 7e-6"))  # YAML reads 7e-6 as a string, and 7.0e-6 as a float
    assert load(value, ["config.yaml"]).sft.learning_rate == 7e-6


def test_the_metrics_of_a_task_are_those_of_its_scores():
    math = {"id": "a", "sample": 0, "answer": "1", "gold": ["1"], "finish": "answer"}
    for task, metrics in METRICS.items():
        judgements = {("a", 0): {"verdict": True}}
        (scored,) = with_verdicts([score_trace(math, task=task)], judgements)
        scored = {key for key in SCORED if scored[key] is not None} - {"correct"}
        assert set(metrics) | {"judge"} == scored, task


def test_no_table_can_have_the_name_of_a_rule():
    text = "".join(path.read_text() for path in [ROOT / "Snakefile", *(ROOT / "rules").glob("*.smk")])
    targets = Targets(load(PAPER, ["config.yaml"]))
    made = {*targets.tables, *targets.extra, *targets.figures} - set(PAPER["tables"])
    assert set(re.findall(r"^ *rule (\w+):", text, re.M)) | made <= TAKEN


def test_the_configuration_accepts_the_problem_kinds_of_the_world():
    assert get_args(ProblemKind) == KINDS


def test_an_error_names_the_file_that_sets_the_key(tmp_path):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("sft: {epochs: 0}\n")
    value = copy.deepcopy(PAPER)
    value["sft"]["epochs"] = 0
    with pytest.raises(ConfigError, match="overlay.yaml: sft.epochs"):
        load(value, [str(ROOT / "config.yaml"), str(overlay)])


def test_all_faults_between_sections_are_reported_with_their_file(tmp_path):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("""
sft_pilots: {smoke: {max_row: 5, epochs: 0}}
tables:
  mine:
    benchmarks: [gsm9k]
    rows: [{label: a, model: grpo@30}, {label: b, model: asbo@30}]
arms: {first: {base: asbo}, second: {base: first}}
full_size: {tables: [table55]}
""")
    value = merged("config.yaml", str(overlay))
    files = [str(ROOT / "config.yaml"), str(overlay)]
    with pytest.raises(ConfigError) as caught:
        load(value, files)  # references between sections are checked only when all sections are valid
    assert "overlay.yaml: arms.first.base: 'asbo' is not an arm; did you mean `aspo`?" in str(caught.value)
    value["arms"]["first"]["base"] = "aspo"
    with pytest.raises(ConfigError) as caught:
        load(value, files)
    text = str(caught.value)
    assert text.startswith("5 faults") and "(whole file)" not in text and text.count(f"{overlay}: ") == 5
    for words in (
        "sft_pilots.smoke.max_row: unknown key; did you mean `max_rows`?\n"
        "  write:\n    sft_pilots:\n      smoke:\n        max_rows: 5",
        "sft_pilots.smoke.epochs: 0: should be greater than or equal to 1",
        "tables.mine.rows.1.model: shows asbo@30, but arms has no asbo; did you mean `aspo@30`?\n"
        "  write:\n    model: aspo@30",
        "tables.mine.benchmarks.0: benchmarks has no gsm9k; did you mean `gsm8k`?\n  write:\n    - gsm8k",
        "full_size.tables.0: tables has no table55; did you mean `table5`?",
    ):
        assert words in text, text


def test_values_of_the_command_line_get_the_types_of_yaml():
    given = {
        "sft_pilots": {"medium": {"max_rows": "800", "learning_rate": "7e-6"}},
        "rl": {"seeds": ["1", "2"]},
        "tables": {"table5": "null"},
        "judge": {"kind": "none"},
        "retrieval": {"web": "False"},
        "n": 3,
    }
    assert typed(given) == {
        "sft_pilots": {"medium": {"max_rows": 800, "learning_rate": "7e-6"}},
        "rl": {"seeds": [1, 2]},
        "tables": {"table5": None},
        "judge": {"kind": "none"},
        "retrieval": {"web": False},
        "n": 3,
    }


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({"steps": 5}, ["steps: unknown key", "did you mean `rl.steps`", "--config rl='{steps: 5}'"]),
        (
            {"tools": {"top_k": 5}},
            [
                "tools.top_k: unknown key; there is also `tools.web_search.top_k`",
                "did you mean `tools.search.top_k`",
                "--config tools='{search: {top_k: 5}}'",
            ],
        ),
        ({"rl": {"lambda": 0.3}}, ["did you mean `arms.NAME.lambda`"]),
        ({"temperture": 0.7}, ["did you mean `", ".temperature`"]),
        (
            {"model": {"base": "Qwen/Qwen2.5-3B"}},
            ["`models`", "--config models='{base: {kind: hub, repo: Qwen/Qwen2.5-3B}}'"],
        ),
        (
            {"models": {"base": "/models/mine"}},
            ["models.base: '/models/mine'", "{base: {kind: local, path: /models/mine}}"],
        ),
        (
            {"models": {"base": "https://huggingface.co/Qwen/Qwen2.5-3B"}},
            ["--config models='{base: {kind: hub, repo: Qwen/Qwen2.5-3B}}'"],
        ),
        ({"data": {"sft": "some/rows"}}, ["{sft: {kind: hub, repo: some/rows, file: FILE}}"]),
        ({"data": {"sft": "https://host/rows.json"}}, ["{sft: {kind: url, url: ", "https://host/rows.json"]),
        ({"xyzzy": 1}, ["unknown key; known here: arms, benchmarks"]),
        ({"model": "Qwen/Q"}, ["--config models='{base: {kind: hub, repo: Qwen/Q}}'"]),
        ({"RL": {"steps": 20}}, ["did you mean `rl`", "--config rl='{steps: 20}'"]),
        ({"lr": 1e-3}, ["unknown key; known here: arms, benchmarks"]),  # not: did you mean `rl`
        (
            {"tools": {"routes": {"math": ["python", "serch"]}}},
            ["did you mean `search`", "--config tools='{routes: {math: [python, search]}}'"],
        ),
        (
            {"tables": {"mine": {"rows": [{"model": "sft"}, {"model": "asppo@30"}]}}},
            ["--config tables='{mine: {rows: [{model: sft}, {model: aspo@30}]}}'"],
        ),
    ],
)
def test_a_key_in_the_wrong_place_and_a_source_as_text_print_what_to_write(stated, words):
    value = copy.deepcopy(PAPER)
    for key, given in stated.items():
        value[key] = {**value.get(key, {}), **given} if isinstance(given, dict) else given
    with pytest.raises(ConfigError) as caught:
        load(value, [str(ROOT / "config.yaml")], stated)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_key_that_is_written_twice_is_refused_with_both_lines(tmp_path):
    shipped = [str(ROOT / "config.yaml"), *map(str, ROOT.glob("profiles/*/*.yaml")), str(tmp_path / "missing.yaml")]
    refuse_repeated_keys(shipped)
    file = tmp_path / "mine.yaml"
    file.write_text(
        "rl: {steps: 3}\narms:\n  a: {lambda: 1}\n  b: &b\n    lambda: 2\n  c: *b\n  a: {gamma: 1}\nrl: {rows: 9}\n"
    )
    with pytest.raises(ConfigError) as caught:
        refuse_repeated_keys([*shipped, str(file)])
    assert caught.value.where == f"{file}:8"
    assert f"{file}: rl in lines 1 and 8; {file}: arms.a in lines 3 and 7" in caught.value.why
    for text, words in (
        ("yes: 1\ntrue: 2\n", "true in lines 1 and 2"),
        ("a: {1: a, 0x1: b}\n", "a.0x1 in lines 1 and 1"),
        ("null: 1\n~: 2\n", "~ in lines 1 and 2"),
        ('3: 1\n"3": 2\n3.5: 3\n? !unknown x\n: 4\n', ""),
    ):
        file.write_text(text)
        if not words:
            refuse_repeated_keys([str(file)])
            continue
        with pytest.raises(ConfigError, match=words):
            refuse_repeated_keys([str(file)])
    file.write_text("tables:\n  mine:\n    rows:\n    - {label: a, model: b, label: c}\n")
    with pytest.raises(ConfigError, match="tables.mine.rows.0.label in lines 4 and 4"):
        refuse_repeated_keys([str(file)])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-n", "--config", "rl={steps: 5}", "rl={rows: 4}"], "a key is written twice: rl:"),
        (["--config", "rl={steps: 5, steps: 6}", "x=1"], "a key is written twice: rl.steps:"),
        (["--config", "a=1", "-n", "-C", "b=2"], "the option is written twice: a b:"),
        (["--config=a=1", "--config=b=2"], "the option is written twice: a b:"),
        (["-Ca=1", "-Cb=2"], "the option is written twice: a b:"),
        (["-Ca={b: 1}", "a=2"], "a key is written twice: a:"),
        (["-Ca={b: 1}", "-n"], ""),
        (["-C", "a=1", "b={c: [1, 2]}", "-n", "a=1"], ""),
        (["results/table5.csv"], ""),
    ],
)
def test_a_key_that_the_command_line_states_twice_is_refused(arguments, words):
    if not words:
        return refuse_repeated_values(arguments)
    with pytest.raises(ConfigError) as caught:
        refuse_repeated_values(arguments)
    assert f"--config: {words}" in str(caught.value) and "try: --config" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": {"sft": {"path": "rows.json"}}}, ["data.sft.path: a source of kind hub", "kind: local"]),
        ({"models": {"base": {"path": "mine"}}}, ["models.base.path: a source of kind hub", "kind: local"]),
        ({"benchmarks": {"gsm8k": {"source": {"repo": "a/b"}}}}, ["source.repo: a source of kind url", "kind: hub"]),
        ({"data": {"sft": {"kind": "local", "path": "x", "revision": "v2"}}}, ["revision: a source of kind local"]),
        ({"data": {"sft": {"kind": "local", "path": "rows.json"}}}, []),  # the keys of the file below are replaced
        ({"data": {"sft": {"revision": "v2"}}}, []),
    ],
)
def test_a_key_that_the_kind_of_a_source_does_not_read_is_refused(change, words):
    value = overlaid(PAPER, change)
    if not words:
        load(value, [str(ROOT / "config.yaml")], change)
        return
    with pytest.raises(ConfigError) as caught:
        load(value, [str(ROOT / "config.yaml")], change)
    assert all(word in str(caught.value) for word in ["--config: ", *words]), caught.value


def test_an_error_of_a_command_line_value_names_the_option_and_the_correction():
    # Snakemake parses the decimals inside a value of --config as text.
    stated = {"sft": {"epochs": 0}, "rl": {"stpes": 3}, "arms": {"aspo": {"lamda": "0.3"}}}
    value = overlaid(PAPER, stated)
    with pytest.raises(ConfigError) as caught:
        load(value, [str(ROOT / "config.yaml")], stated)
    assert "--config: sft.epochs: 0: should be" in str(caught.value)
    assert "--config: rl.stpes: unknown key; did you mean `steps`?\n  write:\n    --config rl='{steps: 3}'" in str(
        caught.value
    )
    assert "--config arms='{aspo: {lambda: 0.3}}'" in str(caught.value)
