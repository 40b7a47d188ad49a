#!/usr/bin/env bash
# Makes sure that the image which the Dockerfile starts from is there: pulled, or, where no registry can be reached, made
# from Debian's packages under the same name, with the two programs that the demo's images would install.
set -euo pipefail

image=debian:bookworm-slim
if docker image inspect "$image" >/dev/null 2>&1; then
  exit 0
fi
echo "lockstep: pulling $image"
if timeout 120 docker pull --quiet "$image" >/dev/null 2>&1; then
  exit 0
fi
if ! command -v debootstrap >/dev/null || [ "$(id -u)" != 0 ]; then
  echo "lockstep: $image cannot be pulled; to make it from Debian's packages, debootstrap is needed, and root" >&2
  exit 1
fi
echo "lockstep: $image cannot be pulled; making it from Debian's packages (a minute or two)"
root=$(mktemp -d)
trap 'rm -rf "$root" "$root.log"' EXIT
debootstrap --variant=minbase --include=ca-certificates,curl,dnsmasq-base bookworm "$root" >"$root.log" 2>&1 \
  || { tail -n 20 "$root.log" >&2; exit 1; }
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
tar -C "$root" --one-file-system -c . | docker import - "$image" >/dev/null
