# Every target calls scripts/setup.py, which also works without make (on Windows: python scripts/setup.py demo).
# ARGS go to the demo or to pytest, WITH adds extras:  make demo ARGS="--short"   make test-all WITH=oracle,dev

PYTHON ?= $(shell command -v python3 || command -v python)
ifeq ($(strip $(PYTHON)),)
$(error No python3 or python was found: install Python 3.11 or newer, or name it with PYTHON=...)
endif
SETUP = "$(PYTHON)" scripts/setup.py $(if $(WITH),--with $(WITH))

help:
	@"$(PYTHON)" scripts/setup.py --help

demo chat pipeline site test test-all lint doctor:
	@$(SETUP) $@ $(ARGS)

clean:
	rm -rf .venv build *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache .coverage htmlcov

.PHONY: help demo chat pipeline site test test-all lint doctor clean
