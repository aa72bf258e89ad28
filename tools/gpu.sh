#!/bin/bash
# SPDX-License-Identifier: MIT
# gpu.sh OUT [PART...]: builds, checks, sanitizes and measures CUDA on a machine with a GPU, and
# leaves in OUT: check.txt, sanitize.txt, bench.txt, DEVICE-bench.jsonl and log.txt, which has all.
#   pack      on any machine with nvcc: builds, and leaves the programs in BUILD/bin.tar.xz, to be
#             carried to a GPU machine that has no jansson or PCRE2; the parts below unpack it
#   build     builds on the GPU machine; without those two libraries all but the command
#   check     check_cuda in SHARDS processes, then check_model_cuda, tests/cuda and the tests of the
#             command that have a part for devices
#   sanitize  compute-sanitizer's four tools over small shapes of check_cuda
#   bench     gqmm bench at the shapes of bench/README.md
# Without PART: build (where there is no pack), check, sanitize, bench. Environment: BUILD (build-gpu),
# BIN (BUILD/bin), ARCHS ("80;90a"), JOBS, SHARDS, LIMIT (seconds for a part's programs),
# SANITIZER (compute-sanitizer), SANITIZE (tools), FORMATS, OPS and PATHS (of sanitize), BENCH
# (groups), SPAN (seconds of a row).
set -u
cd "$(dirname "$0")/.." || exit 1
unset MAKEFLAGS MFLAGS MAKELEVEL

if [ $# -lt 1 ]; then
    sed -n '3,17s/^# //p' "$0" >&2
    exit 2
fi
out=$1
shift
build=${BUILD:-build-gpu}
bin=${BIN:-$build/bin}
jobs=${JOBS:-$(nproc 2>/dev/null || echo 2)}
shards=${SHARDS:-$jobs}
limit=${LIMIT:-500}
span=${SPAN:-0.2}
sanitizer=${SANITIZER:-compute-sanitizer}
sanitizer_tools=${SANITIZE:-racecheck memcheck initcheck synccheck}
few=q4_k,q5_k,q6_k,q8_0,q4_0,q3_k,iq4_xs,mxfp4,nvfp4,mlx_mxfp4,mlx_mxfp8,int4_g128,f16,f32
sanitizer_formats=${FORMATS:-$few,q2_k,affine2_g64_bf16,affine4_g64_bf16,affine8_g64_bf16,affine3_g32_f16}
# One for each way to bring weights.
race_formats=${FORMATS:-q4_k,mxfp4,mlx_mxfp4,int4_g128,affine4_g64_bf16,q3_k,affine3_g64_bf16,f32}
ops=gather,gather_n,qmm,moe,tokens,mixed,prompts,few,eights,int8,moe_int8,embed,dequantize,quantize
ops=$ops,bad_ids,experts,ragged
sanitizer_ops=${OPS:-$ops}
paths=${PATHS:-sm_80,sm_90}
groups=${BENCH:-moe int8 models gather dense rows}
mkdir -p "$out" || exit 1
log=$out/log.txt
failed=0
export LD_LIBRARY_PATH=$bin/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} # of a pack

# Nothing runs on when this script is ended; see run_one.
# shellcheck disable=SC2046  # a list of numbers
trap 'kill $(jobs -p) 2>/dev/null' EXIT
trap 'exit 143' TERM INT

say() {
    echo "$*" | tee -a "$log"
}

fail() {
    say "FAIL gpu.sh: $*"
    failed=1
}

commit() {
    if [ -f "$bin/commit" ]; then
        cat "$bin/commit"
    else
        git rev-parse --short HEAD 2>/dev/null || echo unknown
    fi
}

# ------------------------------------------------------------------ build

has_libraries() {
    command -v pkg-config >/dev/null && pkg-config --exists jansson libpcre2-8
}

