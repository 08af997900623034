#!/usr/bin/env bash
# What three dense networks teach together: one fold of it, minutes on a GPU, hours on two cores.
#
#     benchmarks/teachers.sh OUT SPLITS K      OCTLET_DATA, OCTLET_WEIGHTS: scans and ImageNet weights
#
# OUT/fold-K/dense, longer, larger: ResNet-101 V2 as in recipes/real.toml; longer on harder scans; at 320 px.
# OUT/fold-K/18, 10: the first, pruned to these per cent of its MACs, taught by all three on poor scans.
# A stage whose checkpoint is complete is skipped, and a stopped one goes on. SIDE, TIMES: smaller, for a try.
set -euo pipefail
out=$1/fold-$3 split=$2/fold-$3.csv
side=${SIDE:-256} times=${TIMES:-1}
octlet=${OCTLET:-.venv/bin/octlet}
mkdir -p "$out"

stage() { # NAME VERB...: into OUT/NAME, unless that is done
    test -f "$out/$1.done" && return
    local again=""
    if test -e "$out/$1"; then again=--resume; fi
    "$octlet" "${@:2}" --data "$OCTLET_DATA" --out "$out/$1" $again
    touch "$out/$1.done"
}
epochs() { echo $((($1 + times - 1) / times)); }
dense() { # NAME OPTIONS...
    stage "$1" train --split "$split" --preset finetune --weights "$OCTLET_WEIGHTS" "${@:2}"
}
small() { # NAME FROM SHARE UNITS EPOCHS-A-STEP LAST-EPOCHS TAUGHT-EPOCHS
    stage "$1-pruned" prune "$2" --teacher "$out/dense" --to-macs "$3" --steps 3 --epochs "$(epochs "$5")" \
        --last-epochs "$(epochs "$6")" --lr 2e-4 --set prune.units="$4" --set train.views=16
    stage "$1" distill "$out/dense" "$out/longer" "$out/larger" --student "$out/$1-pruned" --weight 1 --match maps \
        --match-weight 1 --epochs "$(epochs "$7")" --lr 2e-4 --set train.views=16 --set train.degrade=0.5
}

dense dense --size "$side" --epochs "$(epochs 12)"
dense longer --size "$side" --epochs "$(epochs 20)" --seed 1 --set train.rotate=15 --set train.zoom=0.3 \
    --set train.speckle=0.2 --set train.degrade=0.3
dense larger --size $((side * 5 / 4)) --epochs "$(epochs 12)" --seed 2
small 18 "$out/dense" 0.18 0.85 2 4 60
small 10 "$out/18" 0.5556 0.5 1 2 30
