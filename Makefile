# make demo       run every stage of the paper at laptop scale: results/table5.csv, figures, report
# make test       run the tests
# make cluster    run the graph and injected faults on a real Slurm with images (needs TIR_CLUSTER=DIR, root, Debian 12)
# make plan       show the jobs of the paper's scale; needs no cluster, GPU or container tool
# make preflight  plan the paper's scale, and check that this machine can run it
# make images-check   import what the GPU stages import, from the locks of envs/cuda, without images and without a GPU
# make rehearsal  run every stage on the paper's real files, at its lengths, with a model of tiny width; needs no GPU
# make smoke PROFILE=profiles/slurm   try every stage on a machine with GPUs, in under one GPU-hour; run this first
# make study      compare ASPO with GRPO and with controls, over many outcomes (docs/study.md); STUDY=quick: a pilot
# make status     show the jobs of a run that goes on: state, node, step, loss, time left
# make watch      serve TensorBoard for the training runs on the loopback address, port 6006 (or PORT=...)
# make inspect    install the environment that writes evaluation logs of inspect_ai, .venv/inspect
# make docs       build the documentation site in site/
# make readme     write the result blocks of README.md, docs/tour.md and docs/study.md, and their pictures, from finished runs
# make schema     write config/schema.json from the models in tir/config/
# make lint       check formatting and style
# make lock       resolve envs/cpu/*.in into hashed locks; HARDWARE=cuda: envs/cuda/*.in
# make bench-aspo, bench-coverage, bench-graph, bench-kill, bench-retrieval, bench-rl, bench-scoring, bench-tools   run the benchmarks in bench/
# make snakemake-versions   test the graph with the oldest, a middle and the newest supported Snakemake

