# Arm: an emulated Cortex-A76, see docs/arm.md -------------------------------------------------------------
# make arm         the same answers there? ARM_MODEL=model.octlet adds a model file, and real scans of OCTLET_DATA
# make haswell     the same numbers on an x86 CPU without VNNI?
# make arm-count   the instructions of a prediction there, of ARM_COUNT="NAME=model.octlet ..."; the first is the measure
ARM := OMP_NUM_THREADS=1 PYTHONPATH=tools $(BIN)/python -m arm
ARM_COUNT ?= float=real/release/fold-0/model.octlet int8=real/arm/int8.octlet small=real/arm/small.octlet \
    ships=src/octlet/models/oct4-pi5.octlet
ARM_OUT ?= docs/results/arm-agreement.csv

.PHONY: arm arm-count haswell

arm: .venv/ready
	$(ARM) check $(ARM_OPTIONS) $(if $(ARM_MODEL),--model $(ARM_MODEL) --out $(ARM_OUT))

haswell: .venv/ready
	$(ARM) haswell $(ARM_OPTIONS) $(if $(OCTLET_DATA),--out docs/results/haswell.csv)

real/arm/int8.octlet: real/dense-int8/fold-0/qat/train
real/arm/small.octlet: real/release/fold-0/4-quantize
real/arm/%.octlet: | .venv/ready
	mkdir -p $(@D)
	$(BIN)/octlet export $< --litert --images 200 --out $@

arm-count: .venv/ready $(filter real/arm/%,$(subst =, ,$(ARM_COUNT)))
	$(ARM) count $(ARM_COUNT) --out docs/results/arm-count.csv

# Raspberry Pi: a package on a whole arm64 Debian, the power cut at every step, see docs/raspberry-pi.md --------
# make pi-check    as root, in a virtual machine; needs make demo, or PI_MODEL and PI_SCAN; half an hour each Python
PI_MODEL ?= demo/model.octlet
PI_SCAN ?= $(firstword $(wildcard demo/scans/*/*/*))
PI := OMP_NUM_THREADS=1 PYTHONPATH=tools $(BIN)/python -m pi $(PI_MODEL) $(PI_SCAN) --out docs/results/pi-install.csv

.PHONY: pi-check

pi-check: .venv/ready
	$(PI) --here
	$(PI) --python 3.11
	$(PI) --python 3.13
