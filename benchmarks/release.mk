# The model that ships, what is told of it, and what else is made of its folds' networks: docs/model.md

ONE := OMP_NUM_THREADS=1 $(BIN)/python
RELEASE := docs/results/release
SAID := $(BIN)/python benchmarks/held_out.py
BESIDE := $(BIN)/python benchmarks/same_scans.py

# The model that ships: 80 minutes of two cores a fold, an hour for what its card tells of the folds' networks, and 100
# minutes for that of every scan
.PHONY: release-model release-figures release-folds robustness peers
FOLDS := $(foreach k,0 1 2 3 4,real/release/fold-$(k)/compressed.octlet)
TEACHERS := $(foreach k,0 1 2 3 4,real/release/fold-$(k)/teacher-1.octlet)

release-model: release-figures
	$(BIN)/octlet run recipes/pi5.toml --out real/release
	cp real/release/final/train/curves.png $(RELEASE)/curves-dense.png
	cp real/release/oct4-pi5.octlet src/octlet/models/oct4-pi5.octlet

release-folds: .venv/ready scans
	$(BIN)/octlet run recipes/pi5.toml --out real/release $(foreach k,0 1 2 3 4,--only fold-$(k))
	mkdir -p $(RELEASE)
	cp real/release/compressed-evaluation/predictions.csv real/release/compressed-evaluation/metrics.json $(RELEASE)
	cp real/release/evaluation/predictions.csv $(RELEASE)/dense.csv
	$(SAID) $(RELEASE)/teacher.csv $(OCTLET_DATA) --prior-shift 0.25 "real/release/fold-{k}/teacher-1"
	for k in 0 1 2 3 4; do cp real/release/fold-$$k/comparison/table.csv $(RELEASE)/cost-fold-$$k.csv; done
	cp real/release/fold-4/compressed-evaluation/predictions.csv $(RELEASE)/fold-4.csv

# The folds' networks paired with their teacher, with the dense network that they were cut from, and with others on the folds
# of which those are kept. Needs no `make` before
.PHONY: release-beside
release-beside: .venv/ready
	$(BIN)/octlet compare $(foreach name,teacher dense one-look predictions,$(RELEASE)/$(name).csv) --name "dense, 320 px" \
	    --name "dense, 256 px" --name "11 %, int8, one look" --name "and a second" --out real/release/beside
	$(BIN)/octlet compare $(foreach name,dense one-look predictions,$(RELEASE)/$(name).csv) --name "dense, 256 px" \
	    --name "11 %, int8, one look" --name "and a second" --out real/release/cut-from
	cp real/release/beside/table.csv real/release/beside/confusion.png real/release/beside/difference.png $(RELEASE)
	cp real/release/cut-from/table.csv $(RELEASE)/cut-from.csv
	$(BESIDE) $(RELEASE)/beside.csv "ships=$(RELEASE)/predictions.csv" "shipped first=$(EIGHTEEN)/predictions.csv" \
	    "10 % taught by four=$(FOUR)/predictions.csv" "make real=docs/results/resnet101v2/predictions.csv"
	$(BESIDE) $(RELEASE)/fold-4-beside.csv "ships=$(RELEASE)/fold-4.csv" "shipped first=$(EIGHTEEN)/predictions.csv"

release-figures: robustness
	test -d real/trust/not-oct || $(ONE) benchmarks/not_oct.py real/trust/not-oct
	$(ONE) benchmarks/trust.py real/release/trust $(OCTLET_DATA) real/trust/not-oct real/release/split $(FOLDS)
	cp real/release/trust.csv real/release/trust.png $(RELEASE)
	$(ONE) benchmarks/flip.py $(RELEASE)/flip.csv $(OCTLET_DATA) real/release/split $(FOLDS) \
	    --one-look $(RELEASE)/one-look.csv
	$(MAKE) release-beside
	$(ONE) benchmarks/release_notes.py docs/results real/release/check/index.csv $(firstword $(FOLDS)) recipes/pi5-notes.md

