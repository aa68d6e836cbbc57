# Sets up .venv on first use, then hands every target under results/ to Snakemake.
#   make results/quant_config.json          the main job
#   make results/quick/quant_config.json    the same in a minute or two, with config/quick.yaml
#   make results/ANY_TARGET CORES=2         wider
#   make venv CUDA=13                       MLX for NVIDIA GPUs (CUDA 12 or 13) on Linux, in place of that for CPUs
PYTHON ?= python3
CORES ?= 1
CUDA ?=
BACKEND := $(if $(CUDA),cuda$(CUDA),cpu)
BIN := .venv/bin
READY := .venv/installed
DOCS_READY := .venv-docs/installed
MFLUX_READY := .venv-mflux/installed
SNAKEMAKE := $(BIN)/python -m snakemake --cores $(CORES)

.DEFAULT_GOAL := results/quant_config.json
.PHONY: venv test kernels mflux lint format docs bench bench-gpu scale faults slurm everything FORCE
# Otherwise an interrupted make deletes its target, finished or not.
.PRECIOUS: results/quick/% results/%

results/quick/%: $(READY) FORCE
	$(SNAKEMAKE) "$@" --configfile config/quick.yaml

results/%: $(READY) FORCE
	$(SNAKEMAKE) "$@"

# All tests except the longest; with these: make test MARKS=
MARKS := not whole
test: $(READY)
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder -m "$(MARKS)"

# The short tests of modules that compute matrix products, under the BLAS kernels of other CPUs: OpenBLAS rounds differently on
# each family. Those of this machine are left out, as `make test` runs with them.
OTHER_KERNELS := Haswell Nehalem
PRODUCTS := mmdit reconstruction numerics/test_distribution.py numerics/test_elementwise.py numerics/test_gptq.py \
	numerics/test_weight_grid.py quantization/test_collect_activations.py workflow_scripts/prepare/test_encode_prompts.py \
	workflow_scripts/trajectories
kernels: $(READY)
	set -e; own=$$($(BIN)/python -c 'from taqmlx.runtime import versions; print(versions.name_kernels())'); \
	for kernels in $(OTHER_KERNELS); do \
	    if [ "$$kernels" = "$$own" ]; then continue; fi; \
	    echo "BLAS kernels: $$kernels"; \
	    OPENBLAS_CORETYPE=$$kernels $(BIN)/python -m pytest --numprocesses=2 --dist=loadfile -m "not slow and not whole" \
	        $(addprefix tests/,$(PRODUCTS)); \
	done

# mflux, from PyPI in its own environment, loads and runs a miniature FLUX.1-schnell that the workflow quantized.
mflux: $(READY) $(MFLUX_READY)
	$(BIN)/python -m pytest tests/mflux -rs

lint: $(READY)
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy
	$(BIN)/snakefmt --check Snakefile rules workflow
	$(SNAKEMAKE) --lint

format: $(READY)
	$(BIN)/python -m ruff format .
	$(BIN)/python -m ruff check --fix .
	$(BIN)/snakefmt Snakefile rules workflow

# The site of the documents, in build/site; a broken link is an error. MkDocs has its own environment.
docs: $(DOCS_READY)
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/python -m mkdocs build

bench: $(READY)
	$(BIN)/python -m tools.benchmarks

# On a machine with an NVIDIA or an Apple GPU, from a fresh clone: make bench-gpu CUDA=13
bench-gpu: $(READY)
	$(BIN)/python -m tools.benchmarks.gpu

# An hour and 3 GB of disk: 1,000, 3,000 and 10,000 prompts with a free denoiser
scale: $(READY)
	$(BIN)/python -m tools.benchmarks.scale

# Hours: all campaigns in full. A shorter one: .venv/bin/python -m tools.faults kills --count 40
faults: $(READY)
	$(BIN)/python -m tools.faults

# A quarter of an hour: starts a one-node Slurm from Debian's packages, which needs root, and stops it again.
slurm: $(READY)
	SLURM_TESTS=1 $(BIN)/python -m pytest tests/tools/slurm -rs

# Half an hour: makes every target at a small scale, then damages every kind of file.
everything: $(READY)
	EVERYTHING_TESTS=1 $(BIN)/python -m pytest tests/workflow/test_every_file.py -rs

venv: $(READY)

# DiffusionKit requires an MLX without a Linux build and packages that are not needed here: its dependencies are left out.
$(READY): requirements.txt pyproject.toml $(wildcard taqmlx/numerics/fused.py)
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else "Python 3.11 to 3.13 is needed; name one with: make PYTHON=python3.11 ...")'
	@case "$(BACKEND)" in cpu | cuda12 | cuda13) ;; *) echo "CUDA=$(CUDA): MLX has packages for CUDA 12 and 13" >&2; exit 1 ;; esac
	$(PYTHON) -m venv .venv
	sed 's/^mlx\[cpu\]/mlx[$(BACKEND)]/' requirements.txt > .venv/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r .venv/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps diffusionkit==0.5.2
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	$(BIN)/python -m workflow_scripts.tools.install_blas
	$(BIN)/python -m workflow_scripts.tools.install_loops
	@touch $@

# As with DiffusionKit: on Linux, mflux requires MLX with CUDA and packages that only other models need.
$(MFLUX_READY): tools/mflux/requirements.txt
	$(PYTHON) -m venv .venv-mflux
	.venv-mflux/bin/python -m pip install --quiet --disable-pip-version-check -r tools/mflux/requirements.txt
	.venv-mflux/bin/python -m pip install --quiet --disable-pip-version-check --no-deps mflux==0.24.0
	@touch $@

$(DOCS_READY): docs/site/requirements.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check -r docs/site/requirements.txt
	@touch $@

FORCE:
