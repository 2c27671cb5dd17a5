# Zero-to-Hero: `make demo` and `make test` on a fresh clone; `make help` lists the rest.
#
# Everything goes into $(VENV), made with $(PYTHON) (3.10 to 3.13). On Linux a plain torch from PyPI brings several
# gigabytes of CUDA libraries; without a GPU, fetch the CPU build instead:
#   make demo TORCH="torch --index-url https://download.pytorch.org/whl/cpu"
# TORCH counts when it is installed: once per environment, and again when pyproject.toml changes.

PYTHON ?= python3
VENV   ?= .venv
TORCH  ?= torch==2.13.0
DEMO   ?= demo
JOBS   ?= 2

py      := $(VENV)/bin/python
version := $(shell "$(PYTHON)" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
# One stamp per Python version: another PYTHON means another environment.
runtime := $(VENV)/.installed-$(version)-runtime
testing := $(VENV)/.installed-$(version)-testing

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench figures clean distclean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18
	@echo 'Settings: PYTHON=$(PYTHON) VENV=$(VENV) TORCH="$(TORCH)" DEMO=$(DEMO) JOBS=$(JOBS)'

demo: $(runtime) ## edit a rendered clip with the bundled tiny models, into demo/
	$(py) -m zero2hero_core demo --out "$(DEMO)" --overwrite

test: lint ## lint, type check and run all tests, JOBS at a time
	$(py) -m pytest -q -n $(JOBS)

lint: $(testing) ## ruff and mypy
	$(py) -m ruff check .
	$(py) tests/check_types.py

bench: $(runtime) ## speed of both stages against a straightforward rendering, memory of training; into benchmarks/
	$(py) -m zero2hero_core bench speed --out benchmarks --part zero hero --model tiny
	$(py) -m zero2hero_core bench memory --out benchmarks

figures: $(testing) ## bench, and the small suite of quality, which takes half an hour; into benchmarks/
	$(py) -m zero2hero_core bench quality --suite small --work runs/bench --out benchmarks
	$(MAKE) bench

clean: ## remove build outputs and caches
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -not -path "./$(VENV)/*" -prune -exec rm -rf {} +

distclean: clean ## also remove the environment
	rm -rf "$(VENV)"

# torch goes first and by itself: the package metadata has only a floor, so what is installed here stays.
$(runtime): pyproject.toml
	@case "$(version)" in \
	  3.10|3.11|3.12|3.13) ;; \
	  3.1[4-9]) echo "Python $(version) is not tested yet; if this fails, use make PYTHON=python3.13 ..." >&2 ;; \
	  '') echo "make: expected Python 3.10 to 3.13, but $(PYTHON) does not run; use make PYTHON=/path/to/python3 ..." >&2; exit 1 ;; \
	  *) echo "make: expected Python 3.10 to 3.13, got $(version) from $(PYTHON); use make PYTHON=/path/to/python3 ..." >&2; exit 1 ;; \
	esac
	@echo "Installing into $(VENV) (only when pyproject.toml changed; the first time takes a few minutes) ..."
	@$(py) -c 'import sys, pip; sys.exit("%d.%d" % sys.version_info[:2] != "$(version)")' 2>/dev/null \
	  || "$(PYTHON)" -m venv --clear "$(VENV)"
	$(py) -m pip install $(TORCH)
	$(py) -m pip install --editable '.[headless]'
	@touch "$@"

$(testing): $(runtime)
	$(py) -m pip install --editable '.[headless,test]'
	@touch "$@"
