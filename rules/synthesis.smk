# A corpus for the cold start, made of questions by a teacher that runs the tools: sampling, normalisation, difficulty.
# `data.sft: {kind: synthesis}` trains on it; results/synthesis.csv compares it with data.sft at equal numbers of rows.

from tir.workflow import synthesis

if cfg.synthesis:
    SYNTHESIS, TEACHER = cfg.synthesis, cfg.synthesis.teacher
    TEACHER_TOOLS = synthesis.tools(cfg, SYNTHESIS)
    QUESTIONS = (
        "synthesis/questions.parquet"
        if SYNTHESIS.questions
        else "data/rl_train.parquet"
    )
    SYNTHESIS_OPERATIONAL = operational_params(teacher=TEACHER, tools=TEACHER_TOOLS)

    localrules:
        equal_rows,

    if SYNTHESIS.questions:

        localrules:
            questions,

        rule questions:
            """Fetch the questions, or generate them."""
            input:
                SYNTHESIS.questions.local_files(),
            output:
                "synthesis/questions.parquet",
            log:
                "logs/synthesis/questions.log",
            resources:
                downloads=download(SYNTHESIS.questions),
            params:
                code=code_digest("scripts.fetch_questions"),
                config=lambda w: params(
                    source=SYNTHESIS.questions, **synthesis.generated(cfg, SYNTHESIS)
                ),
            shell:
                "{HOST} -m scripts.fetch_questions --output {output} --params {params.config:q} 2>&1 | tee {log}"

    rule teacher_samples:
        """Step 1: the teacher answers each question several times; an interrupted job resumes at the next question."""
        input:
            image=image("eval"),
            questions=QUESTIONS,
            model=[] if TEACHER.endpoint else f"models/{TEACHER.model}/manifest.json",
            prompt="data/system_prompt.txt" if TEACHER.prompts == "system" else [],
            tools=routes.files(TEACHER_TOOLS, "math", "qa"),
        output:
            "synthesis/sampled.jsonl",
            teacher="synthesis/teacher.json",
        log:
            "logs/synthesis/teacher_samples.log",
        benchmark:
            "benchmarks/synthesis/teacher_samples.tsv"
        container:
            container_of("eval")
        threads: 1
        resources:
            **gpus("teacher_samples"),
        params:
            code=code_digest(
                "scripts.sample_teacher",
                *routes.modules(TEACHER_TOOLS, "math", "qa"),
            ),
            config=params(
                teacher=TEACHER,
                sampling=SYNTHESIS.sampling,
                max_questions=SYNTHESIS.max_questions,
                tools=routes.settings(TEACHER_TOOLS, "math", "qa"),
                engine=cfg.evaluation.engine,
                device=cfg.device,
            ),
            model=f"models/{TEACHER.model}",
        shell:
            ON_GPUS
            + "{PYTHON[rl]} -m scripts.sample_teacher --questions {input.questions} --model {params.model} "
            "--system-prompt data/system_prompt.txt --index index --retrieval {RETRIEVAL:q} --cache cache/teacher "
            "--output {output[0]} --teacher {output.teacher} --params {params.config:q} "
            "--operational {SYNTHESIS_OPERATIONAL:q} 2>&1 | tee {log}"

    rule normalised_samples:
        """Step 2: remove what a corpus must not contain, and count what each rule removes."""
        input:
            image=image("analysis"),
            samples="synthesis/sampled.jsonl",
            benchmarks=expand("data/benchmarks/{name}.jsonl", name=cfg.benchmarks),
            validation="data/rl_validation.parquet",
        output:
            "synthesis/normalised.jsonl",
            report="synthesis/normalised.json",
        log:
            "logs/synthesis/normalised_samples.log",
        container:
            container_of("analysis")
        params:
            code=code_digest("scripts.normalise_samples"),
            config=params(normalisation=SYNTHESIS.normalisation),
        shell:
            "{PYTHON[workflow]} -m scripts.normalise_samples --samples {input.samples} --benchmarks {input.benchmarks} "
            "--validation {input.validation} --output {output[0]} --report {output.report} "
            "--params {params.config:q} 2>&1 | tee {log}"

    rule classified_questions:
        """Step 3: questions by difficulty become fine-tuning rows and RL prompts; write the data card."""
        input:
            image=image("eval"),
            questions="synthesis/normalised.jsonl",
            report="synthesis/normalised.json",
            teacher="synthesis/teacher.json",
            prompt="data/system_prompt.txt",
        output:
            "synthesis/sft.json",
            "synthesis/rl_train.parquet",
            "synthesis/card.md",
            "synthesis/report.json",
        log:
            "logs/synthesis/classified_questions.log",
        container:
            container_of("eval")
        params:
            code=code_digest("scripts.classify_questions"),
            config=lambda w: params(
                classification=SYNTHESIS.classification,
                python=cfg.tools.python,
                facts=synthesis.facts(cfg, SYNTHESIS),
            ),
        shell:
            "{PYTHON[rl]} -m scripts.classify_questions --questions {input.questions} --report {input.report} "
            "--teacher {input.teacher} --system-prompt {input.prompt} --output-dir synthesis "
            "--params {params.config:q} 2>&1 | tee {log}"

    rule equal_rows:
        """Cut the configured and the synthesised fine-tuning data to the same number of rows, to compare them."""
        input:
            "data/sft.json",
            "synthesis/sft.json",
        output:
            expand("synthesis/equal/{run}.json", run=COMPARED),
        log:
            "logs/synthesis/equal_rows.log",
        params:
            code=code_digest("scripts.equal_rows"),
            config=params(seed=SYNTHESIS.classification.seed),
        shell:
            "{HOST} -m scripts.equal_rows --files {input} --outputs {output} --params {params.config:q} 2>&1 | tee {log}"


SYNTHESISED = [name for name, source in SOURCES.items() if source.kind == "synthesis"]

if SYNTHESISED:

    localrules:
        synthesised_data,

    rule synthesised_data:
        """Use the synthesised rows as the data of training."""
        input:
            "synthesis/{file}",
        output:
            "data/{file}",
        wildcard_constraints:
            file="|".join(SYNTHESISED).replace(".", r"\."),
        shell:
            "cp {input} {output}"
