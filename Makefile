# Needs python3 (3.11 or newer), make and a C compiler. Each target makes .venv if it is missing.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup test demo lint types clean

setup: .venv/.installed

.venv/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "nissl needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

test: lint types
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal

# Three quick experiments on simulated data, as three tracked runs.
DEMO := runs/demo-$(shell date +%Y-%m-%d_%H-%M-%S)
QUICK := calcium_quick graph_dino_quick ffn_quick
# What each is judged by, and what it is compared with.
SHOWN := stimulus/accuracy_lenient stimulus/majority zncc/sum \
  knn/balanced_accuracy knn_morphometrics/balanced_accuracy knn_untrained/balanced_accuracy gmm/ari \
  voi/sum voi_untrained/sum voi_one_segment/sum coverage erl/normalized

demo: setup
	set -e; for name in $(QUICK); do \
	  echo; echo "== $$name"; \
	  $(BIN)/python train.py experiment=$$name run_dir=$(DEMO)/$$name; \
	done
	@echo; $(BIN)/nissl compare $(DEMO) $(addprefix --metric ,$(SHOWN))
	@echo; echo "Reports (open in a browser):"; ls -1 $(CURDIR)/$(DEMO)/*/report.html
	@echo; echo "Dashboard: $(BIN)/nissl board"

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache build
