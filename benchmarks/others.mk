# Other networks on the same folds, and what is compared with what ships: docs/results/README.md

.PHONY: real int8 frontier
real: .venv/ready scans
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

int8: .venv/ready scans
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

frontier: .venv/ready scans
	$(BIN)/octlet frontier real/finetune/fold-0/train real/finetune/fold-1/train real/finetune/fold-2/train \
	    real/finetune/fold-3/train real/finetune/fold-4/train --data $(OCTLET_DATA) --out real/frontier \
	    --to-macs 0.18,0.05 --int8 qat --steps 3 --epochs 2 --last-epochs 48 --lr 2e-4 --set prune.units=0.85 \
	    --set train.views=8 --prior-shift 0.25 --images 200 \
	    --licence "Scans: Kermany, Zhang and Goldbaum, doi 10.17632/rscbjbr9sj, CC BY 4.0. Initial weights: TF-slim resnet_v2_101, Apache-2.0."
	mkdir -p docs/results/frontier
	cp real/frontier/frontier.csv real/frontier/frontier.json real/frontier/frontier.png docs/results/frontier
	cp -r real/frontier/predictions docs/results/frontier

# What was tried, on the same folds: predictions that are kept, compared again
.PHONY: tried
tried: .venv/ready
	$(BIN)/octlet compare docs/results/resnet101v2/predictions.csv docs/results/int8/PTQ.csv docs/results/int8/QAT.csv \
	    $(foreach point,0.2 0.18 0.05,docs/results/frontier/predictions/$(point)-int8.csv) \
	    docs/results/eighteen/predictions.csv docs/results/lite0/predictions.csv docs/results/four/predictions.csv \
	    $(foreach row,320 teacher float 3,docs/results/sizes/$(row).csv) \
	    $(foreach row,dense teacher one-look predictions,docs/results/release/$(row).csv) --name "dense float" --name "PTQ" \
	    --name "QAT" --name "20 %, 16 epochs, QAT" --name "18 %, 48 epochs, QAT" --name "5 %, 48 epochs, QAT" \
	    --name "18 %, poor scans, QAT" --name "Lite0, poor scans, QAT" --name "10 %, taught by four, QAT" \
	    --name "320 px" --name "256, 320, 384 px, mirrored" --name "10 %, taught by these" --name "3 %, the same" \
	    --name "256 px, harder scans" --name "trained on at 320 px" --name "11 %, two lessons, QAT" \
	    --name "and a second look" --out real/tried
	cp real/tried/table.csv docs/results/tried.csv
	cp real/tried/difference.png docs/results/tried.png
	$(BIN)/python benchmarks/ensembles.py docs/results/ensembles.csv "dense=docs/results/resnet101v2/predictions.csv" \
	    "18 %=docs/results/eighteen/predictions.csv" "Lite0=docs/results/lite0/predictions.csv" \
	    "Lite0 untaught=docs/results/lite0/alone-256.csv"

# What no network gets right, of predictions that are kept
.PHONY: hard
hard: .venv/ready
	$(BIN)/python benchmarks/hard_scans.py docs/results/hard $(foreach file,resnet101v2/predictions \
	    frontier/predictions/0.18-int8 eighteen/predictions lite0/predictions lite0/alone-256 lite0/alone-320 \
	    lite0/alone-phantoms-first ten/dense ten/10-int8 four/dense four/longer four/predictions teachers/dense \
	    teachers/longer teachers/larger teachers/18 teachers/10 sizes/256 sizes/320 sizes/384 sizes/float sizes/3, \
	    $(file)=docs/results/$(file).csv)

# Does a model's doubt mean something, do heatmaps show what was used? After `make int8`; see docs/trust.md
.PHONY: trust heatmaps
INT8 := $(foreach k,0 1 2 3 4,real/int8/fold-$(k)/qat/model.octlet)
trust: .venv/ready scans
	test -d real/trust/not-oct || $(ONE) benchmarks/not_oct.py real/trust/not-oct
	$(ONE) benchmarks/trust.py real/trust/trust $(OCTLET_DATA) real/trust/not-oct real/finetune/split $(INT8)
	cp real/trust/trust.csv real/trust/trust.png docs/results

# What is refused for its layout; real/trust/more: images that its measures were not chosen by
.PHONY: layout
layout: .venv/ready scans real/trust/more
	test -d real/trust/not-oct || $(ONE) benchmarks/not_oct.py real/trust/not-oct
	$(BIN)/octlet data check $(OCTLET_DATA) --out real/layout/check
	$(BIN)/octlet data split real/layout/check/index.csv --folds 5 --out real/layout/split
	$(ONE) benchmarks/layout.py docs/results/layout.csv $(OCTLET_DATA) real/layout/split real/trust/not-oct real/trust/more

