PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help demo test test-all check format bench docs release clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(READY) ## explain an image with the model in the package
	$(BIN)/eclip explain docs/images/elephant.jpg -t "an elephant" -t "a man" -t "a wall" -o demo
	@echo "look at demo/elephant.png"

PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: $(READY) ## run the tests without the long ones, one process per core, at most four
	$(PYTEST)

test-all: $(READY) ## run all tests, also those that take long: browsers, clusters, killed processes
	$(PYTEST) --all

check: $(READY) ## formatter, linter, strict types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY) ## fix what the formatter and the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY) ## cost of each method, in multiples of a bare encode_image
	$(BIN)/python benchmarks/cost.py

docs: $(READY) ## build the documentation site into site/
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "open site/index.html"

release: $(READY) ## build wheel and sdist into dist/, and use the wheel in a bare environment, offline
	$(BIN)/python tests/release.py

clean: ## remove the environment, the site, dist/ and the outputs of explain, compare and concepts
	rm -rf .venv dist site .docs-cache demo eclip-out eclip-compare eclip-concepts
