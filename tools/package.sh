#!/usr/bin/env bash
# The archive of a release: the program, the experiments with their bundled model and texts, the documentation, our
# licences, and those of every crate that is linked into the program. Then it is unpacked elsewhere, and a row of the
# quickstart is run from it.
#
# package.sh
# Builds into $CARGO_TARGET_DIR, or target; writes peftlab-VERSION-HOST.tar.xz and its digest to package/ there.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
host=$(rustc -vV | sed -n 's/^host: //p')
version=$(cargo pkgid --locked -p peftlab-bench | sed 's/.*[#@]//')
name=peftlab-$version-$host
cargo build --release --locked -p peftlab-bench

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
stage=$scratch/$name
mkdir -p "$stage/licenses"
cp "$target/release/bench" "$stage/"
cp -r README.md CHANGELOG.md LICENSE-APACHE LICENSE-MIT assets docs experiments "$stage/"

# a crate's texts lie in its source; one without any names its licence alone
registry=${CARGO_HOME:-$HOME/.cargo}/registry/src
cargo tree --locked -p peftlab-bench --edges normal --prefix none --no-dedupe --format '{p}|{l}|{r}' |
    grep -v '^peftlab-' | sort -u |
    while IFS='|' read -r crate license repository; do
        read -r crate_name crate_version _ <<<"$crate"
        crate=$crate_name-${crate_version#v}
        echo "$crate: $license; $repository"
        find "$registry"/*/"$crate" -maxdepth 1 -type f \
            \( -iname 'licen[sc]e*' -o -iname 'copying*' -o -iname 'notice*' -o -iname 'unlicense*' \) |
            while read -r text; do
                mkdir -p "$stage/licenses/$crate"
                cp "$text" "$stage/licenses/$crate/"
            done
    done >"$stage/licenses/README.txt"

mkdir -p "$target/package"
archive=$(cd "$target/package" && pwd)/$name.tar.xz
tar -C "$scratch" -c "$name" | xz -T0 -6 >"$archive.part"
mv "$archive.part" "$archive"
(cd "$target/package" && { sha256sum "$name.tar.xz" 2>/dev/null || shasum -a 256 "$name.tar.xz"; } >"$name.sha256")

mkdir "$scratch/elsewhere"
tar -C "$scratch/elsewhere" -xf "$archive"
(cd "$scratch/elsewhere/$name" && ./bench run experiments/quickstart.toml --only head && test -s results/quickstart/table.md)
echo "$archive: $(($(wc -c <"$archive") >> 20)) MiB"
