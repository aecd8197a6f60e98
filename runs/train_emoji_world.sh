#!/usr/bin/env bash
# The bundled model from nothing: base, Fwd2Bot, baselines, figures, card, the tables of README.md.
#
#   ./demo && runs/train_emoji_world.sh        # without a GPU; ./demo makes .venv
#   runs/train_emoji_world.sh configs/emoji-world-gpu
#
# PYTHON names another Python that has fwd2bot. The figures to expect are those of README.md.
# Minutes on two cores, with other work beside it: tower 18, language 18, projector 6, llava 36, fwd2bot 77, fixed-4 139,
# fixed-16 118, average_pool-16 60, average_pool-4 148, figures 15.
# Killed and started again, it goes on where it was; a stage that is finished in work/ is not trained again, so remove
# its folder there, and those of the stages after it, to train anew.
set -euo pipefail
cd "$(dirname -- "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-.venv/bin/python}
configs=${1:-configs/emoji-world}
work=work/$(basename -- "$configs")
figures=$work/results

if ! command -v "$python" >/dev/null; then
    echo "there is no $python: run ./demo once, which makes it, or name a Python that has fwd2bot in PYTHON" >&2
    exit 1
fi

# figure NAME TRAINED MODULE [ARGUMENTS]: one JSON, unless there is one since TRAINED was finished
figure() {
    local name=$1 trained=$work/$2/done.json module=$3
    if [[ $figures/$name.json -nt $trained ]]; then
        return
    fi
    "$python" -m "$module" "${@:4}" --out "$figures/$name.json.new" >/dev/null
    mv "$figures/$name.json.new" "$figures/$name.json"
}

for stage in tower language projector llava fwd2bot fixed-16 fixed-4 average_pool-16 average_pool-4; do
    echo "== $stage" >&2
    "$python" -m fwd2bot train "$configs/$stage.yaml"
done

echo "== bundle" >&2
"$python" tools/bundle.py "$work/fwd2bot" emoji-world
"$python" tools/bundle.py "$work/fixed-4" emoji-world-4 --base emoji-world

echo "== figures" >&2
mkdir -p "$figures" results/world
world=fwd2bot.evaluation.world
figure tower tower fwd2bot.evaluation.world --model "$work/tower"
figure base llava $world --model "$work/llava"
figure fwd2bot-16 fwd2bot $world --model emoji-world --tokens 16
figure fwd2bot-4 fwd2bot $world --model emoji-world --tokens 4
figure fixed-16 fixed-16 $world --model "$work/fixed-16"
figure fixed-4 fixed-4 $world --model emoji-world-4
figure average_pool-16 average_pool-16 $world --model "$work/average_pool-16"
figure average_pool-4 average_pool-4 $world --model "$work/average_pool-4"
cp "$figures"/*.json results/world/

echo "== card, tables, transcript" >&2
"$python" -m fwd2bot.training.card fwd2bot/bundled/emoji-world \
    results/world/{base,fwd2bot-16,fwd2bot-4,fixed-16,fixed-4,average_pool-16,average_pool-4,tower}.json
"$python" -m fwd2bot.training.card fwd2bot/bundled/emoji-world-4 results/world/{base,fixed-4,fwd2bot-4,average_pool-4}.json
"$python" tools/choices.py
"$python" tools/scores.py
"$python" tools/transcript.py
