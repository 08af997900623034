# make demo   scans to report on simulated scans, minutes on two cores
# make test   lint, types, import contracts, tests; make lowest: the device's with the oldest versions
# What is behind docs/results takes OCTLET_DATA and OCTLET_WEIGHTS, hours, and an order:
# make release-model    the model that ships, and what its card tells; then dense-int8, arm-count, peers, cold-start, tried
# make real             another dense network, five folds
# make int8 frontier    the same in integers; pruned; then eighteen, lite0, teachers, ten, four, sizes
# make twentieth        under 1 MB, from the folds of release-model
# make trust heatmaps   what a model's doubt and its heatmaps are worth; make layout: refusals without a network
# make arm arm-count pi-check   an emulated Arm machine and a Raspberry Pi's installer: docs/arm.md
PYTHON ?= python3
BIN := .venv/bin
# a file's tests share what they train, so a file goes to one process; one that dies is not tried again, for hours
PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadfile --max-worker-restart 0
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test lint types contracts pytest scans clean
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

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "Octlet needs Python 3.11 to 3.13: make PYTHON=python3.11 ...")'
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	$(BIN)/python $(PIP_INSTALL) --editable '.[train,dev,browser]'
	touch $@

# What a device installs: no torch. Tests run the runtime there.
.venv-device/ready: pyproject.toml constraints.txt
	test -x .venv-device/bin/python || $(PYTHON) -m venv .venv-device
	.venv-device/bin/python $(PIP_INSTALL) --editable .
	touch $@

# The same tests with the oldest versions that a device may have; an untold patch level is the first
.PHONY: lowest
lowest: .venv/ready
	rm -rf .venv-lowest
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check $$($(BIN)/python tools/lowest.py)
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check --no-deps .
	OCTLET_DEVICE_PYTHON=$(CURDIR)/.venv-lowest/bin/python $(BIN)/pytest tests/test_device.py
	.venv-lowest/bin/octlet verify

clean:
	rm -rf .venv .venv-device .venv-lowest demo build dist

# the real scans, which are not in the repository; docs/results/README.md tells where they come from
scans:
	@test -d "$(OCTLET_DATA)" || { echo "set OCTLET_DATA to the folder of the scans: docs/results/README.md"; exit 2; }

include benchmarks/release.mk benchmarks/others.mk tools/emulated.mk