MORE := real/trust/packages
real/trust/more: | .venv/ready
	$(BIN)/python -m pip download --quiet --no-deps --no-binary pillow --dest $(MORE) pillow==11.0.0
	$(BIN)/python -m pip download --quiet --no-deps --dest $(MORE) pydicom-data==1.0.0
	$(BIN)/python -m tarfile -e $(MORE)/pillow-11.0.0.tar.gz $(MORE)
	$(BIN)/python -m zipfile -e $(MORE)/pydicom_data-1.0.0-py3-none-any.whl $(MORE)/pydicom-data
	$(ONE) benchmarks/not_oct.py $@ $(MORE)/pillow-11.0.0/Tests $(MORE)/pydicom-data

heatmaps: scans real/heatmaps/model.octlet
	$(ONE) benchmarks/heatmaps.py real/heatmaps/heatmaps $(OCTLET_DATA) real/finetune/split real/heatmaps/model.octlet $(INT8)
	cp real/heatmaps/heatmaps.csv real/heatmaps/heatmaps.png docs/results

real/heatmaps/model.octlet: | .venv/ready
	test -d real/heatmaps/scans || $(BIN)/octlet data phantom real/heatmaps/scans --n 480 --seed 5
	$(BIN)/octlet train --data real/heatmaps/scans --out real/heatmaps/train --model resnet18 --size 224 \
	    --epochs 12 --batch 32 --lr 2e-3
	$(BIN)/octlet quantize real/heatmaps/train --data real/heatmaps/scans --method ptq --out real/heatmaps/int8
	$(BIN)/octlet export real/heatmaps/int8 --out $@ --name phantoms --images 200 \
	    --licence "Apache-2.0; trained on simulated scans"

# What shipped before, cut to 18 % at 256 px: hours; its `before` is the same network before it was shown poor scans. After
# `make real frontier`
.PHONY: eighteen
EIGHTEEN := docs/results/eighteen
CUT := $(foreach k,0 1 2 3 4,real/eighteen/fold-$(k)/compressed.octlet)
DENSE := $(foreach k,0 1 2 3 4,real/finetune/fold-$(k)/model.octlet)
SMALL := $(foreach k,0 1 2 3 4,real/frontier/fold-$(k)/0.18/int8/model.octlet)
eighteen: .venv/ready scans
	$(BIN)/octlet run recipes/eighteen.toml --out real/eighteen
	mkdir -p $(EIGHTEEN)
	cp real/eighteen/compressed-evaluation/predictions.csv $(EIGHTEEN)
	$(ONE) benchmarks/robustness.py real/robustness/eighteen $(OCTLET_DATA) real/eighteen/split \
	    --dense $(DENSE) --small $(CUT) --every 4 --work real/robustness/robustness.work
	$(ONE) benchmarks/robustness.py real/robustness/before $(OCTLET_DATA) real/finetune/split \
	    --dense $(DENSE) --small $(SMALL) --every 4 --work real/robustness/robustness.work
	cp real/robustness/eighteen.csv $(EIGHTEEN)/robustness.csv
	cp real/robustness/before.csv $(EIGHTEEN)/robustness-before.csv
	test -d real/trust/not-oct || $(ONE) benchmarks/not_oct.py real/trust/not-oct
	$(ONE) benchmarks/trust.py real/eighteen/trust $(OCTLET_DATA) real/trust/not-oct real/eighteen/split $(CUT)
	cp real/eighteen/trust.csv $(EIGHTEEN)
	$(ONE) benchmarks/flip.py $(EIGHTEEN)/flip.csv $(OCTLET_DATA) real/eighteen/split $(CUT)

