# Needs make and Python 3.11 or newer, nothing else: the first call makes an environment in .venv.
PYTHON ?= python3
RUN := .venv/bin/python
PROJECT := {{cookiecutter.project_name}}
STARTED := $(shell date +%s)

.PHONY: help demo test fuzz lint format clean

help:  ## say what there is
	@sed -n 's/^\([a-z]*\):.*## /make \1: /p' Makefile

demo: .venv/ready  ## render the digits project and train it; DEMO=folder names where, else a temporary folder
	@$(RUN) tools/demo.py --started $(STARTED) $(if $(DEMO),"$(DEMO)")

test: lint  ## lint, then bake, test and train every combination of answers
	@$(RUN) -m pytest -n 2 --dist worksteal  # two processes: more of them want more memory than they save time

fuzz: .venv/ready  ## read 10,000 generated texts as ingredients: each parses or is explained, in bounded time and memory
	@FUZZ_EXAMPLES=10000 $(RUN) -m pytest -q tests/test_language_fuzz.py -k any_text_parses

lint: .venv/ready  ## check the template and the project in it
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .

format: .venv/ready  ## rewrite what lint would refuse, where that is safe
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .

clean:  ## remove the environment and the caches
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last, so an interrupted set-up is taken up again; pip finds what is already there.
.venv/ready: Makefile pyproject.toml tools/requirements.py $(PROJECT)/pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit("Python 3.11 or newer is needed, $(PYTHON) is %d.%d: name another with make PYTHON=..." % v if v < (3, 11) else 0)'
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "$(PYTHON) cannot make environments: install its venv module (on Debian and Ubuntu: apt install python3-venv)"; exit 1; }
	@echo "Making .venv (several GB the first time: PyTorch)"
	@$(PYTHON) -m venv .venv
	@$(RUN) -m pip install --quiet --disable-pip-version-check uv
	@$(RUN) tools/requirements.py > .venv/requirements.txt
	@$(RUN) -m uv pip install --quiet --python $(RUN) -r .venv/requirements.txt
	@env -u PYTHONDONTWRITEBYTECODE $(RUN) -c 'import torch, torchvision, fastdownload'  # compiled now, once: 10 s
	@touch $@
