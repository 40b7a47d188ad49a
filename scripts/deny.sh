#!/usr/bin/env bash
# Licences, bans and sources of the dependencies against deny.toml, and their known defects where the database of
# advisories can be fetched. Without cargo-deny nothing is checked, and this says so.
set -euo pipefail

if ! command -v cargo-deny >/dev/null; then
  echo "lockstep: cargo-deny is not installed (cargo install cargo-deny): licences and advisories are not checked"
  exit 0
fi
cargo deny --offline --locked check bans licenses sources
if cargo deny fetch db >/dev/null 2>&1; then
  cargo deny --locked check advisories
else
  echo "lockstep: the database of advisories cannot be fetched: known defects of dependencies are not checked"
fi