PYTHON ?= python3
PROFILE ?= profiles/laptop
TARGETS ?= all
WORKERS ?= 2  # processes of `make test`; the tests of one file stay in one process
# Package index with CPU builds of torch; none if PIP_FIND_LINKS names a folder or index that has them.
TORCH_INDEX ?= $(if $(PIP_FIND_LINKS),,https://download.pytorch.org/whl/cpu)

# cuda: environments of the GPU stages from envs/cuda, in .venv/cuda-sft and .venv/cuda-rl, for profiles/workstation.
HARDWARE ?= cpu
VENVS := workflow sft rl
ENVIRONMENTS := $(if $(filter cuda,$(HARDWARE)),workflow cuda-sft cuda-rl,$(VENVS))
UV := .venv/uv/bin/uv
SNAKEMAKE := .venv/workflow/bin/snakemake
TORCH_WHEELS := $(if $(PIP_FIND_LINKS),--find-links $(PIP_FIND_LINKS)) $(if $(TORCH_INDEX),--index $(TORCH_INDEX))
# Compile bytecode at installation: in a read-only environment, torch and transformers then import three times faster.
INSTALL_FLAGS := --compile-bytecode --require-hashes --no-deps $(TORCH_WHEELS) $(if $(TORCH_INDEX),--index-strategy unsafe-best-match)
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
ifeq ($(strip $(UV_DEFAULT_INDEX)),)
unexport UV_DEFAULT_INDEX
endif
export TORCH_INDEX  # used by tests/packaging
export PYTHONNOUSERSITE = 1

.PHONY: demo rehearsal smoke study test cluster plan preflight images-check snakemake-versions environments machine docs readme schema lint lock status watch inspect clean-results bench-aspo bench-coverage bench-graph bench-kill bench-retrieval bench-rl bench-scoring bench-tools

demo: environments
	@mkdir -p logs
	@PYTHONPATH=$(CURDIR)/envs/plugins $(SNAKEMAKE) --logger stages --profile $(PROFILE) $(TARGETS) \
	  $(if $(filter all,$(TARGETS)),$(if $(wildcard .venv/inspect/.complete),inspected)) > logs/demo.log
	@$(if $(filter all,$(TARGETS)),$(SNAKEMAKE) --profile $(PROFILE) --report results/report.html --quiet all -- reported)
	@.venv/workflow/bin/python -m scripts.show_results

# Rehearsal and smoke run in a copy of the workflow, so that the results of other runs stay.
COPY ?= $@
define copy
	@mkdir -p $(COPY) && cp -R Snakefile config.yaml rules scripts tir aspo profiles envs containers docs $(COPY)/ && \
	  ln -sfn $(abspath .venv) $(COPY)/.venv
endef

# FILES: configuration files on top of the profile's, e.g. profiles/rehearsal/reduced.yaml.
FILES ?=
rehearsal: environments .venv/qwen/qwen.tiktoken
	$(copy)
	@cd $(COPY) && .venv/workflow/bin/snakemake --profile profiles/rehearsal \
	  --configfile profiles/rehearsal/real.yaml profiles/laptop/site.yaml $(FILES) \
	  -- $(if $(filter all,$(TARGETS)),results/table5.csv,$(TARGETS))

# MORE: further arguments of Snakemake, e.g. -n.
smoke: .venv/workflow/.complete
	$(copy)
	@cd $(COPY) && .venv/workflow/bin/python -m scripts.smoke --profile $(PROFILE) -- $(MORE)

# STUDY=quick: the pilot, about half an hour. PROFILE=profiles/slurm: the same as many small jobs without a GPU.
study: environments
	$(copy)
	@cd $(COPY) && .venv/workflow/bin/python -m scripts.run_study --profile $(PROFILE) $(if $(filter quick,$(STUDY)),--quick) -- $(MORE)
	@echo "results: $(COPY)/results/study"

.venv/qwen/qwen.tiktoken: envs/qwen.txt | $(UV)
	@rm -rf .venv/qwen && $(UV) -q pip install --python $(PYTHON) --target .venv/qwen/package --no-deps --require-hashes -r $<
	@mv .venv/qwen/package/qwen_agent/utils/qwen.tiktoken $@ && rm -r .venv/qwen/package

test: environments
	.venv/rl/bin/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

cluster: environments
	.venv/rl/bin/python -m pytest tests/cluster --durations 0 $(PYTEST_ARGS)

plan: .venv/workflow/.complete
	$(SNAKEMAKE) --profile slurm -n results/table5.csv

preflight: .venv/workflow/.complete
	@$(SNAKEMAKE) --profile slurm -n results/table5.csv --quiet --cores 1000  # by default a plan gives each job one core
	@.venv/workflow/bin/python -m scripts.preflight

IMAGES ?= sft rl eval retrieval

# One environment of 6 GB at a time; it is removed after its test, the packages stay in uv's cache.
images-check: | $(UV)
	@for name in $(IMAGES); do \
	  venv=$(CURDIR)/.venv/check-$$name; rm -rf $$venv; \
	  $(UV) -q venv --python $(PYTHON) $$venv && \
	  $(UV) -q pip install --python $$venv/bin/python --require-hashes --no-deps -r envs/cuda/$$name.txt && \
	  env -u CUDA_HOME PATH=$$venv/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 python3 -m tir.workflow.image_test $$name; \
	  status=$$?; rm -rf $$venv; test $$status = 0 || exit 1; \
	done

SNAKEMAKE_VERSIONS := 9.20.0 9.24.0 9.27.1

snakemake-versions: environments
	@for version in $(SNAKEMAKE_VERSIONS); do \
	  echo "Snakemake $$version"; venv=.venv/snakemake-$$version; \
	  test -x $$venv/bin/snakemake || { $(UV) -q venv --python $(PYTHON) $$venv && sed "s/^snakemake==.*/snakemake==$$version/" \
	    envs/cpu/workflow.in | $(UV) -q pip install --python $$venv/bin/python -r -; } || exit 1; \
	  TIR_SNAKEMAKE=$(CURDIR)/$$venv/bin/snakemake .venv/rl/bin/python -m pytest tests/workflow/test_engine.py \
	    tests/workflow/test_profiles.py tests/workflow/test_incremental.py tests/workflow/test_images.py || exit 1; \
	done

environments: machine $(ENVIRONMENTS:%=.venv/%/.complete)

machine:
	@$(PYTHON) scripts/check_machine.py

$(UV):
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v != (3, 11) and f"Python {v[0]}.{v[1]} found; the locks in envs/ are for 3.11.\n  try: make $(MAKECMDGOALS) PYTHON=python3.11")'
	@$(PYTHON) -m venv .venv/uv || { echo "python3-venv is missing.  try: apt-get install python3-venv"; exit 1; }
	@.venv/uv/bin/pip install -q uv==0.13.9

