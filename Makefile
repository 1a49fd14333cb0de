# Relative paths and `.venv/bin/python -m` throughout, so that the folder may have any name, spaces and Chinese included.
PYTHON ?= python3
VENV := .venv/bin/python
INSTALLED := .venv/.installed

# The tests see the tiny profile as it is, whatever COOKBOOK_ variables the shell has.
TINY := unset HUPU_CSV $$(env | sed -n 's/^\(COOKBOOK_[A-Z0-9_]*\)=.*/\1/p'); export COOKBOOK_PROFILE=tiny;

# An environment that was not finished, was moved or copied with its folder, or lost its Python is built anew.
ANEW := $(shell { test "$$(cat $(INSTALLED))" = "$$(pwd -P)" && $(VENV) -c ''; } 2>/dev/null || echo anew)

.PHONY: help anew run launch chat serve site test lint lab bench refresh latest clean

help:
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile

# The stamp is written last and holds the folder's path.
$(INSTALLED): requirements.txt constraints.txt pyproject.toml $(ANEW)
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'Python 3.11 or newer is needed, and "$(PYTHON)" is not one: make PYTHON=/path/to/python3.12 ...'; exit 1; }
	$(if $(ANEW),"$(PYTHON)" -m venv --clear .venv)
	@rm -f $(INSTALLED)
	$(VENV) -m pip install -r requirements.txt -c constraints.txt
	$(VENV) -m pip install --quiet --no-deps --no-build-isolation -e .
	@pwd -P > $(INSTALLED)

run: $(INSTALLED)  ## execute the notebooks in order, with a page of each in outputs/ (one of them: make run NB=02)
	@$(VENV) -m scripts.offline
	@$(VENV) -m tools.runner $(if $(NB),--nb "$(NB)")

launch: $(INSTALLED)  ## a notebook in several processes: make launch NB=02 NPROC=2 [CONFIG=configs/fsdp.yaml] [OPTIONS=...]
	@$(VENV) -m scripts.offline
	@$(VENV) -m tools.launcher --nb "$(NB)" --processes "$(or $(NPROC),2)" $(if $(CONFIG),--config "$(CONFIG)") $(OPTIONS)

chat: $(INSTALLED)  ## a chat page for the merged model of 03, base beside tuned
	@$(VENV) -m tools.chat_page $(OPTIONS)

serve: $(INSTALLED)  ## the merged model of 03 for OpenAI's clients
	@$(VENV) -m tools.serve $(OPTIONS)

site: $(INSTALLED)  ## the notebooks and guides as a website in outputs/site, all links checked
	@$(VENV) -m tools.site

# A cell may take as long as CI itself (90 minutes): on a busy machine one is slow, not broken.
test: lint  ## lint, unit tests, and every notebook executed on the tiny profile
	$(TINY) $(VENV) -m scripts.offline
	$(TINY) $(VENV) -m pytest -n auto --dist loadfile --durations=10 tests --ignore=tests/runs
	$(TINY) $(VENV) -m pytest -m cuda tests/test_cuda.py
	rm -rf outputs/test
	$(TINY) $(VENV) -m pytest -x -n auto --dist loadgroup --durations=10 \
	  --nbmake --nbmake-kernel=python3 --nbmake-timeout=5400 notebooks tests/runs

lint: $(INSTALLED)  ## ruff over all code, notebooks included
	$(VENV) -m ruff check .
	$(VENV) -m ruff format --check .

lab: $(INSTALLED)  ## open JupyterLab
	$(VENV) -m jupyterlab notebooks

bench: $(INSTALLED)  ## speed: ours beside the slower ways, as a table of ratios
	$(VENV) -m bench

refresh: $(INSTALLED)  ## take the executed copies of the last run into notebooks/
	@$(VENV) -m tools.runner --refresh

latest:  ## the same tests with the newest releases of everything; a report in outputs/latest/
	@"$(PYTHON)" -m tools.latest

clean:  ## delete outputs/ and models/, trained adapters included; .venv stays
	rm -rf outputs models .pytest_cache .ruff_cache build *.egg-info
