# make demo   the whole study at laptop scale: results/table5.csv, figures, report
# make test   the tests
# make cluster  the graph and its faults on a real Slurm with images (needs TIR_CLUSTER=DIR, root, Debian 12)
# make bench-tools  sandbox, retrieval and rollout loop, each beside what it is compared with (bench-aspo, bench-graph: the others)
# make plan   what the paper's scale would run, without a cluster, GPU or container tool

PYTHON ?= python3
PROFILE ?= profiles/laptop
TARGETS ?= all
# CPU builds of torch: an index of wheels, unless this site already has a folder or index of its own.
TORCH_INDEX ?= $(if $(PIP_FIND_LINKS),,https://download.pytorch.org/whl/cpu)

VENVS := workflow sft rl
UV := .venv/uv/bin/uv
SNAKEMAKE := .venv/workflow/bin/snakemake
# Compiled once here, not by every job: importing torch and transformers is three times as fast where nothing is written.
INSTALL_FLAGS := --compile-bytecode --require-hashes --no-deps $(if $(PIP_FIND_LINKS),--find-links $(PIP_FIND_LINKS)) \
	$(if $(TORCH_INDEX),--index $(TORCH_INDEX) --index-strategy unsafe-best-match)
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
ifeq ($(strip $(UV_DEFAULT_INDEX)),)
unexport UV_DEFAULT_INDEX
endif
export PYTHONNOUSERSITE = 1

.PHONY: demo test cluster plan environments machine lint lock clean-results bench-aspo bench-graph bench-tools

demo: environments
	@$(SNAKEMAKE) --profile $(PROFILE) $(TARGETS)
	@$(if $(filter all,$(TARGETS)),$(SNAKEMAKE) --profile $(PROFILE) --report results/report.html --quiet all)
	@.venv/workflow/bin/python -m scripts.show_results

test: environments
	.venv/rl/bin/python -m pytest $(PYTEST_ARGS)

cluster: environments
	.venv/rl/bin/python -m pytest tests/cluster --durations 0 $(PYTEST_ARGS)

plan: .venv/workflow/.complete
	$(SNAKEMAKE) --profile slurm -n results/table5.csv

environments: machine $(VENVS:%=.venv/%/.complete)

machine:
	@$(PYTHON) scripts/check_machine.py

$(UV):
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v != (3, 11) and f"Python {v[0]}.{v[1]} found; the locks in envs/ are for 3.11.\n  try: make $(MAKECMDGOALS) PYTHON=python3.11")'
	@$(PYTHON) -m venv .venv/uv || { echo "python3-venv is missing.  try: apt-get install python3-venv"; exit 1; }
	@.venv/uv/bin/pip install -q uv==0.13.9

.venv/%/.complete: envs/cpu/%.txt | $(UV)
	@echo "environment: $*"
	@rm -rf .venv/$* && $(UV) -q venv --seed --python $(PYTHON) .venv/$*
	@$(UV) -q pip install --python .venv/$*/bin/python $(INSTALL_FLAGS) -r $<
	@case $* in \
	rl) $(UV) -q pip install --python .venv/rl/bin/python --no-deps --no-build-isolation ./envs/shims/vllm ;; \
	sft) $(UV) -q pip install --python .venv/sft/bin/python --no-deps --no-build-isolation ./envs/shims/torchaudio ;; \
	esac
	@touch $@

# Resolve envs/*.in anew into hashed locks.
lock: | $(UV)
	@for name in $(VENVS); do \
	  $(UV) -q pip compile envs/cpu/$$name.in -o envs/cpu/$$name.txt --generate-hashes --no-header --no-annotate \
	    $$(test -f envs/cpu/$$name.overrides && echo --override envs/cpu/$$name.overrides) \
	    $(if $(PIP_FIND_LINKS),--find-links $(PIP_FIND_LINKS)) $(if $(TORCH_INDEX),--index $(TORCH_INDEX)) \
	    --no-emit-find-links --no-emit-index-url --python-version 3.11 --python-platform x86_64-manylinux_2_28 || exit 1; \
	done

lint: environments
	.venv/workflow/bin/ruff check .
	.venv/workflow/bin/snakefmt --check Snakefile rules

clean-results:
	rm -rf data models index runs traces scores judge n500 results logs benchmarks .snakemake  # cache/ keeps what was paid for: verdicts, searches

bench-aspo: .venv/rl/.complete
	@PYTHONPATH=tests .venv/rl/bin/python -m bench.aspo

bench-graph: .venv/workflow/.complete
	@.venv/workflow/bin/python -m bench.graph

bench-tools: .venv/rl/.complete
	@PYTHONPATH=tests .venv/rl/bin/python -m bench.tools $(if $(QUICK),--quick) $(if $(CORPUS),--corpus $(CORPUS))