build_all() {
    local model=OFF targets='gqmm-static check_cuda'
    if has_libraries; then
        model=ON
        targets="$targets gqmm-cli check_model_cuda"
    fi
    # shellcheck disable=SC2086  # a list of words
    if cmake -S . -B "$build" -DGQMM_CUDA=ON -DGQMM_CUDA_ARCHS="${ARCHS:-80;90a}" -DGQMM_TESTS=ON \
        -DGQMM_MODEL=$model >>"$log" 2>&1 &&
        cmake --build "$build" -j "$jobs" --target $targets >>"$log" 2>&1; then
        say "built $build, model library $model"
        cmake --build "$build" -j "$jobs" --target gpu_checks -- -k >>"$log" 2>&1 ||
            fail "a program of tests/cuda does not build, see log.txt"
    else
        grep -n -A 8 -E 'error|undefined reference' "$log" | head -n 60
        fail "the build failed"
        return 1
    fi
    mkdir -p "$bin/lib"
    for program in "$build"/tests/check_*cuda "$build"/tests/test_* "$build/gqmm"; do
        [ ! -x "$program" ] || strip -o "$bin/${program##*/}" "$program"
    done
    git rev-parse --short HEAD >"$bin/commit" 2>/dev/null || rm -f "$bin/commit"
}

# The two libraries that the command needs travel beside it.
pack() {
    build_all || return 1
    ldd "$bin/gqmm" | sed -n 's/.* => \([^ ]*lib\(jansson\|pcre2\)[^ ]*\) .*/\1/p' |
        while read -r library; do
            [ "$library" -ef "$bin/lib/${library##*/}" ] || cp -L "$library" "$bin/lib/"
        done
    # Every program holds the same kernels: a dictionary over all of them stores these once.
    tar -C "$build" -cf - "${bin#"$build"/}" | xz -T1 --lzma2=preset=3,dict=96MiB >"$build/bin.tar.xz"
    say "packed $(du -sh "$build/bin.tar.xz" | cut -f1) in $build/bin.tar.xz"
}

unpack() {
    tar -C "$build" -xJf "$build/bin.tar.xz" 2>/dev/null ||
        python3 -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2])' \
            "$build/bin.tar.xz" "$build"
}

# ------------------------------------------------------------------ check

# run_one FILE COMMAND...: a program whose output goes to FILE, with a line on how it ended if badly.
run_one() {
    local file=$1 status=0 begin=$SECONDS
    shift
    timeout "$limit" "$@" >"$file" 2>&1 &
    # timeout leaves the process group, and this one's signals.
    trap 'kill %1; echo "FAIL ${file##*/}: ended with gpu.sh" >>"$file"; exit 143' TERM
    wait $! || status=$?
    [ $status -eq 0 ] || echo "FAIL ${file##*/}: ended with status $status" >>"$file"
    echo "${file##*/}: $((SECONDS - begin)) s" >>"$file"
}

# start NAME COMMAND...: run_one beside at most JOBS - 1 others; its file is noted in `files`.
start() {
    local name=$1
    shift
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do
        wait -n
    done
    run_one "$out/$name" "$@" &
    files+=("$out/$name")
}

# finish PART FILE...: the programs' outputs into PART.txt, their counts summed, and what failed.
finish() {
    local part=$1 bad
    shift
    cat "$@" >"$out/$part.txt"
    rm -f "$@"
    bad=$(grep -E '^FAIL|^========= .*(Invalid|Error:|Warning:|Uninitialized|divergent|overflow)' \
        "$out/$part.txt" | sort | uniq -c | sort -rn | head -n 60)
    if [ -n "$bad" ]; then
        say "$bad"
        fail "$part, see $part.txt"
    fi
    say "$part: $(awk '/^[a-z_]+: [0-9]+ passed, [0-9]+ failed/ { p += $2; f += $4; s += $6; n++ }
        END { printf "%d passed, %d failed, %d skipped in %d programs", p, f, s, n }' \
        "$out/$part.txt")"
}

# finish_early PART FILE...: the same where this script is ended before its programs are.
finish_early() {
    # shellcheck disable=SC2046  # a list of numbers
    kill $(jobs -p) 2>/dev/null
    wait
    finish "$@"
    exit 143
}

check() {
    local i program files=()
    trap 'finish_early check "${files[@]}"' TERM INT
    if [ -x "$bin/gqmm" ]; then # the longest first
        start check_bench env GQMM_BUILD="$bin" bash tests/check_bench.sh
        start cli_device env GQMM_BUILD="$bin" bash tests/cli/cli_device.sh
    fi
    for program in "$bin"/check_model_cuda "$bin"/test_*; do
        [ ! -x "$program" ] || start "${program##*/}" "$program"
    done
    for ((i = 0; i < shards; i++)); do
        start "check_cuda.$i" "$bin/check_cuda" --shard "$i/$shards"
    done
    wait
    if grep -q 'no CUDA device' "$out/check_cuda.0"; then
        fail "no CUDA device"
    fi
    finish check "${files[@]}"
    trap 'exit 143' TERM INT
}

