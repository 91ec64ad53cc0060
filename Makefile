# Every target says what it needs; `make submit` on a fresh clone does everything. Settings are in experiments/*.yaml.
#   EXP=experiments/NAME.yaml   the experiment (default: the embedded competition)
#   SET="train.epochs=3 ..."    settings for this call
#   FORCE=1                     make the target again, although nothing changed
#   RUNS="a b"                  runs to compare, by the beginnings of their ids (make runs lists them)
#                               or to submit together, also RUNS=top5
#   SUBMISSION=a                a submission, by the beginning of its run's id or by its file's path
#   PUBLIC=0.76 PRIVATE=0.75    what the leaderboard said of it
#   RUN=a                       the run whose model is promoted or served, likewise
#   TRIALS=40 HOURS=2 JOBS=2   how many settings `make tune` tries, for how long, how many at once
#   FIX=1                       write a table that leaves out rows which cannot be used
.DEFAULT_GOAL := help
EXP ?= experiments/digits.yaml
SET ?=
FORCE ?=
FIX ?=
PORT ?=
RUNS ?=
RUN ?=
SUBMISSION ?=
PUBLIC ?=
PRIVATE ?=
TRIALS ?=
HOURS ?=
JOBS ?=
PYTHON ?= python3
VENV ?= .venv
UV := .uv/bin/uv
# with HOURS alone, the time is what ends it
TUNING = $(if $(TRIALS),tune.trials=$(TRIALS)) $(if $(HOURS),tune.hours=$(HOURS) $(if $(TRIALS),,tune.trials=off)) $(if $(JOBS),tune.jobs=$(JOBS))
OF_SUBMISSION = $(if $(SUBMISSION),--submission $(SUBMISSION))
export UV_PYTHON_DOWNLOADS := never
unexport PYTHONDONTWRITEBYTECODE  # importing torch takes 12 s when it is compiled anew each time, 4 s when not

.PHONY: help setup eda folds overfit smoke train tune pseudo submit score board verify reproduce kaggle runs compare sync promote serve export ui dashboard test lint types lock clean

help:  ## list the targets
	@sed -n 's/^\([a-z ]*\):.*## \(.*\)/\1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{printf "  make %-9s %s\n", $$1, $$2}'
	@printf '\n  EXP=experiments/NAME.yaml  SET="train.epochs=3 train.lr=1e-3"  FORCE=1  FIX=1\n'

setup: $(VENV)/.synced  ## install everything into .venv, at the versions and hashes of requirements.lock

eda: $(VENV)/.synced  ## look at the competition's tables and images
	@$(VENV)/bin/python -m pipeline eda $(EXP) $(SET) $(if $(FORCE),--force) $(if $(FIX),--fix)

folds: $(VENV)/.synced  ## split the training rows, once and for all
	@$(VENV)/bin/python -m pipeline folds $(EXP) $(SET) $(if $(FORCE),--force) $(if $(FIX),--fix)

overfit: $(VENV)/.synced  ## learn one batch by heart, to see that it can be learnt
	@$(VENV)/bin/python -m pipeline overfit $(EXP) $(SET)

smoke: $(VENV)/.synced  ## run everything on a few images, in about a minute
	@$(VENV)/bin/python -m pipeline smoke $(EXP) $(SET)

train: $(VENV)/.synced  ## train a model a fold and score all rows out of fold
	@$(VENV)/bin/python -m pipeline train $(EXP) $(SET) $(if $(FORCE),--force) $(if $(FIX),--fix)

tune: $(VENV)/.synced  ## search for better settings (TRIALS=40 HOURS=2 JOBS=2)
	@$(VENV)/bin/python -m pipeline tune $(EXP) $(SET) $(TUNING) $(if $(FORCE),--force)

pseudo: $(VENV)/.synced  ## train again with the test rows that each fold is sure of, and compare
	@$(VENV)/bin/python -m pipeline pseudo $(EXP) $(SET) $(if $(FORCE),--force)

submit: $(VENV)/.synced  ## all of the above, then predict the test images and write the submission (RUNS="a b", RUNS=top5)
	@$(VENV)/bin/python -m pipeline submit $(EXP) $(SET) $(if $(RUNS),--runs $(RUNS)) $(if $(FORCE),--force) $(if $(FIX),--fix)

score: $(VENV)/.synced  ## score the submission where the answers are known, or write down PUBLIC=0.76 PRIVATE=0.75
	@$(VENV)/bin/python -m pipeline score $(EXP) $(SET) $(if $(FORCE),--force) $(if $(FIX),--fix) $(if $(PUBLIC),--public $(PUBLIC)) $(if $(PRIVATE),--private $(PRIVATE)) $(OF_SUBMISSION)

board: $(VENV)/.synced  ## show all submissions beside each other, and which two to select
	@$(VENV)/bin/python -m pipeline board $(EXP) $(SET)

