#!/usr/bin/env bash
# A wasm32 standard library for a rustup toolchain that can't run `rustup target add`:
# built from the matching library sources, which Debian carries as the package rust-src.
#
#   wasm-std.sh CACHE_DIR [TARGET...]        (default target: wasm32-unknown-unknown)
#
# Prints the sysroot to use: RUSTFLAGS="--sysroot=$(wasm-std.sh DIR)". Idempotent: half a minute the first time,
# 0.1 s after that. Prints the toolchain's own sysroot where the targets are installed already.
set -euo pipefail

mkdir -p "$1"
CACHE=$(cd "$1" && pwd)
shift
TARGETS=("${@:-wasm32-unknown-unknown}")
VER=$(rustc -vV | sed -n 's/^release: //p')
HOST=$(rustc -vV | sed -n 's/^host: //p')
SYS=$(rustc --print sysroot)

have=1
for target in "${TARGETS[@]}"; do
  [ -d "$SYS/lib/rustlib/$target/lib" ] || have=0
done
if [ $have = 1 ]; then
  echo "$SYS"
  exit 0
fi

# rustc release -> file in the Debian pool (main/r/rustc), sha256
declare -A DEB=([1.95.0]="rust-src_1.95.0+dfsg1-2~bpo13+1_all.deb 7b76db5b880a77f9e52975d2baa6209d2f76d2c9c2789515c3088cb960e2c83b")
declare -A ORIG=([1.95.0]="rustc_1.95.0+dfsg1.orig.tar.xz fee0a232c32b6f919b2166efc441a7c37884905bdcc2170163579eeed5feee6b")
: "${DEB[$VER]:?no pinned source for rustc $VER}"

# The mirror that this machine's apt already uses.
apt_mirror() {
  apt-get indextargets --format '$(SITE)' 2>/dev/null | grep -v -- -security | sort | uniq -c | sort -rn | awk 'NR==1 {print $2}'
}
MIRROR=${DEBIAN_MIRROR:-$(apt_mirror || true)}
: "${MIRROR:?apt names no mirror; set DEBIAN_MIRROR}"
POOL=${MIRROR%/}/pool/main/r/rustc
OUT=$CACHE/sysroot-$VER
SRC=$CACHE/src-$VER

get() { # name sha256
  [ -f "$CACHE/$1" ] && echo "$2  $CACHE/$1" | sha256sum -c --quiet 2>/dev/null && return 0
  curl -fsS --retry 3 -o "$CACHE/$1.part" "$POOL/$1" &&
    echo "$2  $CACHE/$1.part" | sha256sum -c --quiet >&2 &&
    mv "$CACHE/$1.part" "$CACHE/$1"
}

if [ ! -f "$SRC/.ok" ]; then
  rm -rf "$SRC"
  mkdir -p "$SRC"
  read -r deb deb_sum <<<"${DEB[$VER]}"
  read -r orig orig_sum <<<"${ORIG[$VER]}"
  if get "$deb" "$deb_sum"; then
    dpkg-deb --fsys-tarfile "$CACHE/$deb" | tar -x -C "$SRC" --strip-components=5 --wildcards './usr/src/rustc-*/library/*'
  else
    get "$orig" "$orig_sum"
    tar -xJf "$CACHE/$orig" -C "$SRC" --strip-components=2 --wildcards '*/library/*'
  fi
  touch "$SRC/.ok"
fi

mkdir -p "$OUT/lib/rustlib" "$OUT/.work/empty"
ln -sfn "$SYS/lib/rustlib/$HOST" "$OUT/lib/rustlib/$HOST"
for target in "${TARGETS[@]}"; do
  [ -f "$OUT/lib/rustlib/$target/.ok" ] && continue
  (
    cd "$SRC/sysroot"
    export RUSTC_BOOTSTRAP=1 CARGO_INCREMENTAL=0 CARGO_TARGET_DIR="$OUT/.work/target" __CARGO_DEFAULT_LIB_METADATA=wasm-std
    cargo fetch --locked --target "$target" >&2
    export RUSTFLAGS="--sysroot=$OUT/.work/empty -Zforce-unstable-if-unmarked -Cembed-bitcode=yes --remap-path-prefix=$SRC=/rustc/library"
    # No path of this machine goes into the library.
    for crates in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*; do
      RUSTFLAGS+=" --remap-path-prefix=$crates=/rust/deps"
    done
    cargo build --release --locked --target "$target" >&2
  )
  lib=$OUT/lib/rustlib/$target/lib
  rm -rf "$lib"
  mkdir -p "$lib"
  cp "$OUT/.work/target/$target/release/deps/"*.rlib "$lib/"
  touch "$OUT/lib/rustlib/$target/.ok"
done
rm -rf "$OUT/.work/target"
echo "$OUT"
