# The two commands: `make lab` to look, `make test` to prove. Both make the environment when it is missing or outdated.
PYTHON ?= python3
BIN := .venv/bin
# Jupyter refuses to start as root, as in a container, unless it is told so.
AS_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)

.PHONY: lab test notebooks bench

lab: .venv/made
	$(BIN)/flask --app appkit db upgrade
	$(BIN)/jupyter lab $(AS_ROOT) --ServerApp.root_dir=. notebooks/00-start-here.ipynb

test: .venv/made
	$(BIN)/python -m pytest -n 2 --dist loadscope

# Runs every notebook and stores what it shows: those outputs are what `make test` compares with.
notebooks: .venv/made
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace notebooks/*.ipynb
	$(BIN)/nbstripout --keep-output --keep-count --extra-keys "metadata.language_info cell.metadata.execution" notebooks/*.ipynb

# Measures everything against its peers, in an environment that has them, and writes benchmarks/RESULTS.md.
bench: .venv-bench/made
	.venv-bench/bin/python benchmarks

.venv-bench/made: pyproject.toml benchmarks/requirements.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --requirement benchmarks/requirements.txt
	touch $@

.venv/made: pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
		{ echo "appkit needs Python 3.11 or newer; $(PYTHON) is older. Try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[notebooks]'
	touch $@
