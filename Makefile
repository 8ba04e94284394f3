PYTHON ?= python3
BIN := .venv/bin
# More than cores: much of the time the tests wait.
WORKERS ?= 5
# Where Python is told to keep no bytecode, each process of the tests would compile all of it anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install demo test test-lowest test-browser screenshots lint docs bench chaos test-matrix e2e-celery dist clean

install: .venv/.installed  ## the package, editable, with all extras, in .venv

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'Python 3.11 or later is needed: make PYTHON=python3.11 ...'; exit 1; }
	@echo 'Installing into .venv: a few minutes the first time'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[sandbox,gallery,dev,docs]'
	@touch $@

demo: install  ## the quickstart DAG in a real Airflow; free, unless AISA_API_KEY is set; KEEP=1 leaves it running
	@$(BIN)/python -m tools.demo $(if $(KEEP),--keep)

test: lint  ## all tests in parallel; COVERAGE=1 measures what they reach, and takes a quarter longer
	@$(if $(COVERAGE),$(BIN)/coverage erase)
	$(BIN)/$(if $(COVERAGE),coverage run,python) -m pytest -n $(WORKERS)
	@$(if $(COVERAGE),$(BIN)/coverage combine -q && $(BIN)/coverage report)

# The dependencies at their floors, the tools for tests as new as these allow. 'uv' resolves to the lowest.
LOWEST := .venv-lowest
# Not the gallery, the documents and the SDKs of others, which need newer versions.
OF_FLOORS := $(addprefix tests/,core decorators fakes hooks operators paying triggers test_labels.py test_lineage.py \
	test_links.py test_public.py) --ignore tests/operators/test_secrets.py

test-lowest: $(LOWEST)/.installed  ## what depends on others, with the lowest versions that pyproject.toml allows
	$(LOWEST)/bin/python -m pytest -q -n $(WORKERS) -o filterwarnings=default --disable-warnings $(OF_FLOORS)

$(LOWEST)/.installed: pyproject.toml
	@echo 'Installing the lowest versions into $(LOWEST): a few minutes the first time'
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST) --resolution lowest-direct -e '.[sandbox]'
	$(LOWEST)/bin/uv pip freeze --quiet --python $(LOWEST) --exclude-editable > $(LOWEST)/lowest.txt
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST) -c $(LOWEST)/lowest.txt -e '.[sandbox,dev]'
	@touch $@

lint: install  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test-browser: install  ## Airflow's pages in a headless Chromium, which has to be there (Debian: chromium)
	$(BIN)/python -m pytest tests/browser

screenshots: install  ## what the same tests see, in build/screenshots; those that docs/images has are renewed
	SCREENSHOTS=$(CURDIR)/build/screenshots $(BIN)/python -m pytest tests/browser
	for picture in docs/images/*.png; do cp build/screenshots/$${picture##*/} $$picture || exit; done

docs: install  ## the docs as a site in build/site; a warning is an error
	@$(BIN)/python -m tools.docs

bench: install  ## the benchmarks; what they measure: benchmarks/
	$(BIN)/python -m benchmarks

chaos: install  ## 350 workers killed at random; fails when an image is lost or paid for twice needlessly
	$(BIN)/python -m tests.crash

test-matrix: install  ## every series of Airflow, each in an environment of its own in .matrix; SERIES="3.0.6 3.2.2" for some
	$(BIN)/python -m tools.matrix $(SERIES)

e2e-celery: install  ## a fleet of Celery workers whose parts are killed; needs Debian's postgresql and redis-server
	$(BIN)/python -m tools.fleet

dist: install  ## sdist and wheel in dist/, tried out in an empty environment
	$(BIN)/python -m tools.dist

clean:  ## caches and leftovers; .venv stays, and so does demo-images, which may be paid for
	rm -rf .demo .cache build dist .coverage* .hypothesis .schemathesis .mypy_cache .pytest_cache .ruff_cache
	find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