# What corrupted scans, or another shape, do to the small network and to the float one that taught it last
robustness: release-folds $(TEACHERS)
	$(ONE) benchmarks/robustness.py real/robustness/robustness $(OCTLET_DATA) real/release/split \
	    --dense $(TEACHERS) --small $(FOLDS) --every 4 --work real/robustness/robustness.work
	$(ONE) benchmarks/shape_shortcut.py real/robustness/shape-shortcut $(OCTLET_DATA) real/release/split \
	    --model int8 $(FOLDS)
	cp real/robustness/robustness.csv real/robustness/robustness.png real/robustness/shape-shortcut.csv docs/results

real/release/fold-%/teacher-1.octlet: | .venv/ready scans
	$(BIN)/octlet export real/release/fold-$*/teacher-1 --images 200 --prior-shift 0.25 --name "dense, 320 px" --out $@

# The network that ships beside what it was after one lesson at 256 px, on the folds that were made so, and that rounded at
# 288 px beside itself; of predictions that are kept, needs no `make` before
.PHONY: one-lesson
ONE_LESSON := docs/results/one-lesson
one-lesson: .venv/ready
	$(BESIDE) $(ONE_LESSON)/lessons.csv "two lessons, 320 px=$(RELEASE)/one-look.csv" \
	    "one, 256 px=$$(ls $(ONE_LESSON)/at-256/fold-?.csv | paste -sd,)"
	for folds in 0123 012 3; do \
	    $(BESIDE) $(ONE_LESSON)/at-288-folds-$$folds.csv "256 px=$$(ls $(ONE_LESSON)/at-256/fold-[$$folds].csv | paste -sd,)" \
	    "288 px=$$(ls $(ONE_LESSON)/at-288/fold-[$$folds].csv | paste -sd,)" || exit 1; done

# How many NORMAL scans are called otherwise for each urgent scan less that is called NORMAL; after `make release-model`
.PHONY: caution
caution: .venv/ready
	$(BIN)/python benchmarks/caution.py docs/results/caution real/release/split \
	    "ships=$(RELEASE)/predictions.csv" "its teacher, float=$(RELEASE)/teacher.csv"

# Every step from the original path to what ships, and other tools that run and round the dense network, in one run on a quiet
# machine; NNCF=PYTHONPATH=... adds its row. After `make release-model`: two hours, most of which trains
.PHONY: dense-int8
dense-int8: .venv/ready scans
	FROM=real/release TO=real/dense-int8 IMAGES=200 benchmarks/int8_folds.sh qat 0 1 2 3 4

STEPS := $(foreach k,0 1 2 3 4,$(foreach run,1-prune 2-distill 3-distill,real/release/fold-$(k)/$(run).octlet))
$(STEPS): real/release/%.octlet: | .venv/ready
	$(BIN)/octlet export real/release/$* --images 200 --prior-shift 0.25 --name $(notdir $*) --out $@

PEERS := benchmarks/peers.py docs/results/peers.csv $(OCTLET_DATA) real/release/split --work real/peers
peers: .venv/ready scans dense-int8 $(TEACHERS) $(STEPS)
	$(BIN)/octlet run recipes/real-seed.toml --out real/seed
	$(NNCF) $(ONE) $(PEERS) --float 'real/release/fold-{k}/model.octlet' \
	    --row torch 'original path: torch eager fp32, ResNet-101 V1.5' 'real/seed/fold-{k}/model.octlet' \
	    --row torch 'torch eager fp32, trained on at 320 px' 'real/release/fold-{k}/teacher-1.octlet' \
	    --row octlet 'Octlet int8' 'real/dense-int8/fold-{k}/qat/model.octlet' \
	    --row litert 'LiteRT, Octlet int8' 'real/dense-int8/fold-{k}/qat/model.octlet' \
	    --row octlet 'cut to 11 %, fp32' 'real/release/fold-{k}/1-prune.octlet' \
	    --row octlet 'taught at 256 px, fp32' 'real/release/fold-{k}/2-distill.octlet' \
	    --row octlet 'taught at 320 px, fp32' 'real/release/fold-{k}/3-distill.octlet' \
	    --row onnxruntime 'in 8-bit integers, one look' 'real/release/fold-{k}/compressed.octlet' \
	    --row octlet 'Octlet, ships' 'real/release/fold-{k}/compressed.octlet' \
	    --row litert 'LiteRT, ships, one look' 'real/release/fold-{k}/compressed.octlet' \
	    --row openvino 'OpenVINO, ships, one look' 'real/release/fold-{k}/compressed.octlet' \
	    --counts docs/results/arm-count.csv --page docs/peers.md
	$(BIN)/python benchmarks/peers_figure.py docs/img/steps.png docs/results/peers.csv