# ------------------------------------------------------------------ sanitize

# sanitized NAME TOOL COMMAND...
sanitized() {
    local name=$1 tool=$2
    shift 2
    # The wide product has 48 barriers in shared memory; the tools guess how many there may be.
    start "$name" "$sanitizer" --tool "$tool" --num-cuda-barriers 64 --error-exitcode 9 \
        --print-limit 20 "$@"
}

# A cp.async of 16 bytes may bring fewer and fill up with zeros, as products do at the end of a row.
# memcheck before 2026.4 takes it for a read of all 16: there planes end at multiples of 16.
tight() {
    local version
    version=$("$sanitizer" --version | sed -n 's/^Version \([0-9]*\)\.\([0-9]*\).*/\1\2/p')
    [ "${version:-0}" -ge 20264 ] && echo --tight || echo --tight=16
}

sanitize() {
    local tool formats rounds i files=()
    trap 'finish_early sanitize "${files[@]}"' TERM INT
    if ! command -v "$sanitizer" >/dev/null; then
        fail "$sanitizer is not here"
        return
    fi
    for tool in $sanitizer_tools; do
        formats=$sanitizer_formats rounds=3
        [ "$tool" != racecheck ] || formats=$race_formats rounds=1 # it takes ten times as long
        # The longest first: test_wide, test_middle, then the walk from its end.
        # initcheck before 2026.4 takes those copies for whole ones too, and test_wide has room there.
        for ((i = 0; i < 8; i++)); do
            [ "$tool" = initcheck ] || sanitized "$tool.wide.$i" "$tool" "$bin/test_wide" $i/8
        done
        for ((i = 0; i < 4; i++)); do
            sanitized "$tool.middle.$i" "$tool" "$bin/test_middle" $rounds $i/4
        done
        for ((i = shards - 1; i >= 0; i--)); do
            sanitized "$tool.$i" "$tool" "$bin/check_cuda" --quick "$(tight)" --path "$paths" \
                --format "$formats" --op "$sanitizer_ops" --shard "$i/$shards"
        done
        sanitized "$tool.router" "$tool" "$bin/test_router" small
        case $tool in
        racecheck) sanitized racecheck.route "$tool" "$bin/test_route" race ;;
        *)
            sanitized "$tool.route" "$tool" "$bin/test_route" small
            sanitized "$tool.round" "$tool" "$bin/test_round" small
            sanitized "$tool.graph" "$tool" "$bin/test_graph" --quick
            ;;
        esac
    done
    wait
    finish sanitize "${files[@]}"
    trap 'exit 143' TERM INT
}

# ------------------------------------------------------------------ bench

# rows WHAT OPTION...: rows of gqmm bench; the driver is added to each, and the commit where the
# build did not know it.
rows() {
    local what=$1 status
    shift
    timeout "$limit" "$bin/gqmm" bench "$what" --device cuda --precision exact --seconds "$span" \
        --json "$@" >"$out/rows.part" 2>"$out/rows.err"
    status=$?
    sed -E "s/\}\}\$/,\"driver\":\"$driver\"}}/; s/\"commit\":\"unknown\"/\"commit\":\"$(commit)\"/" \
        "$out/rows.part" |
        tee -a "$jsonl" |
        sed -E 's/.*"op":"([a-z]*)","shape":"([^"]*)","format":"([^"]*)".*"isa":"([^"]*)".*"tokens":([0-9]*).*"us":([0-9.e+-]*).*"spread":([0-9.e+-]*),"floor_us":([0-9.e+-]*),"share":([0-9.e+-]*).*/\1 \2 \3 \4 T=\5 us \6 spread \7 floor \8 share \9/' |
        tee -a "$out/bench.txt" >>"$log"
    cat "$out/rows.err" >>"$log"
    [ $status -eq 0 ] || fail "bench $what $*: $(tail -n 1 "$out/rows.err")"
    rm -f "$out/rows.part" "$out/rows.err"
}

four_bit=q4_k,q4_0,mxfp4,affine4_g64_bf16,int4_g128
fast=$four_bit,int4_g64,nvfp4,q5_k,q6_k,q8_0
others=q4_1,q5_0,q5_1,q2_k,q3_k,iq4_nl,iq4_xs,mlx_mxfp4,mlx_mxfp8,mlx_nvfp4
others=$others,affine2_g64_bf16,affine3_g64_bf16,affine5_g64_bf16,affine6_g64_bf16,affine8_g64_bf16
many=1,8,64,512,4096