# Another family as the small network, the same folds, and its size and time beside the others'; after
# `make frontier release-model`. OCTLET_LITE0: docs/networks.md
.PHONY: lite0
LITE0 := $(foreach k,0 1 2 3 4,real/release-lite0/fold-$(k)/compressed.octlet)
lite0: .venv/ready scans
	for k in 0 1 2 3 4; do \
	    $(BIN)/octlet run recipes/pi5-lite0.toml --out real/release-lite0 --only fold-$$k || exit 1; done
	$(ONE) benchmarks/robustness.py real/robustness/lite0 $(OCTLET_DATA) real/release-lite0/split \
	    --dense $(DENSE) --small $(LITE0) --every 4 --work real/robustness/robustness.work
	mkdir -p docs/results/lite0
	cp real/release-lite0/compressed-evaluation/predictions.csv docs/results/lite0
	cp real/robustness/lite0.csv docs/results/lite0/robustness.csv
	$(BIN)/octlet compare docs/results/resnet101v2/predictions.csv docs/results/eighteen/predictions.csv \
	    docs/results/frontier/predictions/0.05-int8.csv docs/results/lite0/predictions.csv \
	    --name "dense float" --name "18 %" --name "5 %" --name Lite0 --threads 1 --out real/lite0-beside \
	    --cost $(firstword $(DENSE)) --cost $(firstword $(CUT)) \
	    --cost real/frontier/fold-0/0.05/int8/model.octlet --cost $(firstword $(LITE0))
	cp real/lite0-beside/table.csv docs/results/lite0/table.csv

# The same network by itself, float: larger inputs, and simulated scans first. Needs no `make` before
.PHONY: lite0-alone
ALONE := real/lite0-alone
BY_ITSELF := $(BIN)/octlet run recipes/lite0.toml --set compress=[]
lite0-alone: .venv/ready scans
	$(BY_ITSELF) --out $(ALONE)/256
	$(BY_ITSELF) --out $(ALONE)/320 --set train.size=320
	test -d $(ALONE)/phantoms || $(BIN)/octlet data phantom $(ALONE)/phantoms --n 800 --seed 3
	test -f $(ALONE)/phantom-run/checkpoint.safetensors || $(BIN)/octlet train --data $(ALONE)/phantoms \
	    --out $(ALONE)/phantom-run --preset finetune --model efficientnet-lite0 --weights $(OCTLET_LITE0) \
	    --size 256 --epochs 3 --batch 16 --lr 1e-3 --set train.head_lr=5e-3 --set train.amp=off
	$(BY_ITSELF) --out $(ALONE)/phantoms-first --set train.weights=$(CURDIR)/$(ALONE)/phantom-run/checkpoint.safetensors
	for way in 256 320 phantoms-first; do cp $(ALONE)/$$way/evaluation/predictions.csv docs/results/lite0/alone-$$way.csv; done
	$(BIN)/octlet compare $(foreach way,256 320 phantoms-first,docs/results/lite0/alone-$(way).csv) \
	    docs/results/lite0/predictions.csv --name "256 px" --name "320 px" --name "phantoms first" \
	    --name "taught, int8" --out $(ALONE)/beside
	cp $(ALONE)/beside/table.csv docs/results/lite0/alone.csv

# Three dense networks as one teacher, the same folds; minutes on a GPU. Needs no `make` before
.PHONY: teachers
TOGETHER := real/teachers
teachers: .venv/ready scans
	$(BIN)/octlet run recipes/teachers.toml --out $(TOGETHER)
	mkdir -p docs/results/teachers
	for row in dense=train longer=teacher-1 larger=teacher-2 18=2-distill 10=4-distill; do \
	    $(SAID) docs/results/teachers/$${row%=*}.csv $(OCTLET_DATA) --prior-shift 0.25 \
	    "$(TOGETHER)/fold-{k}/$${row#*=}" || exit 1; done
	$(SAID) docs/results/teachers/three.csv $(OCTLET_DATA) --prior-shift 0.25 \
	    $(foreach name,train teacher-1 teacher-2,"$(TOGETHER)/fold-{k}/$(name)")
	for k in 0 1 2 3 4; do cp $(TOGETHER)/fold-$$k/train/metrics.jsonl docs/results/teachers/training-fold-$$k.jsonl; done
	$(MAKE) teachers-beside

.PHONY: teachers-beside
teachers-beside: .venv/ready
	$(BIN)/octlet compare docs/results/resnet101v2/predictions.csv \
	    $(foreach name,dense longer larger three 18 10,docs/results/teachers/$(name).csv) --name "make real" \
	    --name "dense again" --name longer --name "320 px" --name three --name "18 %" --name "10 %" --out $(TOGETHER)/beside
	cp $(TOGETHER)/beside/table.csv docs/results/teachers/table.csv
	cp $(TOGETHER)/beside/difference.png docs/results/teachers/difference.png

