# The two commands that matter: `make demo` and `make test`. Both install what is missing, and both build with the one
# profile in which the storage engine is compiled, so it is compiled once.

SHELL := /bin/bash
export PATH := $(HOME)/.cargo/bin:$(PATH)
TARGET := $(or $(CARGO_TARGET_DIR),target)
SEED ?= 1
SEEDS ?= 10000

.PHONY: help setup build demo test check sim seeds

help:
	@echo "make demo    two sites on this machine: writes, a killed source, promote, every object read back"
	@echo "make test    every test"
	@echo "make check   format, lints, documentation, licences"
	@echo "make sim     replay one simulated history: SEED=n"
	@echo "make seeds   simulate SEEDS=n histories that nobody has seen before"

setup:
	@bash scripts/setup.sh

build: setup
	@bash scripts/cargo.sh build --release --locked -p lockstep-gateway --bin lockstep

demo: build
	@$(TARGET)/release/lockstep demo

test: setup
	@bash scripts/cargo.sh test --release --locked --workspace --no-run
	cargo test --release --locked --workspace --no-fail-fast

check: setup
	cargo fmt --all --check
	cargo clippy --release --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --release --locked --no-deps --workspace --document-private-items
	@bash scripts/deny.sh

sim: setup
	cargo run --release --locked -p lockstep-tests --bin sim -- --seed $(SEED) --trace

seeds: setup
	cargo run --release --locked -p lockstep-tests --bin sim -- --seeds $(SEEDS) --threads 2
