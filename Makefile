# Works with GNU make 3.81 (macOS) and later. Without make: see README.md.
PYTHON ?= python3
NB ?=
PY = .venv/bin/python
# Idle threads yield their core: on a shared machine spinning ones make everything several times slower.
export OMP_WAIT_POLICY = passive

.DEFAULT_GOAL := help
.PHONY: help run test test-more lab notebooks bench clean moved

help:
	@echo 'make run        execute the notebooks into build/ and write pages (one alone: make run NB=04)'
	@echo 'make test       test the helpers, then execute the notebooks'
	@echo 'make test-more  execute them with another seed and with tiny models of four families (half an hour)'
	@echo 'make lab        open JupyterLab in notebooks/'
	@echo 'make notebooks  execute the notebooks in place (one alone: make notebooks NB=04)'
	@echo 'make bench      compare the helpers with other libraries'
	@echo 'make clean      delete build/ (the environments and the model cache stay)'

run: .venv/.installed
	@$(PY) -m helpers run $(NB)

test: .venv/.installed
	@$(PY) -m helpers.models
	@$(PY) -m pytest

test-more: .venv/.installed
	@$(PY) -m helpers.models
	@$(PY) -m pytest -m more -s

lab: .venv/.installed
	@cd notebooks && ../$(PY) -m jupyterlab

notebooks: .venv/.installed
	@$(PY) -m helpers notebooks $(NB)

bench: .venv-bench/.installed
	@.venv-bench/bin/python -m helpers.models
	@.venv-bench/bin/python tests/benchmarks

clean:
	rm -rf build

# $(call set-up,folder,requirement files). The stamp is written last and holds the project's place.
# An environment whose set-up was interrupted (.installing is there), that was made in another
# place or that has lost its Python is made anew; any other is completed, so that an environment
# made by hand keeps its packages. (bin goes first, so that half a deletion shows as well.)
# One make at a time: the lock is on this file and belongs to the shell and all that it starts, so
# it ends with the last of them. Whoever waited finds the work done.
define set-up
@exec 9<Makefile; \
usable() { $(1)/bin/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }; \
locker=$(1)/bin/python; if $(PYTHON) -c 0 2>/dev/null; then locker='$(PYTHON)'; fi; \
if ! $$locker -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)' 2>/dev/null; then \
	echo 'Another make is setting up an environment here; waiting for it to end.'; \
	$$locker -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)' 2>/dev/null; \
fi; \
if test "`cat $(1)/.installed 2>/dev/null`" = "$(CURDIR)" && usable \
	&& test -z "`find $(filter-out moved,$^) -newer $(1)/.installed`"; then exit 0; fi; \
if test -e $(1)/.installing \
	|| { test -e $(1)/.installed && test "`cat $(1)/.installed`" != "$(CURDIR)"; } \
	|| ! usable; then \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo 'Python 3.11 or newer is needed, and $(PYTHON) is not; name another: make PYTHON=python3.12' >&2; \
		exit 1; }; \
	rm -rf $(1)/bin $(1) && mkdir $(1) && touch $(1)/.installing && $(PYTHON) -m venv $(1) || exit 1; \
fi; \
touch $(1)/.installing && rm -f $(1)/.installed || exit 1; \
echo 'pip install $(2)'; \
$(1)/bin/python -m pip install --disable-pip-version-check $(2) || exit 1; \
echo "$(CURDIR)" > $(1)/.installed && rm $(1)/.installing
endef

.venv/.installed: requirements.txt pyproject.toml
	$(call set-up,.venv,-r requirements.txt)

.venv-bench/.installed: requirements.txt requirements-bench.txt pyproject.toml
	$(call set-up,.venv-bench,-r requirements.txt -r requirements-bench.txt)

# A project folder that was copied or moved, or whose environments have lost their Python (an
# upgraded system), needs them made anew.
place = $(shell $(1)/bin/python -c 'import pip' 2>/dev/null && cat $(1)/.installed 2>/dev/null)
ifneq "$(call place,.venv)" "$(CURDIR)"
.venv/.installed: moved
endif
ifneq "$(call place,.venv-bench)" "$(CURDIR)"
.venv-bench/.installed: moved
endif