bench_group() {
    case $1 in
    moe)
        rows moe --shape qwen3.5-35b-a3b --format $fast --tokens $many
        ;;
    int8) # where that has kernels of its own; the rows say so
        rows moe --shape qwen3.5-35b-a3b --format int4_g128 --tokens 256,512,1024 --precision int8
        rows gather --shape 256,1024,2048,8 --format int4_g128 --tokens 256,512 --precision int8
        ;;
    models)
        rows moe --shape qwen3-30b-a3b --format q4_k,affine4_g64_bf16,int4_g128 --tokens $many
        rows moe --shape gpt-oss-20b --format mxfp4,mlx_mxfp4 --tokens $many
        rows moe --shape qwen3-next-80b-a3b --format q4_k,affine4_g64_bf16 --tokens $many
        ;;
    gather)
        rows gather --shape 8,4096,4096,1 --format affine4_g64_bf16,q4_k,int4_g128 --tokens 2,8,32
        rows gather --shape 8,11008,4096,1 --format affine4_g64_bf16,q4_k,int4_g128 --tokens 32
        ;;
    dense)
        local shape
        for shape in 8192,2048 12288,4096 2048,4096; do
            rows qmm --shape "1,$shape,1" --format int4_g128,q4_k,affine4_g64_bf16 \
                --tokens 1,8,64,512,3072
        done
        ;;
    rows)
        rows embed --shape qwen3-30b-a3b --format q4_k,affine4_g64_bf16 --tokens 64,4096
        rows dequantize --shape qwen3-30b-a3b --format q4_k,affine4_g64_bf16 --tokens 4096
        rows quantize --shape qwen3-30b-a3b --format q8_0,affine4_g64_bf16 --tokens 4096
        ;;
    generic) # every family, for the rate per byte
        rows qmm --shape 1,8192,2048,1 --tokens 1,64 --format "$fast,$others,f32,f16,bf16"
        rows qmm --shape 1,8192,2048,1 --tokens 2,4,8,16,32,96,128,256,512,3072 --format "$fast,$others"
        rows qmm --shape 1,12288,4096,1 --tokens 1,4,64 --format "$fast,$others"
        rows gather --shape 8,4096,4096,1 --tokens 2,8,32 --format "$fast,$others"
        rows moe --shape qwen3.5-35b-a3b --tokens $many --format "$others"
        rows moe --shape qwen3.5-35b-a3b --tokens 128,256 --format "$fast,$others"
        ;;
    sustained) # warm to the power limit
        span=3 rows moe --shape qwen3.5-35b-a3b --format int4_g128,q4_k --tokens 4096
        ;;
    *) fail "there is no group $1 of bench" ;;
    esac
}

bench() {
    local name group
    if [ ! -x "$bin/gqmm" ]; then
        fail "no gqmm in $bin: 'gpu.sh OUT pack' where jansson and PCRE2 are makes one"
        return
    fi
    name=$("$bin/gqmm" info | sed -n 's/^ *cuda:0: \([^,]*\),.*/\1/p')
    driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1)
    if [ -z "$name" ]; then
        fail "no CUDA device"
        return
    fi
    jsonl=$out/$(echo "$name" | tr 'A-Z ' 'a-z-')-bench.jsonl
    : >"$out/bench.txt"
    : >"$jsonl"
    for group in $groups; do
        bench_group "$group"
    done
    say "bench: $(wc -l <"$jsonl") rows in $jsonl"
}

# ------------------------------------------------------------------ parts

: >>"$log"
case ${1:-} in
pack | build) ;;
*) [ ! "$build/bin.tar.xz" -nt "$bin/check_cuda" ] || unpack ;;
esac
if [ $# -eq 0 ]; then
    [ -x "$bin/check_cuda" ] || set -- build
    set -- "$@" check sanitize bench
fi
nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.max.sm --format=csv \
    >>"$log" 2>&1 || true
for part in "$@"; do
    begin=$SECONDS
    case $part in
    pack) pack ;;
    build) build_all ;;
    check) check ;;
    sanitize) sanitize ;;
    bench) bench ;;
    *)
        echo "gpu.sh: there is no part $part" >&2
        exit 2
        ;;
    esac
    say "$part: $((SECONDS - begin)) s"
done
exit $failed
