#!/usr/bin/env bash
# Quantises the dense networks of FROM's folds, exports and evaluates each on its own test patients. What is
# done is skipped, a stopped training goes on.
#   OCTLET_DATA=... FROM=real/finetune TO=real/int8 benchmarks/int8_folds.sh "ptq qat" 0 1 2 3 4
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${BIN:-.venv/bin}
images=${IMAGES:-512} # on which export compares integers with their simulation: a second an image
from=${FROM:-real/finetune}
to=${TO:-real/int8}
shift_=0.25 # the prior shift of recipes/real.toml and recipes/pi5.toml

settings() { # the options of each variant
    case $1 in
    ptq) echo "--method ptq --observer histogram" ;;
    ptq-4bit) echo "--method ptq --observer histogram --weights-bits 4" ;;
    qat) echo "--method qat" ;;
    qat-4bit) echo "--method qat --weights-bits 4 --observer min-max --set freeze_observers=0.5 --set match=0 --set train.amp=auto --epochs 3 --lr 1e-4" ;;
    qat-linear) echo "--method qat-linear --distil 0 --set train.amp=auto --epochs 2 --lr 1e-5" ;;
    *) echo "no such variant: $1" >&2 && exit 2 ;;
    esac
}

variants=$1
shift
for k in "$@"; do
    for variant in $variants; do
        here=$to/fold-$k/$variant
        mkdir -p "$here"
        if [ ! -e "$here/quantised" ]; then
            again=
            [ -e "$here/train/last.safetensors" ] && again=--resume
            [ -z "$again" ] && rm -rf "$here/train"
            # shellcheck disable=SC2046
            "$bin/octlet" quantize "$from/fold-$k/train" --data "$OCTLET_DATA" --out "$here/train" \
                --prior-shift $shift_ $(settings "$variant") $again | tee "$here/quantised.txt"
            touch "$here/quantised"
        fi
        [ -e "$here/model.octlet" ] || "$bin/octlet" export "$here/train" --out "$here/model.octlet" \
            --name "octlet-resnet101v2-$variant" --images "$images" | tee "$here/export.txt"
        [ -e "$here/evaluation/metrics.json" ] || "$bin/octlet" evaluate "$here/model.octlet" "$OCTLET_DATA" \
            --split "$from/split/fold-$k.csv" --out "$here/evaluation" >"$here/evaluate.txt"
    done
done
