# Each target starts from a fresh clone and leaves a working .venv; a second call installs nothing.
# Another interpreter: make PYTHON=python3.12. A CPU build of torch, mirrors and the like: pip's own PIP_* variables.
PYTHON ?= python3
JOBS ?= 2
TRITON := triton==3.7.1
EXTRAS := pillow-heif==1.8.1 tensorboardX==2.6.5 faiss-cpu==1.15.1 pyarrow==26.0.1 \
  onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0 fastapi==0.165.0 uvicorn==0.54.0 python-multipart==0.0.34 httpx==0.28.1

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.requirements-installed

.PHONY: setup setup-extras demo test test-slow test-slow-share test-notebooks test-triton gpu lint bench ablation pretrain-demo pretrain-study finetune-demo finetune-study detect-demo clean
.DEFAULT_GOAL := setup

setup: $(STAMP)

$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	@test -x $(PY) || echo "Creating $(VENV) with $$($(PYTHON) -V)"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "Installing PyTorch and $$(grep -c == requirements.txt) packages into $(VENV): some minutes; about 2 GB, with CUDA several times that"
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@
	@echo "Done: start the programs with $(PY), as in $(PY) main.py --help, or from any folder with $(VENV)/bin/maskwise"

# Packages that few need and tests skip without; the extras of pyproject.toml.
setup-extras: setup
	$(PY) -m pip install --quiet --disable-pip-version-check $(EXTRAS)

demo: setup
	$(PY) main.py @experiments/recipes/demo.args

# One thread a process: JOBS processes of many threads each would fight over the cores. Each takes tests that follow one
# another, so that what a file prepares for its tests is prepared once, and what another has left when it has none.
# Bytecode is kept, whatever the environment says: tests start programs, and each would compile 50,000 lines again.
test: setup
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --dist worksteal

test-slow: setup
	$(PY) -m pytest -m "slow and not gpu"

# One slow test in eight, which ones HEAD decides; what has not begun after 13 minutes is skipped and said.
test-slow-share: setup
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(PY) -m pytest -m "slow and not gpu" --share 8 --minutes 13 -rs

# Both notebooks from end to end, on drawn faces.
test-notebooks: setup
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(PY) -m pytest -m slow tests/test_notebooks.py

# Kernels for CUDA in Triton's interpreter. Builds of torch for CUDA bring Triton; for the CPU it is 200 MB apart.
test-triton: setup
	$(PY) -m pip install --quiet --disable-pip-version-check $(TRITON)
	OMP_NUM_THREADS=1 $(PY) -m pytest tests/qaconv/test_triton_matches.py

# On a machine with a GPU and PyTorch, with nothing installed: PYTHON names its interpreter, DEVICE=cpu rehearses. PART
# is 1 (kernels, updates, tests), 2 (programs, networks), 3 (figures), at most 4 minutes each, or table (what they have found).
PART ?= 1
DEVICE ?= cuda
OUT ?= experiments/gpu
gpu:
	$(PYTHON) -m benchmarks.gpu --part $(PART) --device $(DEVICE) --out "$(OUT)"

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

bench: setup
	$(PY) -m benchmarks

# Two runs at a time; a finished one is passed over, so that this can be stopped and started again.
ablation: setup
	for seed in 1 2 3; do printf "$$seed %s\n" experiments/ablation/claims/*.args; done | \
	  OMP_NUM_THREADS=1 xargs -P 2 -L 1 sh -c \
	  'run=ablation-$$(basename $$1 .args)-$$0; ls experiments/$${run}_*/report/results.json >/dev/null 2>&1 || \
	  $(PY) main.py @$$1 --seed $$0 --prefix $$run --resume_from_checkpoint auto'
	$(PY) -m benchmarks.ablation

# One pretraining without labels, and what its encoder is worth beside an untrained one and beside pixels.
pretrain-demo: setup
	$(PY) main.py pretrain @experiments/recipes/moco_cpu.args --prefix pretrain-demo --resume_from_checkpoint auto
	$(PY) -m benchmarks.pretraining_study --demo pretrain-demo

# $(call train,STUDY,PART ...): what is unfinished of each part in turn, two runs at a time; it can be stopped and started.
train = mkdir -p experiments && for part in $(2); do \
	  $(PY) -m benchmarks.$(1) --list $$part >experiments/$$part.txt || exit; \
	  OMP_NUM_THREADS=1 xargs -r -P 2 -L 1 $(PY) main.py <experiments/$$part.txt || exit; \
	done

# Hours. Encoders first, then recognizers.
pretrain-study: setup
	$(call train,pretraining_study,pretraining fine-tuning)
	$(PY) -m benchmarks.pretraining_study

# A small network of drawn faces, tuned for a low resolution, beside itself before and one that learns from nothing.
finetune-demo: setup
	$(call train,finetuning_study,network demo)
	$(PY) -m benchmarks.finetuning_study --demo

# Hours. FACES: aligned crops of real people, EDGEFACE: weights of EdgeFace-XXS; without them drawn faces alone.
FACES ?=
EDGEFACE ?=
REAL = $(if $(FACES),--faces "$(FACES)" --weights "$(EDGEFACE)")
finetune-study: setup
	$(call train,finetuning_study $(REAL),real network synthetic mixture)
	$(PY) -m benchmarks.finetuning_study $(REAL)

# A detector trained on drawn scenes for a quarter of an hour, beside itself untrained and detectors of real faces.
detect-demo: setup
	$(PY) main.py detect train @experiments/recipes/detector_cpu.args --prefix detect-demo --resume_from_checkpoint auto
	$(PY) -m benchmarks.detection --demo detect-demo

# Runs stay: they are results.
clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
