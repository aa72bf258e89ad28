#!/bin/sh
# SPDX-License-Identifier: MIT
# demo.sh MODEL PROMPT TOKENS: one story on the terminal. BUILD names the build, DEVICE the device.
set -eu

model=$1
prompt=$2
tokens=$3
if [ ! -f "$model" ]; then
    echo "demo.sh: $model is not there; the demo tells its story with that model" >&2
    exit 1
fi
printf '> %s\n\n' "$prompt"
exec "${BUILD:-build}/gqmm" run "$model" --chat -p "$prompt" -n "$tokens" --seed 7 \
    ${DEVICE:+--device "$DEVICE"}