verify: $(VENV)/.synced  ## make a submission's file again from its record and compare it (SUBMISSION=a)
	@$(VENV)/bin/python -m pipeline verify $(EXP) $(SET) $(OF_SUBMISSION)

reproduce: $(VENV)/.synced  ## train a submission's models anew, from the code of then, and compare its file (SUBMISSION=a)
	@$(VENV)/bin/python -m pipeline reproduce $(EXP) $(SET) $(OF_SUBMISSION)

kaggle: $(VENV)/.kaggle  ## upload a submission to Kaggle, and fetch the scores (SUBMISSION=a)
	@$(VENV)/bin/python -m pipeline kaggle $(EXP) $(SET) $(if $(FORCE),--force) $(OF_SUBMISSION)

runs: $(VENV)/.synced  ## list the runs in the terminal
	@$(VENV)/bin/python -m pipeline runs $(EXP)

compare: $(VENV)/.synced  ## say whether one run is better than another, or lucky (RUNS="a b")
	@$(VENV)/bin/python -m pipeline compare $(EXP) $(if $(RUNS),--runs $(RUNS))

sync: $(VENV)/.synced  ## send to MLflow what it could not take before
	@$(VENV)/bin/python -m pipeline sync $(EXP)

promote: $(VENV)/.synced  ## make a run's model the champion (RUN=a)
	@$(VENV)/bin/python -m pipeline promote $(EXP) $(if $(RUN),--run $(RUN))

serve: $(VENV)/.synced  ## serve the champion, or the model of RUN=a, on 127.0.0.1 (PORT=5001)
	@$(VENV)/bin/python -m pipeline serve $(EXP) $(if $(RUN),--run $(RUN)) $(if $(PORT),--port $(PORT))

export: $(VENV)/.synced  ## write every fold's model as ONNX, compared with torch
	@$(VENV)/bin/python -m pipeline export $(EXP) $(SET)

ui: $(VENV)/.synced  ## browse all runs in MLflow on 127.0.0.1 (PORT=5000)
	@$(VENV)/bin/python -m pipeline ui $(EXP) $(if $(PORT),--port $(PORT))

dashboard: $(VENV)/.synced  ## browse the searches in Optuna's pages on 127.0.0.1 (PORT=8080)
	@$(VENV)/bin/python -m pipeline dashboard $(EXP) $(SET) $(if $(PORT),--port $(PORT))

test: $(VENV)/.synced  ## run the tests
	@$(VENV)/bin/python -m pytest

lint: $(VENV)/.synced  ## check style and likely bugs
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .

types: $(VENV)/.synced  ## check types
	@$(VENV)/bin/ty check --error-on-warning pipeline

lock: $(UV)  ## choose versions anew and write requirements.lock
	$(UV) pip compile pyproject.toml --group dev --universal --generate-hashes --no-emit-index-url --upgrade --quiet -o requirements.lock
	$(UV) pip compile --group kaggle -c requirements.lock --universal --generate-hashes --no-emit-index-url --quiet -o requirements-kaggle.lock
	@echo 'uv>=0.13,<0.14' | $(UV) pip compile - --universal --generate-hashes --no-emit-index-url --no-annotate --no-header --upgrade --quiet -o requirements-uv.lock

clean:  ## delete .venv, .uv and caches; with ALL=1 also data/ and mlruns/
	rm -rf .venv .uv .pytest_cache .ruff_cache .hypothesis podium.egg-info
	find pipeline tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
	$(if $(filter 1,$(ALL)),rm -rf data && find mlruns -mindepth 1 ! -name .gitkeep -delete)

$(UV): requirements-uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "$(PYTHON) is $$($(PYTHON) -V 2>&1); Python 3.11, 3.12 or 3.13 is needed (make PYTHON=python3.12 ...)"; exit 2; }
	@echo "installing uv into .uv ..."
	@rm -rf .uv && PIP_USER=0 $(PYTHON) -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --require-hashes --target .uv -r requirements-uv.lock
	@touch $@

$(VENV)/.kaggle: $(VENV)/.synced requirements-kaggle.lock
	@echo "installing the Kaggle client ..."
	@$(UV) pip install --quiet --require-hashes --no-deps --python $(VENV)/bin/python -r requirements-kaggle.lock
	@touch $@

$(VENV)/.synced: requirements.lock pyproject.toml
	@$(MAKE) --no-print-directory $(UV)
	@echo "installing into $(VENV) (about 6 GB, most of it torch; minutes the first time) ..."
	@$(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV)
	@$(UV) pip sync --quiet --require-hashes --python $(VENV)/bin/python requirements.lock
	@$(UV) pip install --quiet --no-deps --no-build-isolation --python $(VENV)/bin/python -e .
	@touch $@
