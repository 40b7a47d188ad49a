#!/usr/bin/env bash
# Installs what the build needs and this machine lacks: a C and C++ compiler, libclang (for the bindings of the storage
# engine) and, where there is no cargo, Rust by its own installer. Asks nothing; says what and why. Debian and Ubuntu.
set -euo pipefail

missing=()
command -v cc >/dev/null && command -v c++ >/dev/null || missing+=(build-essential)
# The library itself, by the names that bindgen looks for: libclang-cpp, which other packages bring, is another one.
found_clang=$(ls /usr/lib/llvm-*/lib/libclang{.so,-[0-9]}* /usr/lib/*/libclang{.so,-[0-9]}* /usr/lib64/libclang{.so,-[0-9]}* 2>/dev/null | head -n 1 || true)
[ -n "$found_clang" ] || missing+=(libclang-dev)
export PATH="$HOME/.cargo/bin:$PATH"
if ! command -v cargo >/dev/null; then
  command -v curl >/dev/null || missing+=(curl ca-certificates)
fi

if [ ${#missing[@]} -gt 0 ]; then
  echo "lockstep: missing here: ${missing[*]} (compiler and libclang build the storage engine, RocksDB)"
  install="apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends ${missing[*]}"
  if ! command -v apt-get >/dev/null; then
    echo "lockstep: this system has no apt-get; please install the equivalents of: ${missing[*]}" >&2
    exit 1
  elif [ "$(id -u)" = 0 ]; then
    as_root=(bash -c "$install")
  elif sudo -n true 2>/dev/null; then
    as_root=(sudo bash -c "$install")
  else
    echo "lockstep: this user may not install packages without a password. Please run:" >&2
    echo "  sudo apt-get update && sudo apt-get install -y --no-install-recommends ${missing[*]}" >&2
    exit 1
  fi
  echo "lockstep: installing them with apt-get (a minute or two)"
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT
  "${as_root[@]}" >"$log" 2>&1 || { tail -n 20 "$log" >&2; exit 1; }
fi

if ! command -v cargo >/dev/null; then
  echo "lockstep: installing Rust by its own installer, rustup, for this user"
  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y -q --profile minimal --no-modify-path
fi
