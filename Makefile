# Every target sets up what it needs. PYTHON chooses the interpreter for the environment: 3.11 or newer.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
RECIPE := recipes/emoji_styles
SHELL := bash
# One thread a process: the two runs of the demo take a core each, and two threads on a core that is busy can be several
# times slower than one
G4I := OMP_NUM_THREADS=1 $(BIN)/g4i
TRAIN := $(G4I) train --disable_tqdm true

.PHONY: venv demo caption-demo hub-demo docs test test-slow test-minimum browser lint clean

venv: $(VENV)/.test

# `.venv/.demo` is there when the extra `demo` is, and so on
$(VENV)/.demo $(VENV)/.test $(VENV)/.lint: $(VENV)/.%: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, found " + sys.version.split()[0] + ": make PYTHON=...") if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing g4i_hf and what '$*' needs into $(VENV) (some minutes the first time)"
	$(BIN)/python -m pip install --quiet -e '.[$*]'
	@touch $@

demo: $(VENV)/.demo
	$(G4I) embed --config $(RECIPE)/embed.yaml
	@echo "Training the baseline and the aligned student side by side; a line an epoch"
	@(set -o pipefail; $(TRAIN) --config $(RECIPE)/baseline.yaml 2>&1 | sed -u 's/^/baseline  /') & baseline=$$!; \
	(set -o pipefail; $(TRAIN) --config $(RECIPE)/train.yaml 2>&1 | sed -u 's/^/aligned   /') & aligned=$$!; \
	wait $$baseline && wait $$aligned
	$(G4I) evaluate --config $(RECIPE)/evaluate.yaml
	$(G4I) release --config $(RECIPE)/release.yaml
	$(if $(findstring emoji_styles,$(RECIPE)),@$(BIN)/python benchmarks/demo_over_seeds.py)

# Images without captions: described by the small model that the recipe brings, then as in `demo`
caption-demo: $(VENV)/.demo
	$(G4I) caption --config recipes/shapes/caption.yaml
	$(MAKE) --no-print-directory demo RECIPE=recipes/shapes

# To the Hub and back, against the server of the tests on this machine
hub-demo: $(VENV)/.demo
	$(BIN)/python tests/hub_demo.py

# The documentation, site/index.html; a link that leads nowhere is an error
docs: venv
	$(BIN)/python docs/build.py build/docs
	$(BIN)/zensical build --strict --config-file mkdocs.yml

lint: venv $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tests/prose.py
	$(BIN)/mypy

test: lint docs
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: venv browser
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile --no-loadscope-reorder

# The fast tests with the lowest version of everything that setup.cfg admits, in an environment of their own
test-minimum:
	@test -x .venv-minimum/bin/python || $(PYTHON) -m venv .venv-minimum
	.venv-minimum/bin/python tests/minimum_versions.py setup.cfg > .venv-minimum/requirements.txt
	.venv-minimum/bin/python -m pip install --quiet -r .venv-minimum/requirements.txt
	.venv-minimum/bin/python -m pip install --quiet --no-deps -e .
	.venv-minimum/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Tests open reports in a real browser
browser:
	@for name in chromium chromium-browser google-chrome; do command -v $$name >/dev/null && exit 0; done; \
	echo "Installing Chromium"; \
	if command -v apt-get >/dev/null; then \
		sudo=$$(test "$$(id -u)" = 0 || echo sudo); \
		$$sudo apt-get update -qq && $$sudo apt-get install -qq -y --no-install-recommends chromium >/dev/null; \
	else $(BIN)/python -m playwright install chromium; fi

clean:
	rm -rf runs build site dist *.egg-info .pytest_cache .ruff_cache
