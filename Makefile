PYTHON ?= python3
BIN := .venv/bin

.PHONY: install test demo bench clean

install: .venv/.installed  ## the package, editable, with all extras, in .venv

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[sandbox,dev]'
	touch $@