# What `octlet predict` adds to the bare engine from a standing start; after `make dense-int8`, on a quiet machine
.PHONY: cold-start
cold-start: .venv/ready scans
	$(ONE) benchmarks/cold_start.py docs/results/cold-start.csv $(firstword $(wildcard $(OCTLET_DATA)/train/CNV/*)) \
	    src/octlet/models/oct4-pi5.octlet real/dense-int8/fold-0/qat/model.octlet

# The folds' networks of `make release-folds` pruned on to three tenths, 5 % of the dense ones' multiply-accumulates at 256 px, on
# their own answers, and rounded: under 1 MB each. A quarter of an hour of two cores a fold
.PHONY: twentieth twentieth-beside
TWENTIETH := docs/results/twentieth
twentieth: .venv/ready scans
	$(BIN)/octlet frontier $(foreach k,0 1 2 3 4,real/release/fold-$(k)/3-distill) --data $(OCTLET_DATA) \
	    --out real/twentieth --to-macs 0.3 --steps 3 --epochs 2 --last-epochs 50 --lr 3e-4 --set prune.units=0.5 \
	    --set prune.restore=true --set train.views=6 --set train.degrade=0.4 --prior-shift 0.25 --images 200
	mkdir -p $(TWENTIETH)
	cp real/twentieth/frontier.csv real/twentieth/frontier.json real/twentieth/frontier.png $(TWENTIETH)
	cp real/twentieth/predictions/0.3-int8.csv $(TWENTIETH)/predictions.csv
	for k in 0 1 2 3 4; do cp real/twentieth/fold-$$k/0.3/prune/pruning.csv $(TWENTIETH)/pruning-fold-$$k.csv || exit 1; done
	$(SAID) $(TWENTIETH)/float.csv $(OCTLET_DATA) --prior-shift 0.25 "real/twentieth/fold-{k}/0.3/prune"
	$(ONE) benchmarks/flip.py $(TWENTIETH)/flip.csv $(OCTLET_DATA) real/release/split \
	    $(foreach k,0 1 2 3 4,real/twentieth/fold-$(k)/0.3/int8/model.octlet)
	$(MAKE) twentieth-beside

# Paired with the dense network that they go back to; with `make real`, what ships and what was as small before
twentieth-beside: .venv/ready
	$(BIN)/octlet compare $(RELEASE)/dense.csv $(RELEASE)/one-look.csv $(TWENTIETH)/float.csv $(TWENTIETH)/predictions.csv \
	    --name "dense, 256 px" --name "11 %, int8" --name "5 %" --name "5 %, int8" --out real/twentieth/beside
	cp real/twentieth/beside/table.csv real/twentieth/beside/confusion.png real/twentieth/beside/difference.png $(TWENTIETH)
	$(BESIDE) $(TWENTIETH)/beside.csv "5 %=$(TWENTIETH)/predictions.csv" "make real=docs/results/resnet101v2/predictions.csv" \
	    "5 % of make frontier=docs/results/frontier/predictions/0.05-int8.csv" "3 %, float=$(SIZES)/3.csv"