# To a tenth of the multiply-accumulates, taught by one: hours on two cores. Needs no `make` before
.PHONY: ten four
TEN := docs/results/ten
ten: .venv/ready scans
	$(BIN)/octlet run recipes/ten.toml --out real/ten
	mkdir -p $(TEN)
	$(SAID) $(TEN)/dense.csv $(OCTLET_DATA) --prior-shift 0.25 "real/ten/fold-{k}/train"
	$(SAID) $(TEN)/10.csv $(OCTLET_DATA) --prior-shift 0.25 "real/ten/fold-{k}/2-distill"
	cp real/ten/compressed-evaluation/predictions.csv $(TEN)/10-int8.csv
	$(BIN)/octlet compare docs/results/resnet101v2/predictions.csv $(TEN)/dense.csv $(TEN)/10.csv $(TEN)/10-int8.csv \
	    --name "make real" --name "dense again" --name "10 %" --name "10 %, int8" --out real/ten/beside
	cp real/ten/beside/table.csv $(TEN)/table.csv
	$(BIN)/octlet compare $(TEN)/dense.csv $(TEN)/10.csv $(TEN)/10-int8.csv \
	    --name dense --name "10 %" --name "10 %, int8" --out real/ten/paired
	cp real/ten/paired/table.csv $(TEN)/paired.csv

# To a tenth again, cut with care and taught by four: minutes on a GPU, a day on two cores. Needs no `make` before;
# four-figures: what its folds' networks make of poor scans, of another shape, and of doubt; after `make real four`
FOUR := docs/results/four
TENTHS := $(foreach k,0 1 2 3 4,real/four/fold-$(k)/compressed.octlet)
four: .venv/ready scans
	$(BIN)/octlet run recipes/four.toml --out real/four
	mkdir -p $(FOUR)/training
	cp real/four/compressed-evaluation/predictions.csv real/four/compressed-evaluation/metrics.json $(FOUR)
	cp real/four/fold-0/2-distill/curves.png $(FOUR)/curves.png
	for k in 0 1 2 3 4; do for run in train teacher-1 teacher-2 teacher-3 2-distill; do \
	    cp real/four/fold-$$k/$$run/metrics.jsonl $(FOUR)/training/fold-$$k-$$run.jsonl || exit 1; done; \
	    cp real/four/fold-$$k/1-prune/pruning.csv $(FOUR)/training/fold-$$k-1-prune.csv || exit 1; done
	for row in dense=train longer=teacher-1 float=2-distill; do \
	    $(SAID) $(FOUR)/$${row%=*}.csv $(OCTLET_DATA) --prior-shift 0.25 "real/four/fold-{k}/$${row#*=}" || exit 1; done
	$(SAID) $(FOUR)/teacher.csv $(OCTLET_DATA) --prior-shift 0.25 \
	    $(foreach name,train teacher-1 teacher-2 teacher-3,"real/four/fold-{k}/$(name)")
	$(MAKE) four-beside

.PHONY: four-beside
four-beside: .venv/ready
	$(BIN)/octlet compare $(FOUR)/teacher.csv $(FOUR)/predictions.csv $(FOUR)/float.csv $(FOUR)/dense.csv $(FOUR)/longer.csv \
	    --name "four together" --name "10 %, int8" --name "10 %" --name dense --name longer --out real/four/beside
	$(BIN)/octlet compare $(FOUR)/dense.csv $(FOUR)/predictions.csv --name dense --name "10 %, int8" --out real/four/cut-from
	cp real/four/beside/table.csv real/four/beside/confusion.png real/four/beside/difference.png $(FOUR)
	cp real/four/cut-from/table.csv $(FOUR)/cut-from.csv

.PHONY: four-figures
four-figures: .venv/ready scans
	mkdir -p real/robustness/two
	cp real/four/split/fold-0.csv real/four/split/fold-1.csv real/robustness/two
	$(ONE) benchmarks/robustness.py real/robustness/four $(OCTLET_DATA) real/robustness/two --dense $(wordlist 1,2,$(DENSE)) \
	    --small $(wordlist 1,2,$(TENTHS)) --every 2 --work real/robustness/robustness.work
	cp real/robustness/four.csv $(FOUR)/robustness.csv
	cp real/robustness/four.png $(FOUR)/robustness.png
	$(ONE) benchmarks/shape_shortcut.py $(FOUR)/shape-shortcut $(OCTLET_DATA) real/four/split --model int8 $(TENTHS)
	$(ONE) benchmarks/flip.py $(FOUR)/flip.csv $(OCTLET_DATA) real/four/split $(TENTHS)
	test -d real/trust/not-oct || $(ONE) benchmarks/not_oct.py real/trust/not-oct
	$(ONE) benchmarks/trust.py real/four/trust $(OCTLET_DATA) real/trust/not-oct real/four/split $(TENTHS)
	cp real/four/trust.csv real/four/trust.png $(FOUR)
	$(ONE) benchmarks/peers.py $(FOUR)/peers.csv $(OCTLET_DATA) real/robustness/two --work real/peers \
	    --only 'torch eager fp32' --only 'ONNX Runtime fp32' --only 'LiteRT, Octlet 10 % int8' --only 'Octlet 10 % int8' \
	    --float 'real/finetune/fold-{k}/model.octlet' \
	    --row litert 'LiteRT, Octlet 10 % int8' 'real/four/fold-{k}/compressed.octlet' \
	    --row octlet 'Octlet 10 % int8' 'real/four/fold-{k}/compressed.octlet'

