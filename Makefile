# Commands of a checkout; `make help` lists them. They need Linux, make and Python 3.11 to 3.13: the rest goes into .venv.

PYTHON = python3
VENV = .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check --no-input -q
# compiled before tests that start processes: their limits are for a run, not for a compiler
KERNELS = from gcdist.exchange.kernel_cache import warm_kernels as warm; from gcdist.quantize import get_quantizer as get; [warm(get(name)) for name in ('rotated-dither', 'bucket')]
PACKAGE = $(shell find gcdist -name __pycache__ -prune -o -print)  # folders too: they change when a file goes

# scripts and processes import the installed gcdist, never the folder that they are started in
export PYTHONSAFEPATH = 1

.DEFAULT_GOAL = help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo test test-slow cases test-cluster lint format types docs docs-serve check bench-kernels bench-links bench-overhead bench-partitions bench-planes bench-hosts bench-what-if bench-papers bench-allocation bench-planner bench-chaos bench-simulator bench-many bench-processes bench-coco bench-quick bench-full cluster-demo dist clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/gcdist ## train the embedded task with 1 master and 8 workers, two minutes (installs into .venv first)
	OMP_NUM_THREADS=1 $(BIN)/torchrun --standalone --nproc-per-node=9 --no-python $(BIN)/gcdist train examples/digits.toml

JOBS ?= 2

test: $(VENV)/dev $(VENV)/gcdist ## the tests, on the installed wheel, two side by side (ARGS="-k link" for some, JOBS=0: one)
	$(BIN)/python -c "$(KERNELS)"
	GCDIST_TEST_INSTALLED=1 $(BIN)/pytest -n $(JOBS) $(ARGS)

test-slow: $(VENV)/dev $(VENV)/gcdist ## the tests that take minutes each
	GCDIST_TEST_INSTALLED=1 $(BIN)/pytest -m slow $(ARGS)

TRACES ?= ../shared/data/traces

bench-quick: $(VENV)/dev $(VENV)/gcdist ## wall clock of DDP, waiting for all and coding, in under five minutes
	$(BIN)/gcdist bench wallclock --schemes ddp,sync,auto --delays none,exponential --seeds 2 --fixed-samples --out runs/bench-quick $(ARGS)

# torchft and hivemind where they are installed (pip install '.[peers]' into .venv; make bench-full PEERS= leaves them out)
PEERS = $(shell $(BIN)/python -c 'from importlib.util import find_spec as f; print(*(n + "," for n in ("torchft", "hivemind") if f(n)), sep="")' 2>/dev/null)
# of the benchmark in full: who meets every kind of delays, partitions that differ, thin links (root, ip and tc), more workers
FEW = ddp,$(PEERS)sync,ignore-rescaled,memory,frc,erasurehead,osgc,partial,joint-auto,auto,shifted-auto
DIFFER = ddp,sync,ignore,memory,frc,erasurehead,partial-memory,auto,shifted-auto
SQUARES = ddp,sync,memory,frc,partial-memory,auto,shifted-auto
THIN = ddp,ddp-bf16,ddp-powersgd,sync,sync-4bit,auto
SIZES = ddp,sync,ignore-rescaled,auto
RECORDED = trace:$(TRACES)/alibaba-pai-2020-job1.csv,pareto,trace:$(TRACES)/alibaba-pai-2020-job4.csv
WALLCLOCK = $(BIN)/gcdist bench wallclock

bench-full: $(VENV)/dev $(VENV)/gcdist ## benchmarks/RESULTS.md anew, some hours (tuning takes most of them); goes on where it stopped; each command says its cost before its runs
	$(WALLCLOCK) --schemes $(FEW) --delays spells,dead,$(RECORDED) --out runs/w8 $(ARGS)
	$(WALLCLOCK) --schemes $(THIN) --delays network --out runs/w8 $(ARGS)
	$(WALLCLOCK) --schemes all --delays none,exponential --out runs/w8 $(ARGS)
	$(WALLCLOCK) --problem logistic --schemes $(DIFFER) --delays exponential --out runs/w8 $(ARGS)
	$(WALLCLOCK) --problem least-squares --schemes $(SQUARES) --delays exponential --out runs/w8 $(ARGS)
	$(WALLCLOCK) --schemes $(SIZES) --delays exponential --workers 12 --out runs/w12 $(ARGS)
	$(BIN)/gcdist bench report runs/w8 runs/w12 --page benchmarks/RESULTS.md --pictures benchmarks/img

cases: $(VENV)/dev $(VENV)/gcdist ## every failing input of ../shared/cases, and whether it ends as its README expects
	$(BIN)/python tests/cases.py $(ARGS)

test-cluster: $(VENV)/dev $(VENV)/gcdist ## seven hosts made of network namespaces (needs root, ip, tc and nft)
	GCDIST_TEST_INSTALLED=1 $(BIN)/pytest -m cluster tests/cluster $(ARGS)

lint: $(VENV)/dev ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/dev ## ruff: mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/dev ## mypy, strict, on source and tests
	$(BIN)/mypy

docs: $(VENV)/docs $(VENV)/gcdist ## the site in build/site; a broken link, a missing name or any other warning fails
	$(BIN)/sphinx-build --fail-on-warning --nitpicky --keep-going --fresh-env --quiet -d build/doctrees -c docs/site . build/site
	@echo "built: build/site/index.html"

docs-serve: docs ## the same, shown at http://127.0.0.1:8000 (PORT=9000 for another port)
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory build/site $(or $(PORT),8000)

check: lint types docs test ## what CI runs

