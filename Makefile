# Two commands do everything on a machine with Python 3.11, git and make: `make demo` and `make check`.
SHELL := bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PY := .venv/bin/python
SOURCES := pyproject.toml requirements.lock docker/install.sh
PYTEST_ARGS ?=
# Two halves of the suite at once. Many tests wait for something to happen, so two workers pay even where there are two cores.
WORKERS ?= 2
DATA ?=
ENCODER ?=
BENCH ?=
PEERS ?=
REHEARSAL ?= .make/rehearsal
SOAK_MINUTES ?= 30
SOAK_SEED ?= 1

# Nothing is downloaded and nobody is told: libraries we use would otherwise ask hubs and report usage.
export HF_HUB_OFFLINE := 1
export DO_NOT_TRACK := 1
export RAGAS_DO_NOT_TRACK := true
export NML_DISABLE_USAGE_LOGGING := 1
export PYTHON TORCH_PIP_ARGS

.PHONY: help demo check lint types rules test bench soak gpu-check bench-quality dashboards lock wheel compose-test rehearsal clean programs

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 16

demo: programs .venv/.installed-run  ## the daemon, Prometheus and Alertmanager on real data; Ctrl-C stops all
	$(PY) -m monitor.demo

check: programs lint types rules test  ## everything that must be green before a commit

lint: .venv/.installed-dev  ## ruff: rules and format
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: .venv/.installed-dev  ## mypy, strict
	$(PY) -m mypy

rules: programs  ## the Prometheus rules, their tests, the Alertmanager example
	promtool check rules rules/*.rules.yml
	promtool test rules rules/tests/*.yml
	amtool check-config rules/alertmanager.example.yml

# The tests of a file share fixtures, so they stay together, in the order in which they are found: the long ones come early.
test: programs .venv/.installed-dev  ## pytest, WORKERS=2 at once; PYTEST_ARGS="-k store -x", "-n0 --pdb"
	$(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

bench: .venv/.installed-dev  ## speed, figures to tests/bench/RESULTS.md; BENCH=names, PEERS=folder for other tools, DATA=folder
	$(PY) -m tests.bench $(BENCH) --write $(if $(PEERS),--peers $(PEERS)) $(if $(DATA),--data $(DATA))

soak: .venv/.installed-dev  ## the promises under faults for SOAK_MINUTES=30 with SOAK_SEED=1; report to tests/bench/RESULTS.md
	$(PY) -m tests.faults.soak --minutes $(SOAK_MINUTES) --seed $(SOAK_SEED) --write

gpu-check:  ## correctness and speed on a CUDA device, with whatever torch is there; DATA=folder ENCODER=folder
	$(PY) -m tests.bench.gpu --write $(if $(DATA),--data $(DATA)) $(if $(ENCODER),--encoder $(ENCODER))

bench-quality: .venv/.installed-dev  ## quality of the detectors on labelled data; DATA=folder
	$(PY) -m tests.bench.quality --write $(if $(DATA),--data $(DATA))

dashboards: .venv/.installed-run  ## writes dashboards/*.json
	$(PY) -m dashboards.build

lock:  ## requirements.lock from a fresh resolve
	docker/install.sh lock

wheel: .venv/.installed-run  ## dist/modelwatch-*.whl
	$(PY) -m pip wheel --quiet --no-deps --wheel-dir dist .
	@ls -l dist/*.whl

compose-test: .venv/.installed-run  ## image and compose file with Docker: a page, Grafana's dashboards, a restart
	$(PY) -m tests.image.compose

rehearsal: .venv/.installed-run  ## the same without an engine, in a chroot of Debian 12; as root; REHEARSAL="FOLDER --bind DIR"
	$(PY) -m tests.image.rehearse $(REHEARSAL)

clean:  ## what was built and cached; keeps .venv and stored data
	rm -rf build dist .make .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

programs:
	@docker/install.sh programs

# What the checks need contains what the demo needs, so a developer installs once.
.venv/.installed-dev: $(SOURCES)
	docker/install.sh dev
	touch .venv/.installed-run $@

.venv/.installed-run: $(SOURCES)
	docker/install.sh run
	touch $@