# The folds' networks of `make four` pruned on to a fifth, 2 % of the dense one's multiply-accumulates, on their own answers
.PHONY: fiftieth
fiftieth: .venv/ready scans
	$(BIN)/octlet frontier $(foreach k,0 1 2 3 4,real/four/fold-$(k)/2-distill) --data $(OCTLET_DATA) \
	    --out real/fiftieth --to-macs 0.2 --int8 no --steps 3 --epochs 2 --last-epochs 40 --lr 3e-4 \
	    --set prune.units=0.5 --set prune.restore=true --set train.views=8 --prior-shift 0.25
	$(SAID) $(FOUR)/2.csv $(OCTLET_DATA) --prior-shift 0.25 "real/fiftieth/fold-{k}/0.2/prune"

# Dense networks of three sizes, and a tenth of the first taught by all; tiny.toml cuts that on to 3 %. Minutes on a GPU
.PHONY: sizes
SIZES := docs/results/sizes
sizes: .venv/ready scans
	for k in 0 1 2 3 4; do $(BIN)/octlet run recipes/tiny.toml --out real/sizes --only fold-$$k/train --only fold-$$k/teacher-1 \
	    --only fold-$$k/teacher-2 --only fold-$$k/1-prune --only fold-$$k/2-distill --only fold-$$k/3-prune \
	    --only fold-$$k/4-distill || exit 1; done
	for row in 256=train 320=teacher-1 384=teacher-2 float=2-distill 3=4-distill; do \
	    $(SAID) $(SIZES)/$${row%=*}.csv $(OCTLET_DATA) --prior-shift 0.25 "real/sizes/fold-{k}/$${row#*=}" || exit 1; done
	$(SAID) $(SIZES)/together.csv $(OCTLET_DATA) --prior-shift 0.25 $(foreach name,train teacher-1 teacher-2,"real/sizes/fold-{k}/$(name)")
	$(SAID) $(SIZES)/teacher.csv $(OCTLET_DATA) --mirror --prior-shift 0.25 $(foreach name,train teacher-1 teacher-2,"real/sizes/fold-{k}/$(name)")

# What bringing a cut network's outputs back is worth before any training; after `make real`
.PHONY: restore
restore: .venv/ready scans
	$(ONE) benchmarks/restore.py docs/results/restore.csv 'real/finetune/fold-{k}/train'

# What training's own chance is worth: the dense network and the small ones, each trained several times
.PHONY: repeats
KEPT := docs/results
repeats: .venv/ready
	$(BIN)/python benchmarks/repeats.py docs/results/repeats.csv \
	    "dense=$(KEPT)/resnet101v2/predictions.csv,$(KEPT)/teachers/dense.csv,$(KEPT)/teachers/longer.csv,$(KEPT)/teachers/larger.csv,$(KEPT)/ten/dense.csv,$(FOUR)/dense.csv,$(FOUR)/longer.csv,$(RELEASE)/dense.csv" \
	    "18 and 20 %, int8=$(KEPT)/eighteen/predictions.csv,$(KEPT)/frontier/predictions/0.18-int8.csv,$(KEPT)/frontier/predictions/0.2-int8.csv" \
	    "10 %, taught by one=$(KEPT)/ten/10.csv" \
	    "10 %, int8, taught by one=$(KEPT)/ten/10-int8.csv" \
	    "18 and 10 %, taught by three=$(KEPT)/teachers/18.csv,$(KEPT)/teachers/10.csv" \
	    "10 %, restored, taught by four=$(FOUR)/float.csv" \
	    "10 %, int8, restored, taught by four=$(FOUR)/predictions.csv" \
	    "dense, trained on at 320 px=$(RELEASE)/teacher.csv" "11 %, int8, two lessons=$(RELEASE)/one-look.csv" \
	    "5 %, int8, under 1 MB=$(TWENTIETH)/predictions.csv"
