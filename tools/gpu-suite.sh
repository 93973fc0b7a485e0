#!/usr/bin/env bash
# What Burn does with a 7B model on one GPU, beside PyTorch + transformers + PEFT where they are installed: rates of the
# device, attention, LoRA on LLaMA-7B by batch and length, whether memory stays flat, which kernels take the time; and
# how far its numbers are from PEFT's.
# Takes less than ten minutes on an H100. Builds nothing, downloads nothing. A part that fails says why; the others go on.
#
# gpu-suite.sh [--tiny] [--out DIR]
#   --tiny  the same on the CPU, at sizes that take seconds
#   --out   where logs, records and the table go          [default: results/gpu-suite, or results/gpu-suite-tiny]
# BENCH=PATH names the program (default: bin/bench of tools/pack-gpu.sh's archive, else target/release/bench),
# PYTHON=PATH the Python with torch, transformers and peft (default: python3).
set -uo pipefail
cd "$(dirname "$0")/.."

tiny=
out=
while [[ $# -gt 0 ]]; do
    case $1 in
    --tiny) tiny=yes ;;
    --out) out=${2:?--out needs a folder} && shift ;;
    *) echo "error: unknown argument $1; see the head of $0" >&2 && exit 2 ;;
    esac
    shift
done
bench=${BENCH:-$([[ -x bin/bench ]] && echo bin/bench || echo target/release/bench)}
python=${PYTHON:-python3}
out=${out:-results/gpu-suite${tiny:+-tiny}}
device=${tiny:+cpu}
device=${device:-cuda:0}
file=experiments/gpu/${tiny:+tiny-}
[[ -x $bench ]] || { echo "error: no program at $bench; build one, or name it with BENCH" >&2 && exit 2; }
# what an earlier run left there would be taken for this one's
rm -rf "$out"/{device,peer-device}.json "$out"/{ours,peer,steady,profile} "$out"/*.log "$out/table.txt"
mkdir -p "$out" || exit 2

# CubeCL's code generator links libdevice; Triton brings one where there is no toolkit.
if [[ -z $tiny && -z ${CUDA_PATH:-} && ! -e /usr/local/cuda/nvvm/libdevice/libdevice.10.bc ]]; then
    found=$("$python" -c 'import triton, pathlib; print(next(pathlib.Path(triton.__file__).parent.rglob("libdevice.10.bc")))' 2>/dev/null)
    if [[ -n $found ]]; then
        export CUDA_PATH=$PWD/$out/toolkit
        mkdir -p "$CUDA_PATH/nvvm/libdevice" && ln -sf "$found" "$CUDA_PATH/nvvm/libdevice/libdevice.10.bc"
    fi
fi

status=0
# part NAME SECONDS COMMAND..: runs COMMAND for at most SECONDS, with its output in NAME.log.
part() {
    local name=$1 seconds=$2 begin=$SECONDS code
    shift 2
    timeout "$seconds" "$@" >"$out/$name.log" 2>&1
    code=$?
    case $code in
    0) echo "$name: done, $((SECONDS - begin)) s" ;;
    124) echo "$name: stopped after $seconds s; what it had is kept" ;;
    *) echo "$name: failed with $code: $(grep -v '^\s*$' "$out/$name.log" | tail -1 | cut -c1-200)" ;;
    esac
    return $code
}
ours() { part "$@" || status=1; }
# asked once: these imports take seconds
"$python" -c 'import torch, transformers, peft' 2>/dev/null && peer_here=yes || peer_here=
peer() {
    if [[ -n $peer_here ]]; then
        part "$@"
    else
        echo "$1: left out, $python has not all of torch, transformers and peft"
    fi
}

begin=$SECONDS
bundles=tests/fixtures/parity
# no failure of the suite: products in tf32 are less exact than a bundle's tolerance
part parity 40 "$bench" parity $bundles/llama-{lora,none,prefix-tuning,increlora} $bundles/bert-lora --device "$device"
ours device 100 "$bench" device "$device" ${tiny:+--tiny} --out "$out/device.json"
peer peer-device 50 "$python" tools/peer/device.py "$device" ${tiny:+--tiny} --out "$out/peer-device.json"
ours throughput 170 "$bench" run "${file}throughput.toml" --out "$out/ours"
peer peer-throughput 90 "$python" tools/peer/run.py "${file}throughput.toml" --out "$out/peer"
ours steady 80 "$bench" run "${file}steady.toml" --out "$out/steady"
ours profile 60 "$bench" run "${file}profile.toml" --out "$out/profile"

# theirs PATH: the file or folder, where it is there.
theirs() { [[ -e $1 ]] && echo "$1"; }
{
    echo "== parity with PEFT in f32: the largest error of each kind over what a CPU is allowed"
    cat "$out/parity.log"
    echo
    echo "== the device"
    "$bench" compare "$out/device.json" $(theirs "$out/peer-device.json")
    echo
    echo "== LoRA on LLaMA, bf16"
    "$bench" compare "$out/ours" $(theirs "$out/peer/runs" >/dev/null && echo "$out/peer")
    echo
    echo "== memory over many steps"
    "$bench" compare "$out/steady"
    echo
    echo "== where the time goes"
    "$bench" compare "$out/profile"
} >"$out/table.txt" 2>&1
echo
cat "$out/table.txt"
echo
echo "$((SECONDS - begin)) s in all. Logs, records, this table: $out"
exit $status
