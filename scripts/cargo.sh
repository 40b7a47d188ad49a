#!/usr/bin/env bash
# Runs a cargo build with a sign of life: the storage engine takes minutes the first time. Its output is shown when it
# fails, or as it comes with V=1.
set -uo pipefail
export PATH="$HOME/.cargo/bin:$PATH"

if [ "${V:-0}" = 1 ]; then
  exec cargo "$@"
fi

# What the build is at: RocksDB's own files while they are compiled, which is most of it, else the newest crate.
at_work() {
  local out objects
  for out in "${CARGO_TARGET_DIR:-target}"/release/build/librocksdb-sys-*/out; do
    objects=$(find "$out" -maxdepth 1 -name '*.o' 2>/dev/null | wc -l)
    if [ "$objects" -gt 0 ] && [ ! -e "$out/librocksdb.a" ]; then
      echo "RocksDB: $objects of about 340 files"
      return
    fi
  done
  grep -E '^ +Compiling' "$log" | tail -n 1 | sed 's/^ *//' | grep . || echo "fetching crates"
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
if compgen -G "${CARGO_TARGET_DIR:-target}/release/build/librocksdb-sys-*/out/librocksdb.a" >/dev/null; then
  echo "lockstep: building"
else
  echo "lockstep: building (the storage engine, RocksDB, is compiled this first time: 5 to 15 minutes on two cores)"
fi
began=$SECONDS
cargo "$@" >"$log" 2>&1 &
build=$!
said=0
while kill -0 "$build" 2>/dev/null; do
  sleep 1
  passed=$((SECONDS - began))
  if [ $((passed - said)) -ge 20 ]; then
    said=$passed
    echo "lockstep: still building after ${passed} s ($(at_work))"
  fi
done
wait "$build"
code=$?
if [ "$code" -ne 0 ]; then
  tail -n 80 "$log" >&2
  echo "lockstep: the build failed after $((SECONDS - began)) s" >&2
  exit "$code"
fi
echo "lockstep: built in $((SECONDS - began)) s"
