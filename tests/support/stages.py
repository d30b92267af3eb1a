"""The jobs of the stages and what each is made of, from the documentation alone; see `support/dependencies.py`.

The sources: docs/architecture.md (stages, files, model ids, what an edit runs again), docs/results.md, docs/tools.md,
docs/arms.md, docs/dpo.md, docs/models.md and docs/retrieval.md.
"""

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from support.dependencies import Job, code_of, commands, configuration, digest, results_only, sources, without

GENERAL = ("budget", "over_budget", "leading_space", "result_tokens")  # of `tools`; hold for every tool


class Stages:
    """Jobs up to scores and verdicts. Each method adds a job and returns what another job reads of it."""

    def __init__(self, directory: Path, stated: Mapping[str, Any] | None = None):
        self.directory, self.config = directory, results_only(configuration(directory, stated))
        self.jobs: dict[str, Job] = {}
        self.made: set[str] = set()  # the outputs of these jobs
        self.site = yaml.safe_load((directory / "profiles/laptop/site.yaml").read_text())["site"]
        self.commands, self.sources = commands(directory), sources(directory)
        for method in ("data", "model", "rl", "dpo", "traces", "scores"):  # each is asked for many times
            setattr(self, method, cache(getattr(self, method)))

    def job(self, name, outputs, inputs=(), reads=None, script=None, code=()) -> str:
        """Add a job; returns its first output. `script`: its name, after `FILE/` if rules in several files run it."""
        file, _, script = (script or "").rpartition("/")
        if name not in self.jobs:
            given = {path: self.directory / path for path in inputs if path not in self.made}
            made_of = {
                "settings": reads,
                "command": [
                    each for (at, named), each in self.commands.items() if named == script and file in ("", at)
                ],
                "code": [script and code_of(self.sources, f"scripts.{script}", *code)],
                "inputs": sorted(set(inputs)),  # two tables may read the same file
                "contents": {path: digest(file.read_bytes()) for path, file in given.items() if file.is_file()},
            }
            self.made.update(outputs)
            self.jobs[name] = Job(name, tuple(inputs), tuple(outputs), json.dumps(made_of, sort_keys=True))
        return outputs[0] if outputs else ""

    # --- data and models

    def data(self, file: str) -> str:
        """An input file in data/, from its configured source."""
        config = self.config
        names = {"sft.json": "sft", "corpus.jsonl": "corpus"} | {
            f"{name}.parquet": name for name in ("rl_train", "rl_validation")
        }
        source = config["data"][names[file]] if file in names else config["benchmarks"][Path(file).stem]["source"]
        if source["kind"] == "synthesis":
            self.synthesised()
            return self.job(f"synthesised_data:{file}", [f"data/{file}"], [f"synthesis/{file}"])
        inputs = {"world": [f"data/world/{file}"], "local": [source["path"]]}.get(source["kind"], [])
        if source["kind"] == "world":
            self.trajectories() if file == "sft.json" else self.world()
        return self.job(f"fetch:{file}", [f"data/{file}"], inputs, source, "fetch_data")

    def world(self) -> str:
        """The generated world makes the benchmarks whose source it is, the corpus and the rows of RL, in one job."""
        files = ["corpus.jsonl", "rl_train.parquet", "rl_validation.parquet"]
        made = [name for name, each in self.config["benchmarks"].items() if each["source"]["kind"] == "world"]
        outputs = [f"data/world/{file}" for file in [*files, *(f"benchmarks/{name}.jsonl" for name in made)]]
        return self.job("world", outputs, [], without(self.config["world"], "trajectories"), "make_world")

    def trajectories(self) -> str:
        """The generated fine-tuning data: the world's problems, solved by running both tools."""
        inputs, tools = [self.world(), self.index()], self.config["tools"]
        reads = {"world": self.config["world"], "python": tools["python"], "search": tools["search"]}
        return self.job("world_trajectories", ["data/world/sft.json"], inputs, reads, "make_trajectories")

    def prompt(self) -> str:
        """The system prompt: stated, or the instruction in the fine-tuning data."""
        data, stated = self.config["data"], self.config["data"]["prompt"]
        reads = [stated, None if stated else data["prompt_sha256"]]
        inputs = [] if stated else [self.data("sft.json")]
        return self.job("system_prompt", ["data/system_prompt.txt"], inputs, reads, "extract_prompt")

    def validation(self) -> str:
        kept = [name for name, each in self.config["benchmarks"].items() if each["kept_from_validation"]]
        inputs = [self.data("rl_validation.parquet"), *(self.data(f"benchmarks/{name}.jsonl") for name in kept)]
        reads = self.config["data"]["validation"]
        return self.job("validation_set", ["data/validation.parquet"], inputs, reads, "select_validation")

    def model(self, name: str) -> str:
        """A model by its id (docs/architecture.md, Model ids)."""
        config, output = self.config, f"models/{name}/manifest.json"
        if (source := config["models"].get(name)) is None:
            trained = re.fullmatch(r"(.+)-step(\d+)(-dpo\d+)?-seed(\d+)", name)
            if trained and trained[3]:
                return self.dpo(name)
            if trained:
                arm, step, seed = trained[1], int(trained[2]), int(trained[4])
                self.rl_after_dpo(arm, step, seed) if config["arms"][arm]["dpo"] else self.rl(arm, seed)
                return output
            epoch = re.fullmatch(r"sft-epoch(\d+)", name)
            run = "full" if epoch or name == "sft" else name.removeprefix("sft-")
            inputs, reads = self.sft(run), epoch[1] if epoch else "best"
            return self.job(f"select_checkpoint:{name}", [output], inputs, reads, "select_checkpoint")
        if source["kind"] == "world":
            ranks = config["tiny_model"]["ranks"]
            inputs = [self.data("corpus.jsonl"), self.data("sft.json"), *([ranks] if ranks else [])]
            return self.job(f"tiny_model:{name}", [output], inputs, config["tiny_model"], "make_tiny_model")
        # Every model but the encoder must have a chat template.
        reads = [source, name == config["retrieval"]["encoder"]["model"]]
        local = source["kind"] == "local" and self.directory / source["path"]
        inputs = sorted(f"{source['path']}/{each.name}" for each in local.iterdir()) if local else []
        rule = "packaged_model" if source["kind"] == "package" else "fetch_model"
        return self.job(f"{rule}:{name}", [output], inputs, [rule, reads], "fetch_model")

    def index(self) -> str:
        retrieval = self.config["retrieval"]
        encoder = [self.model(retrieval["encoder"]["model"])] if retrieval["backend"] == "dense" else []
        inputs, reads = [self.data("corpus.jsonl"), *encoder], [retrieval, self.config["device"]]
        return self.job("index", ["index/manifest.json"], inputs, reads, "build_index")

    # --- data synthesis (docs/synthesis.md)

    def samples(self) -> list[str]:
        """The teacher's samples of each question, and what made them."""
        config, settings = self.config, self.config["synthesis"]
        teacher, source = settings["teacher"], settings["questions"]
        generated = bool(source) and source["kind"] == "world"
        if source:
            reads = [source, settings["max_questions"], config["world"]] if generated else [source]
            inputs = [source["path"]] if source["kind"] == "local" else []
            questions = self.job("questions", ["synthesis/questions.parquet"], inputs, reads, "fetch_questions")
        else:
            questions = self.data("rl_train.parquet")
        tools = (config["evaluation"]["tools"] or config["tools"]) | {"routes": settings["sampling"]["routes"]}
        tools |= {"leading_space": False, "over_budget": "notice"}
        _, files, modules, asked = self.tools(tools, "math", "qa")
        inputs = [questions, *files, *([self.prompt()] if teacher["prompts"] == "system" else [])]
        inputs.append(self.model(teacher["model"]))  # there is no endpoint
        reads = [teacher, settings["sampling"], settings["max_questions"], asked]
        reads += [config["evaluation"]["engine"], config["device"]]
        outputs = ["synthesis/sampled.jsonl", "synthesis/teacher.json"]
        self.job("teacher_samples", outputs, inputs, reads, "sample_teacher", modules)
        return outputs

    def synthesised(self) -> str:
        """The synthesised fine-tuning rows, after normalisation and classification."""
        config, settings = self.config, self.config["synthesis"]
        (samples, teacher), normalised = self.samples(), ["synthesis/normalised.jsonl", "synthesis/normalised.json"]
        inputs = [samples, self.data("rl_validation.parquet")]
        inputs += [self.data(f"benchmarks/{name}.jsonl") for name in config["benchmarks"]]
        self.job("normalised_samples", normalised, inputs, settings["normalisation"], "normalise_samples")
        # The data card also says where the questions are from, and the settings of the first two steps.
        origin = settings["questions"] or config["data"]["rl_train"]
        shown = [settings["licence"], settings["normalisation"]["qa_f1"], bool(settings["questions"])]
        shown += [origin[key] for key in ("kind", "repo", "revision", "url", "path")]
        shown += [without(settings["sampling"], "budget")]
        shown += [settings["teacher"][key] for key in ("temperature", "top_p")]
        reads = [settings["classification"], config["tools"]["python"], shown]
        outputs = [f"synthesis/{name}" for name in ("sft.json", "rl_train.parquet", "card.md", "report.json")]
        inputs = [*normalised, teacher, self.prompt()]
        return self.job("classified_questions", outputs, inputs, reads, "classify_questions")

    def equal_rows(self, run: str) -> str:
        """The rows of a run that compares the two corpora."""
        inputs, seed = [self.data("sft.json"), self.synthesised()], self.config["synthesis"]["classification"]["seed"]
        outputs = [f"synthesis/equal/{name}.json" for name in ("original", "synthesised")]
        self.job("equal_rows", outputs, inputs, seed, "equal_rows")
        return f"synthesis/equal/{run}.json"

    # --- training

    def sft(self, run: str) -> list[str]:
        """A fine-tuning run: its models and its log."""
        compared = run in ("original", "synthesised")
        inputs = [self.model("base"), self.equal_rows(run) if compared else self.data("sft.json")]
        reads = [self.run_settings(run), self.config["device"], self.config["tools"]["leading_space"]]
        outputs = [f"runs/sft/{run}/models", f"runs/sft/{run}/log.jsonl"]
        self.job(f"sft:{run}", outputs, inputs, reads, "train_sft")
        return outputs

    def run_settings(self, run: str) -> dict[str, Any]:
        return self.config["sft"] | self.config["sft_pilots"].get(run, {})

    def rl(self, arm: str, seed: int) -> str:
        """A run of reinforcement learning: its metrics, and a model at each saved step."""
        config, settings = self.config, self.config["arms"][arm]
        shaped = settings["estimator"] == "aspo"  # the other estimator reads no coefficient and no code of aspo/
        every, last = config["rl"]["save_every"], config["rl"]["steps"]
        used, files, modules, asked = self.tools(config["tools"], "math", "qa")
        inputs = [self.model("sft"), self.data("rl_train.parquet"), self.validation(), self.prompt(), *files]
        outputs = [f"runs/rl/{arm}/seed{seed}/metrics.jsonl"]
        outputs += [f"models/{arm}-step{step}-seed{seed}/manifest.json" for step in range(every, last + 1, every)]
        reads = [
            without(config["rl"], "seeds"),
            asked,
            config["device"],
            without(settings, "dpo") if shaped else "grpo",
        ]
        code = [*modules, *(["aspo.integration"] if shaped else [])]
        return self.job(f"rl:{arm},{seed}", outputs, inputs, reads, "rl/train_rl", code)

    def dpo_steps(self, arm: str) -> list[int]:
        """Steps of RL that a DPO of the arm follows: the last one, or multiples of some epochs and of `save_every`."""
        schedule, rl = self.config["arms"][arm]["dpo"], self.config["rl"]
        if not schedule:
            return []
        if not schedule["every"]:
            return [rl["steps"]]
        saved = [each for each in range(rl["save_every"], rl["steps"] + 1) if each % rl["save_every"] == 0]
        due = int(schedule["every"] * (rl["rows"] // rl["batch_prompts"]))
        first = max([saved[0], *(each for each in saved if each <= due)])
        return [each for each in saved if each % first == 0]

    def rl_after_dpo(self, arm: str, step: int, seed: int) -> str:
        """The part of an arm's RL that starts after a DPO: the policy, and the metrics of these steps."""
        config, settings = self.config, self.config["arms"][arm]
        shaped = settings["estimator"] == "aspo"
        start = max(each for each in self.dpo_steps(arm) if each < step)
        _, files, modules, asked = self.tools(config["tools"], "math", "qa")
        policy = self.model(self.id(arm, start, seed))
        inputs = [policy, self.data("rl_train.parquet"), self.validation(), self.prompt(), *files]
        outputs = [
            f"runs/rl/{arm}/seed{seed}/to{step}/metrics.jsonl",
            f"models/{arm}-step{step}-seed{seed}/manifest.json",
        ]
        part = without(config["rl"], "seeds", "steps", "save_every")
        reads = [part, start, step, asked, config["device"], without(settings, "dpo") if shaped else "grpo"]
        code = [*modules, *(["aspo.integration"] if shaped else []), "scripts.name_policy"]
        return self.job(f"rl_after_dpo:{arm},{step},{seed}", outputs, inputs, reads, "dpo/train_rl", code)

    def dpo(self, name: str) -> str:
        """DPO of the policy whose id is the name without `-dpoN`: prompts, trajectories, pairs, training."""
        config, dpo, folder = self.config, self.config["dpo"], f"runs/dpo/{name}"
        policy, seed = self.model(re.sub(r"-dpo\d+", "", name)), int(name.rpartition("-seed")[2])
        prompts = [f"data/dpo/{task}.jsonl" for task in ("math", "qa")]
        self.job("dpo_prompts", prompts, [self.data("rl_train.parquet")], dpo["pairs"]["rows"], "make_dpo_prompts")
        samples = []
        for task, questions in zip(("math", "qa"), prompts, strict=True):
            _, files, modules, asked = self.tools(config["tools"], task)
            reads = [config["evaluation"]["engine"], config["evaluation"]["concurrency"], config["device"], seed, asked]
            reads += [config["rl"]["temperature"], config["rl"]["max_response_tokens"]]
            reads += [dpo["pairs"]["samples"], dpo["pairs"]["rows"]]
            inputs, output = [policy, questions, self.prompt(), *files], f"{folder}/samples/{task}.jsonl"
            script = "dpo/generate_traces"
            samples.append(self.job(f"dpo_samples:{name},{task}", [output], inputs, reads, script, modules))
        outputs = [f"{folder}/pairs{end}" for end in (".jsonl", ".report.json", ".csv", ".md")]
        reads = [without(dpo["pairs"], "rows", "samples"), config["rl"]["reward"]]
        inputs = [policy, *samples, self.prompt()]
        pairs = self.job(f"dpo_pairs:{name}", outputs, inputs, reads, "make_pairs")
        outputs = [f"models/{name}/manifest.json", f"{folder}/training/log.jsonl"]
        reads = [without(dpo, "pairs"), config["device"], seed]
        return self.job(f"dpo:{name}", outputs, [policy, pairs], reads, "train_dpo")

    def tools(self, tools: Mapping[str, Any], *tasks: str):
        """The tools on the routes of these tasks: their names, files and modules; and all settings that count."""
        routes = {task: tools["routes"].get(task, []) for task in tasks}
        used = sorted({name for route in routes.values() for name in route})
        files = [self.index()] if "search" in used else []
        if "web_search" in used and tools["web_search"]["mode"] == "replay":
            files.append(tools["web_search"]["cassette"])
        settings = {key: tools[key] for key in (*GENERAL, *used)} | {"routes": routes}
        return used, files, [f"tir.tools.{name}_tool" for name in used], settings

    # --- evaluation

    def traces(self, model: str, benchmark: str, size: str = "") -> str:
        """`size`: folder of the full test sets, of the trace analysis with its own decoding (`sampled/`), or both."""
        config, test_set = self.config, self.config["benchmarks"][benchmark]
        evaluation = config["evaluation"] | (config["trace_sampling"] if "sampled/" in size else {})
        _, files, modules, asked = self.tools(evaluation["tools"] or config["tools"], test_set["task"])
        helpers = [evaluation["helpers"][name] for name in ("debugger", "refiner")]
        asked_models = sorted({each["model"] for each in helpers if each})
        served = asked_models if "helper_endpoint" not in self.site else []  # by the job itself
        elsewhere = [] if served else [config["models"].get(name) for name in asked_models]
        inputs = [self.model(model), self.data(f"benchmarks/{benchmark}.jsonl"), self.prompt(), *files]
        inputs += map(self.model, served)
        n = config["full_size"]["n"] if size.startswith("n") else test_set["n"]
        reads = [without(evaluation, "golds", "tools"), asked, config["device"], test_set["task"], n, elsewhere]
        code = [*modules, *(["tir.rollout.helpers.server"] if served else [])]
        name = ",".join(filter(None, [size, model, benchmark]))
        return self.job(
            f"traces:{name}", [f"{size}traces/{model}/{benchmark}.jsonl"], inputs, reads, "traces/generate_traces", code
        )

    def scores(self, model: str, benchmark: str, size: str = "") -> str:
        reads = [self.config["benchmarks"][benchmark]["task"], self.config["evaluation"]["golds"]]
        name = ",".join(filter(None, [size, model, benchmark]))
        output = f"{size}scores/{model}/{benchmark}.jsonl"
        return self.job(f"scores:{name}", [output], [self.traces(model, benchmark, size)], reads, "score_traces")

    def judge(self, model: str, benchmark: str, size: str = "") -> list[str]:
        """Verdicts and their report."""
        judge, models = self.config["judge"], self.config["models"]
        standing = "judge_endpoint" in self.site and judge["model"] in models  # a server of the site; then no weights
        weights = [] if standing else [self.model(judge["model"])]
        inputs = ["tir/scoring/judge/calibration.yaml", *weights, self.traces(model, benchmark, size)]
        reads = [without(judge, "decides"), self.config["benchmarks"][benchmark]["task"]]
        reads += [models[judge["model"]]] if standing else []
        output = f"{size}judge/{model}/{benchmark}.jsonl"
        outputs = [output, f"{output}.report.json"]
        name = ",".join(filter(None, [size, model, benchmark]))
        self.job(f"judge:{name}", outputs, inputs, reads, "judge_traces")
        return outputs

    def ids(self, model: str) -> list[str]:
        """Model ids of a row's model: `arm@step` means all seeds. An arm with DPO has the RL of its arm without."""
        arm, at, step = model.partition("@")
        rl = self.config["rl"]
        step = {"first": rl["save_every"], "last": rl["steps"]}.get(step, step)
        return [self.id(arm, int(step), seed) for seed in rl["seeds"]] if at else [model]

    def id(self, arm: str, step: int, seed: int) -> str:
        """Model id of an arm's policy. Up to its first DPO it is that of the base; `-dpoN` counts the DPOs."""
        steps, schedule = self.dpo_steps(arm), self.config["arms"][arm]["dpo"]
        number = f"-dpo{steps.index(step) + 1}" if step in steps else ""
        name = schedule["rl"] if schedule and step <= steps[0] else arm
        return f"{name}-step{step}{number}-seed{seed}"

    def sets(self, section: str = "trace_analysis") -> list[list[Any]]:
        """The trajectories that a trace analysis pools: model, benchmark, task, number."""
        task = {name: each["task"] for name, each in self.config["benchmarks"].items()}
        return [
            [model, each["benchmark"], task[each["benchmark"]], each["n"]]
            for each in self.config[section]
            for model in self.ids(each["model"])
        ]

    def judged(self) -> list[tuple[str, str]]:
        """The judge reads the math and web answers of the trace analysis."""
        asked = self.config["judge"]["kind"] == "server"
        return [(model, benchmark) for model, benchmark, task, _ in self.sets() if asked and task != "qa"]
