# The two commands are `make run` and `make test`; everything they need goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export JUPYTER_PREFER_ENV_PATH := 1

.PHONY: run style check test test-fast traps lab notebooks bench lock clean

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name it with: make PYTHON=python3.11 ..."; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--no-build-isolation --editable .
	@touch $@

run: $(STAMP)
	$(BIN)/glacier sample
	$(BIN)/glacier run

style: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

# The same checks run before a commit with pre-commit, see CONTRIBUTING.md.
check: style
	$(BIN)/mypy

# mypy is one of the tests, so that it runs beside the others.
test: style
	$(BIN)/python -m pytest tests notebooks --nbval --nbval-current-env --nbval-cell-timeout=1800 \
		--numprocesses=auto --maxprocesses=4 --no-loadscope-reorder --cov --cov-report=term

# Less than three minutes on two cores: without the notebooks, real imagery and whatever takes long.
test-fast: $(STAMP)
	$(BIN)/ruff check .
	GLACIER_REAL_DATA= $(BIN)/python -m pytest tests -m "not slow" --hypothesis-profile=fast \
		--numprocesses=auto --maxprocesses=4

# Inputs that go wrong elsewhere, and what becomes of them here: writes tests/traps/TABLE.md, and the
# table of docs/nothing_lost.md.
traps: $(STAMP)
	WRITE_TRAPS=1 $(BIN)/python -m pytest tests/traps --deselect tests/traps/test_table.py
	$(BIN)/python tests/test_nothing_lost_table.py

lab: $(STAMP)
	$(BIN)/jupyter lab notebooks

# Execute the notebooks in place, so that the committed copies carry the default run's outputs.
notebooks: $(STAMP)
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace \
		--KernelManager.transport_encryption=auto --ExecutePreprocessor.record_timing=False \
		--ExecutePreprocessor.timeout=1800 notebooks/0*.ipynb
	@# A progress bar is one line overwritten many times: keep what it came to.
	$(BIN)/jupyter nbconvert --to notebook --inplace \
		--CoalesceStreamsPreprocessor.enabled=True notebooks/0*.ipynb

bench: $(STAMP)
	$(BIN)/python -m benchmarks

# Write requirements.lock anew from what is installed (after changing pyproject.toml).
lock: $(STAMP)
	$(BIN)/python tools/lock.py > requirements.lock.new && mv requirements.lock.new requirements.lock

clean:
	rm -rf $(VENV) reports/default data/sample
