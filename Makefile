# Every target sets up what it needs. PYTHON chooses the interpreter for the environment: 3.11 or newer.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PHOTOS := recipes/photos_demo
SHAPES := recipes/shapes
COMMA := ,
SHELL := bash
# All cores, where nothing else is said: a few more threads than cores can be several times slower
G4I := $(BIN)/g4i
# `make demo WRONG=0.4` gives every photograph a label, 40% of them wrong
PICTURES := $(if $(WRONG),runs/wrong/pictures,$(PHOTOS)/pictures)
OUT := $(if $(WRONG),runs/photos_demo_wrong,runs/photos_demo)

.PHONY: venv demo caption-demo hub-demo docs test test-slow test-minimum mutants browser lint clean

venv: $(VENV)/.test

# `.venv/.demo` is there when the extra `demo` is, and so on
$(VENV)/.demo $(VENV)/.docs $(VENV)/.test $(VENV)/.lint: $(VENV)/.%: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, found " + sys.version.split()[0] + ": make PYTHON=...") if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing g4i_hf and what '$*' needs into $(VENV) (some minutes the first time)"
	$(BIN)/python -m pip install --quiet -e '.[$*]'
	@touch $@

# One labelled photograph a class, captions for the others: labels only beside labels and captions, on 731 test images.
# At the size of the photographs it takes half the time of the default
demo: $(VENV)/.demo
	$(if $(WRONG),$(BIN)/python $(PHOTOS)/wrong.py runs/wrong --wrong $(WRONG))
	$(G4I) check $(PICTURES) $(if $(WRONG),--text_encoder all-MiniLM-L6-v2 --check_dir $(OUT)/check)
	$(G4I) fit $(PICTURES) -o $(OUT) --image_size 128
	$(G4I) search $(OUT) "a boat with sails" --images $(PHOTOS)/pictures/test --page $(OUT)/found.html
	$(G4I) evaluate $(OUT) --splits test
	@echo "Classifier: $(OUT)/classifier; pages: $(OUT)/report.html, $(OUT)/found.html$(if $(WRONG),$(COMMA) $(OUT)/check/suspicious_labels.html)"
	@echo "Next: $(if $(WRONG),,make demo WRONG=0.4, or )your own pictures: $(G4I) fit FOLDER"

# Images without captions: described by the small model that the recipe brings, then trained on
caption-demo: $(VENV)/.demo
	$(G4I) caption --config $(SHAPES)/caption.yaml
	$(G4I) embed --config $(SHAPES)/embed.yaml
	$(G4I) train --config $(SHAPES)/baseline.yaml
	$(G4I) train --config $(SHAPES)/train.yaml
	$(G4I) evaluate --config $(SHAPES)/evaluate.yaml
	$(G4I) release --config $(SHAPES)/release.yaml

# To the Hub and back, against the server of the tests on this machine
hub-demo: venv
	$(BIN)/python -m pytest -m slow tests/contract/test_contract_hub.py

# The documentation, site/index.html; a link that leads nowhere is an error
docs: $(VENV)/.docs
	$(BIN)/python docs/build.py build/docs
	$(BIN)/zensical build --strict --config-file mkdocs.yml

lint: venv $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tests/prose.py
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 10

test-slow: venv browser
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile --no-loadscope-reorder --durations 10

# The fast tests with the lowest version of everything that setup.cfg admits, in an environment of their own
test-minimum:
	@test -x .venv-minimum/bin/python || $(PYTHON) -m venv .venv-minimum
	.venv-minimum/bin/python -m pip install --quiet uv
	.venv-minimum/bin/uv pip install --quiet --python .venv-minimum --resolution lowest-direct --torch-backend cpu -e '.[lowest]'
	.venv-minimum/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Small changes of the mathematics, which the tests should notice: hours, and it goes on where it was stopped
mutants: venv
	$(BIN)/python benchmarks/mutants.py --jobs 2

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