# CUDA wheels come from the package index alone, with the CUDA libraries that they need; only the driver must be there.
.venv/cuda-%/.complete: envs/cuda/%.txt | $(UV)
	@echo "installing environment: cuda-$* (some gigabytes)"
	@rm -rf .venv/cuda-$* && $(UV) -q venv --seed --python $(PYTHON) .venv/cuda-$*
	@$(UV) -q pip install --python .venv/cuda-$*/bin/python --compile-bytecode --require-hashes --no-deps -r $<
	@touch $@

.venv/%/.complete: envs/cpu/%.txt | $(UV)
	@echo "installing environment: $*"
	@rm -rf .venv/$* && $(UV) -q venv --seed --python $(PYTHON) .venv/$*
	@$(UV) -q pip install --python .venv/$*/bin/python $(INSTALL_FLAGS) -r $<
	@case $* in \
	rl) $(UV) -q pip install --python .venv/rl/bin/python --no-deps --no-build-isolation ./envs/shims/vllm ;; \
	sft) $(UV) -q pip install --python .venv/sft/bin/python --no-deps --no-build-isolation ./envs/shims/torchaudio ;; \
	esac
	@touch $@

lock: | $(UV)
	@for name in $(basename $(wildcard envs/$(HARDWARE)/*.in)); do \
	  $(UV) -q pip compile $$name.in -o $$name.txt --generate-hashes --no-header --no-annotate \
	    $$(test -f $$name.overrides && echo --override $$name.overrides) $(if $(filter cpu,$(HARDWARE)),$(TORCH_WHEELS)) \
	    --no-emit-find-links --no-emit-index-url --python-version 3.11 --python-platform x86_64-manylinux_2_28 || exit 1; \
	done

docs: .venv/docs/.complete
	@NO_MKDOCS_2_WARNING=1 .venv/docs/bin/mkdocs build --strict  # with --quiet, --strict ignores warnings
	@echo "documentation: site/index.html"

status: .venv/workflow/.complete
	@.venv/workflow/bin/python -m scripts.status

inspect: .venv/inspect/.complete

PORT ?= 6006
watch: .venv/watch/.complete
	@.venv/watch/bin/python -m scripts.watch --port $(PORT)

readme: .venv/workflow/.complete
	@.venv/workflow/bin/python -m scripts.write_results_pages

schema: .venv/workflow/.complete
	@.venv/workflow/bin/python -m scripts.write_schema

lint: .venv/workflow/.complete .venv/docs/.complete
	@.venv/docs/bin/pre-commit run --all-files

clean-results:
	rm -rf data models index runs synthesis traces scores judge n500 sampled results tracking identity logs benchmarks .snakemake  # not cache/: judge verdicts and web searches cost money

bench-aspo: .venv/rl/.complete
	@PYTHONPATH=tests .venv/rl/bin/python -m bench.aspo

bench-coverage: .venv/workflow/.complete
	@OMP_NUM_THREADS=1 .venv/workflow/bin/python -m bench.coverage

bench-graph: .venv/workflow/.complete
	@.venv/workflow/bin/python -m bench.graph

bench-kill: environments
	@$$(unshare -Urm true 2> /dev/null && echo unshare -Urm) .venv/workflow/bin/python -m bench.kill \
	  --kills $(or $(KILLS),20) --folder $(or $(FOLDER),/tmp/tir-kill) $(if $(STAGES),--stages $(STAGES))

bench-rl: environments
	@$(SNAKEMAKE) --profile $(PROFILE) --quiet all models/sft/manifest.json index/manifest.json data/rl_train.parquet \
	  data/validation.parquet data/system_prompt.txt
	@PYTHONPATH=tests .venv/rl/bin/python -m bench.rl

bench-scoring: .venv/rl/.complete
	@PYTHONPATH=tests .venv/rl/bin/python -m bench.scoring $(if $(QUICK),--quick)

bench-retrieval: .venv/rl/.complete
	@.venv/rl/bin/python -m bench.retrieval_scan $(if $(ROWS),--rows $(ROWS)) $(if $(VECTORS),--vectors $(VECTORS) --queries $(QUERIES))

bench-tools: .venv/rl/.complete
	@PYTHONPATH=tests .venv/rl/bin/python -m bench.tools $(if $(QUICK),--quick) $(if $(CORPUS),--corpus $(CORPUS))
