# Two commands for a newcomer, on a machine that has Python 3.11 or newer and make:
#
#     make serve     the upper-case echo server, on tcp://127.0.0.1:9999
#     make test      all the tests
#
# Both make an environment in .venv first, once, and again when pyproject.toml changes.
#
#     make PYTHON=/path/to/python3.12 test      with this Python
#     make test ARGS='-k address -x'            arguments for pytest
#     make serve ARGS='-k thread -b :9999'      arguments for jackfield serve

PYTHON ?=
VENV ?= .venv
ARGS ?=
# Tests at a time, by pytest-xdist; 0 is one after the other.
JOBS ?= 2
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check --quiet
# Tests differ in length by a factor of a thousand: a worker that has nothing left takes from another's.
PYTEST = $(VENV)/bin/python -m pytest -n $(JOBS) --dist worksteal

# What stands on the reactor, whose hot loops there are twice, in C and in Python.
ON_THE_REACTOR = $(wildcard $(addprefix tests/,native reactor conformance cpython socketserver sync server modes door \
    test_adopt.py test_connecting.py test_differential.py test_redis.py test_testing.py))
# What of it test-pure leaves out.
LEAVE_OUT ?=

# The tests start some two hundred interpreters, and each would compile what it imports anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help serve test test-pure sanitized lint types layers install-check ci venv pythons clean

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile
	@echo "Also: make test-pure (without the part in C), sanitized (the part in C, watched), lint, types, layers, install-check, ci (all of it, on every Python here), pythons, clean."

serve: $(VENV)/.installed
	@exec $(VENV)/bin/jackfield serve $(or $(ARGS),-b tcp://127.0.0.1:9999)

test: $(VENV)/.installed-dev
	$(PYTEST) -o cache_dir=$(VENV)/.pytest_cache $(ARGS)

test-pure: $(VENV)/.installed-dev
	JACKFIELD_PURE=1 $(PYTEST) -o cache_dir=$(VENV)/.pytest_cache-pure $(filter-out $(LEAVE_OUT),$(ON_THE_REACTOR)) $(ARGS)

# The part in C built with the address and undefined-behaviour sanitizers, and what stands on it run on that.
sanitized: $(VENV)/.installed-dev
	tests/native/sanitized.sh $(VENV)/bin/python

lint: $(VENV)/.installed-dev
	$(VENV)/bin/python -m ruff check .

types: $(VENV)/.installed-dev
	$(VENV)/bin/python -m mypy --strict --cache-dir=$(VENV)/.mypy_cache

layers: $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest -q -o cache_dir=$(VENV)/.pytest_cache tests/test_layers.py

# A plain installation, not editable, where every compiler fails; then the command, from outside the checkout.
install-check: $(VENV)/.installed-dev
	@set -eu; scratch=$$(mktemp -d); trap 'rm -rf "$$scratch"' EXIT; \
	mkdir "$$scratch/source"; \
	for part in pyproject.toml setup.py MANIFEST.in native LICENSE README.md src; do [ ! -e $$part ] || cp -R $$part "$$scratch/source/"; done; \
	rm -rf "$$scratch"/source/src/*.egg-info; find "$$scratch/source" -name '*.so' -delete; \
	$(VENV)/bin/python -m venv "$$scratch/venv"; \
	CC=/bin/false CXX=/bin/false "$$scratch/venv/bin/python" -m pip --disable-pip-version-check --quiet \
	    install "$$scratch/source"; \
	cd "$$scratch/venv"; \
	bin/jackfield --version; \
	bin/python -I -m jackfield --version; \
	bin/python -I -c 'import jackfield, pathlib; package = pathlib.Path(jackfield.__file__).parent; \
	    assert (package / "py.typed").is_file(), "py.typed is not shipped"; \
	    assert "site-packages" in package.parts, package'

ci:
	.ci/run

venv: $(VENV)/.installed-dev

clean:
	rm -rf .venv .venv-* .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist src/*.egg-info
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
	find src -name '*.so' -delete

# --- the environment ---

# What Python must be able to do; it prints "3.13 /path/to/python": of an activated environment the Python behind it,
# since that environment may be the one to be made anew.  Without the GIL there is no greenlet.
PROBE = import ensurepip, os, sys, sysconfig, venv; \
    sys.exit(1) if sys.version_info < (3, 11) or sysconfig.get_config_var("Py_GIL_DISABLED") else \
    print("%d.%d %s" % (*sys.version_info[:2], os.path.realpath(getattr(sys, "_base_executable", sys.executable))))
export PROBE

# Every suitable Python, each minor version once, the best first: the versions that are tested, then newer ones.
# A name on PATH may be pyenv's shim for a version that is not switched on, so pyenv's own folder is looked at too.
define FIND_PYTHONS
seen=" "
for name in python3.13 python3.12 python3.11 python3 python; do
    case $$name in python3.*) folder="$${name#python}[.-]*" ;; *) folder="3.1[4-9]*" ;; esac
    for python in "$$(command -v $$name)" "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$$folder/bin/python3; do
        [ -x "$$python" ] || continue
        found=$$("$$python" -c "$$PROBE" 2>/dev/null) || continue
        case $$seen in *" $${found%% *} "*) continue ;; esac
        seen="$$seen$${found%% *} "
        echo "$$found"
    done
done
endef
export FIND_PYTHONS

pythons:
	@sh -c "$$FIND_PYTHONS"

# Another Python than the environment was made with, or one that is gone: make it anew.  (The text of the probe stands
# in the command, because make before 4.4 does not export variables to the shell function.)
ifeq ($(wildcard $(VENV)/bin/python),)
.PHONY: $(VENV)/.python
else ifneq ($(PYTHON),)
WANTED := $(shell $(PYTHON) -c '$(PROBE)' 2>/dev/null)
MADE_WITH := $(shell cat $(VENV)/.python 2>/dev/null)
ifneq ($(WANTED),$(MADE_WITH))
.PHONY: $(VENV)/.python
endif
endif

$(VENV)/.python:
	@set -eu; \
	if [ -n "$(PYTHON)" ]; then found=$$($(PYTHON) -c "$$PROBE" 2>/dev/null || true); else \
	    found=$$(sh -c "$$FIND_PYTHONS" | head -n 1); fi; \
	if [ -z "$$found" ]; then \
	    echo "jackfield needs Python 3.11 or newer with its venv module, and $(or $(PYTHON),this machine) has none:" \
	        "install it (Debian: apt-get install python3 python3-venv) or say make PYTHON=/path/to/python" >&2; \
	    exit 1; fi; \
	echo "Making $(VENV) with Python $$found"; \
	"$${found#* }" -m venv --clear $(VENV); \
	echo "$$found" >$@

$(VENV)/.installed: pyproject.toml $(wildcard setup.py native/*.[ch]) $(VENV)/.python
	@echo "Installing jackfield into $(VENV)"
	@$(PIP) install --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing what the tests need into $(VENV)"
	@$(PIP) install --editable '.[dev]'
	@touch $@
