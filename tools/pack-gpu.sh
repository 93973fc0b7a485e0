#!/usr/bin/env bash
# One archive below 60 MiB with all that tools/gpu-suite.sh needs on a machine with a GPU and no toolchain: the program,
# the experiments with their bundled model and texts, the parity bundles, the suite, its peer. There: tar xf, then
# tools/gpu-suite.sh.
#
# pack-gpu.sh [FEATURE]     FEATURE: cuda (Burn's LLVM code generator; the default) or cuda-cpp (NVRTC)
# Builds into $CARGO_TARGET_DIR, or target; writes peftlab-FEATURE.tar.xz there.
set -euo pipefail
cd "$(dirname "$0")/.."

feature=${1:-cuda}
target=${CARGO_TARGET_DIR:-target}
name=peftlab-$feature
# without a toolkit at build time the newest CUDA would be assumed, and a driver may be older
export CUDARC_CUDA_VERSION=${CUDARC_CUDA_VERSION:-13000}
cargo build --release --locked --features "$feature"

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
mkdir -p "$stage/$name/bin" "$stage/$name/tools"
cp "$target/release/bench" "$stage/$name/bin/bench"
strip "$stage/$name/bin/bench"
cp -r experiments assets "$stage/$name/"
cp -r tools/gpu-suite.sh tools/peer "$stage/$name/tools/"
mkdir -p "$stage/$name/tests/fixtures" && cp -r tests/fixtures/parity "$stage/$name/tests/fixtures/"
rm -rf "$stage/$name/tools/peer/__pycache__"
archive=$target/$name.tar.xz
tar -C "$stage" -c "$name" | xz -T0 -6 >"$archive.part"
mv "$archive.part" "$archive"
bytes=$(stat -c %s "$archive")
echo "$archive: $((bytes >> 20)) MiB; the program alone: $(($(stat -c %s "$stage/$name/bin/bench") >> 20)) MiB unpacked"
if ((bytes >= 60 << 20)); then
    echo "error: $archive has $bytes bytes, 60 MiB or more" >&2
    exit 1
fi
