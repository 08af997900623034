# make demo   scans to report on simulated scans, minutes on two cores
# make test   lint, types, import contracts, tests
# make real   the runs behind docs/results; needs OCTLET_DATA and OCTLET_WEIGHTS
# make int8   quantises what make real left, the same way
PYTHON ?= python3
BIN := .venv/bin
# a file's tests share what they train, so a file goes to one process
PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadfile
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test lint types contracts pytest real int8 clean
.DELETE_ON_ERROR:

demo: .venv/ready
	$(BIN)/octlet run recipes/demo.toml --out demo

test: lint types contracts pytest

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/ready
	$(BIN)/mypy

contracts: .venv/ready
	$(BIN)/lint-imports

pytest: .venv/ready .venv-device/ready
	OMP_NUM_THREADS=1 OCTLET_DEVICE_PYTHON=$(CURDIR)/.venv-device/bin/python $(BIN)/pytest $(PARALLEL)

real: .venv/ready
	$(BIN)/octlet run recipes/real.toml --out real/finetune
	$(BIN)/octlet run recipes/real-seed.toml --out real/seed
	$(BIN)/octlet evaluate real/finetune/fold-?/evaluation/predictions.csv --out docs/results/resnet101v2
	$(BIN)/octlet evaluate real/seed/fold-0/evaluation/predictions.csv --out docs/results/seed-resnet101
	$(BIN)/octlet compare real/seed/fold-0/evaluation/predictions.csv \
	    real/finetune/fold-0/evaluation/predictions.csv \
	    --name seed --name resnet101v2 --out docs/results/seed-against-resnet101v2
	for k in 0 1 2 3 4; do cp real/finetune/fold-$$k/train/curves.png docs/results/resnet101v2/curves-fold-$$k.png; \
	    cp real/finetune/fold-$$k/train/metrics.jsonl docs/results/resnet101v2/training-fold-$$k.jsonl; done
	cp real/seed/fold-0/train/curves.png docs/results/seed-resnet101/curves.png
	cp real/seed/fold-0/train/metrics.jsonl docs/results/seed-resnet101/training.jsonl
	$(BIN)/python benchmarks/prior_shift.py real/finetune docs/results/prior-shift.csv
	$(BIN)/python benchmarks/shape_leak.py docs/results/shape-leak.csv

int8: .venv/ready
	benchmarks/int8_folds.sh "ptq qat" 0 1 2 3 4
	benchmarks/int8_folds.sh "qat-linear ptq-4bit qat-4bit" 0
	for variant in ptq qat; do $(BIN)/octlet evaluate real/int8/fold-?/$$variant/evaluation/predictions.csv \
	    --out real/int8/$$variant; done
	$(BIN)/octlet compare docs/results/resnet101v2/predictions.csv real/int8/ptq/predictions.csv \
	    real/int8/qat/predictions.csv --name float --name PTQ --name QAT \
	    --cost real/finetune/fold-0/model.octlet --cost real/int8/fold-0/ptq/model.octlet \
	    --cost real/int8/fold-0/qat/model.octlet \
	    --curves float=real/finetune/fold-0/train --curves QAT=real/int8/fold-0/qat/train --out docs/results/int8
	$(BIN)/octlet compare real/finetune/fold-0/evaluation/predictions.csv \
	    $(foreach v,qat-linear ptq ptq-4bit qat-4bit,real/int8/fold-0/$(v)/evaluation/predictions.csv) \
	    --name float --name QAT-linear --name PTQ --name PTQ-4bit --name QAT-4bit \
	    --curves QAT-linear=real/int8/fold-0/qat-linear/train --curves QAT-4bit=real/int8/fold-0/qat-4bit/train \
	    --curves float=real/finetune/fold-0/train --out docs/results/int8-4bit
	$(BIN)/python benchmarks/int8.py docs/results/int8-cost.csv

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Octlet needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	$(BIN)/python $(PIP_INSTALL) --editable '.[train,dev]'
	touch $@

# What a device installs: no torch. Tests run the runtime there.
.venv-device/ready: pyproject.toml constraints.txt
	test -x .venv-device/bin/python || $(PYTHON) -m venv .venv-device
	.venv-device/bin/python $(PIP_INSTALL) --editable .
	touch $@

clean:
	rm -rf .venv .venv-device demo build dist