bench-kernels: $(VENV)/dev $(VENV)/gcdist ## quantizers against a memory copy and plain torch, one thread (ARGS=--json)
	$(BIN)/python benchmarks/kernels.py $(ARGS)

bench-links: $(VENV)/dev $(VENV)/gcdist ## throughput and round trip of a link against a plain socket
	$(BIN)/python benchmarks/links.py $(ARGS)

bench-overhead: $(VENV)/dev $(VENV)/gcdist ## time of a step against DistributedDataParallel's, ten minutes (ARGS=--quick: two)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/overhead.py $(ARGS)

bench-hosts: $(VENV)/dev $(VENV)/gcdist ## time of a step of 11 million parameters on 4 hosts with 100 Mbit/s, against DDP's (root, ip and tc)
	$(BIN)/python benchmarks/hosts.py $(ARGS)

bench-partitions: $(VENV)/dev $(VENV)/gcdist ## processor time of one more partition in a row
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/partitions.py $(ARGS)

bench-planes: $(VENV)/dev $(VENV)/gcdist ## time of a step over TLS against gloo (ARGS="--sizes 1e6 --blocks 5")
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/planes.py $(ARGS)

bench-what-if: $(VENV)/dev $(VENV)/gcdist ## what-if against real runs with the changed settings, ten minutes (ARGS="--seeds 0 1")
	$(BIN)/python benchmarks/what_if.py $(ARGS)

bench-papers: $(VENV)/dev $(VENV)/gcdist ## the papers' comparison at the papers' quantizer, virtual clock; goes on where it stopped
	mkdir -p runs
	$(BIN)/python benchmarks/papers.py --json runs/papers.json --plot runs/papers.png $(ARGS)

bench-allocation: $(VENV)/dev $(VENV)/gcdist ## noise of allocated bits beside equal, selected and greedy ones
	$(BIN)/python benchmarks/allocation.py $(ARGS)

bench-planner: $(VENV)/dev $(VENV)/gcdist ## seconds of the planner by number of workers (ARGS="--plot planner.png")
	$(BIN)/python benchmarks/planner.py $(ARGS)

bench-chaos: $(VENV)/dev $(VENV)/gcdist ## the demo with workers killed every 5 s, 6 minutes (ENDS=1: stops, hang-ups, full disks, 10 minutes)
	$(BIN)/python benchmarks/chaos$(if $(ENDS),_ends).py $(ARGS)

bench-simulator: $(VENV)/dev $(VENV)/gcdist ## seconds and memory of a simulated step by number of workers, four minutes
	$(BIN)/python benchmarks/simulator.py $(ARGS)

bench-many: $(VENV)/dev $(VENV)/gcdist ## 8 to 10,000 workers, local data and churn on a virtual clock; goes on where it stopped
	$(BIN)/python benchmarks/many_workers.py $(ARGS)

bench-processes: $(VENV)/dev $(VENV)/gcdist ## real workers by the dozen on this machine: start, step, memory, five minutes
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/many_processes.py $(ARGS)

bench-coco: $(VENV)/dev $(VENV)/gcdist ## the papers' experiment on COCO, 50 workers on a virtual clock (ARGS="--steps 100 --jobs 2")
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/coco.py study $(ARGS)

cluster-demo: $(VENV)/gcdist ## the demo on seven hosts made of network namespaces, over ssh (needs root, ip, tc, OpenSSH)
	$(BIN)/python benchmarks/cluster_demo.py $(ARGS)

DIST = .venv-dist

dist: $(VENV)/dev ## wheel and sdist in dist/, checked, the wheel tried in a new environment (docs/releasing.md)
	rm -rf dist $(DIST)
	$(BIN)/hatchling build
	$(PYTHON) -m venv $(DIST)/twine
	$(DIST)/twine/bin/python -m pip --disable-pip-version-check --no-input -q install twine
	$(DIST)/twine/bin/twine check --strict dist/*
	$(PYTHON) -m venv $(DIST)/new
	$(DIST)/new/bin/python -m pip --disable-pip-version-check --no-input -q install -c constraints.txt dist/*.whl
	$(DIST)/new/bin/python -m pip check
	$(DIST)/new/bin/python -m gcdist --version
	$(DIST)/new/bin/gcdist simulate examples/digits.toml --set steps=3 --set summary.sync_check_steps=0 --set out=$(DIST)/runs

clean: ## remove .venv and everything that was built; runs/ stays
	rm -rf .venv $(DIST) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- installation: each file marks a step that is done ---

$(VENV)/dependencies: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; \
	  (3, 11) <= v <= (3, 13) or sys.exit("gcdist needs Python 3.11, 3.12 or 3.13; $(PYTHON) is %d.%d: give another with make PYTHON=..." % v)'
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@echo "installing pinned packages into $(VENV) (PyTorch is large: some minutes)"
	@$(PIP) install -c constraints.txt hatchling
	@$(PIP) install -c constraints.txt --no-build-isolation .
	@touch $@

$(VENV)/dev: $(VENV)/dependencies
	@echo "installing the pinned development tools into $(VENV)"
	@$(PIP) install -c constraints.txt --no-build-isolation '.[dev]'
	@touch $@

$(VENV)/docs: $(VENV)/dependencies
	@echo "installing the pinned tools of the docs site into $(VENV)"
	@$(PIP) install -c constraints.txt --no-build-isolation '.[docs]'
	@touch $@

$(VENV)/gcdist: $(VENV)/dependencies $(PACKAGE) README.md LICENSE
	@rm -rf dist
	@$(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .
	@$(PIP) install --no-deps --force-reinstall dist/*.whl
	@touch $@
