# Keyholder. `make` lists what there is.
SHELL := /bin/bash
.NOTPARALLEL:

export PATH := $(CURDIR)/target/tools/bin:$(CURDIR)/target/tools/venv/bin:$(PATH)
setup := deploy/tools/setup
target := $(abspath $(or $(CARGO_TARGET_DIR),target))
keyholder := $(target)/debug/keyholder
dev_dir := .keyholder
FUZZ_SECONDS ?= 60
CRASH_KILLS ?= 2000
CRASH_SEED ?=

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: ## Build, walk once through connect, grant, resolve, revoke, refused, and stay up
	@$(setup) postgres
	cargo build --locked -p keyholder-server --bin keyholder
	@exec $(keyholder) dev --dir $(dev_dir) --walk

.PHONY: test
test: check check-queries test-contract test-rust ## Everything that CI checks

.PHONY: check
check: check-format check-spelling check-proto check-clippy check-docs check-deny ## The fast checks, cheapest first

.PHONY: fmt
fmt: ## Format Rust and proto files
	@$(setup) checks
	cargo fmt --all
	buf format --write

# === The checks, one by one ===

.PHONY: check-format
check-format:
	cargo fmt --all --check

.PHONY: check-spelling
check-spelling:
	@$(setup) checks
	typos

.PHONY: check-proto
check-proto:
	@$(setup) checks
	buf lint
	buf format --diff --exit-code
	buf breaking --against proto/baseline.binpb

# The image is built without the `dev` feature, so both are checked.
.PHONY: check-clippy
check-clippy:
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked --workspace --no-default-features -- -D warnings

.PHONY: check-docs
check-docs:
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items --quiet

.PHONY: check-queries
check-queries:
	@$(setup) postgres
	deploy/tools/check-queries

.PHONY: check-deny
check-deny:
	@if command -v cargo-deny >/dev/null; then \
	    set -x; cargo deny --log-level error check bans licenses sources; \
	else \
	    echo "cargo-deny is not installed (make deny does it); the tests check the same rules"; \
	fi

.PHONY: deny
deny: ## Check dependencies with cargo-deny, advisories included (needs the network)
	@$(setup) cargo-deny
	cargo deny check

# === The tests ===

# What both kinds of test run against, so that neither tests an old binary.
.PHONY: build-tests
build-tests:
	@$(setup) postgres
	cargo build --locked --workspace --all-targets

test-contract test-rust crash: export KEYHOLDER_BIN := $(keyholder)

.PHONY: test-contract
test-contract: build-tests ## grpcurl and a Python client against the running binary
	@$(setup) checks
	tests/contract/run

.PHONY: test-rust
test-rust: build-tests ## Every Rust test
	@$(setup) peers chromium
	cargo test --locked --workspace --doc --quiet
	@if cargo nextest --version >/dev/null 2>&1; then \
	    set -x; cargo nextest run --locked --workspace; \
	else \
	    set -x; cargo test --locked --workspace --all-targets --no-fail-fast; \
	fi

.PHONY: fuzz
fuzz: ## Fuzz every target for FUZZ_SECONDS (default 60) each
	@$(setup) cargo-fuzz
	@export RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR="$(CURDIR)/fuzz/target"; \
	for target in $$(cargo fuzz list); do \
	    echo "fuzz: $$target, $(FUZZ_SECONDS) s"; \
	    mkdir -p fuzz/corpus/$$target; \
	    cargo fuzz run $$target fuzz/corpus/$$target fuzz/seeds/$$target -- \
	        -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

.PHONY: crash
crash: build-tests ## Kill CRASH_KILLS (default 2000) processes amid refreshes; CRASH_SEED repeats the choices
	@$(setup) peers
	CRASH_KILLS="$(CRASH_KILLS)" CRASH_SEED="$(CRASH_SEED)" \
	    cargo test --locked -p keyholder-tests --test suite -- crash::f1_f2 --nocapture

# === Figures ===

.PHONY: bench
bench: ## Measure the release build, into target/bench/report.json and docs/benchmarks (QUICK=1: into the former only)
	@$(setup) postgres
	cargo build --locked --release -p keyholder-server -p keyholder-bench --bins --features keyholder-server/plain
	@mkdir -p $(target)/bench && cp -f $(target)/release/keyholder $(target)/bench/keyholder-plain
	cargo build --locked --release -p keyholder-server -p keyholder-bench --bins
	@$(target)/release/keyholder-bench all --keyholder $(target)/release/keyholder \
	    --plain $(target)/bench/keyholder-plain $(if $(QUICK),--quick,--publish docs/benchmarks)

# === Committed files that are made from others ===

.PHONY: gen
gen: ## Make every committed generated file again
	UPDATE_GENERATED=1 cargo test -p keyholder-proto
	UPDATE_SCHEMA=1 cargo test -p keyholder-catalog
	@$(setup) postgres
	deploy/tools/check-queries --write

.PHONY: proto-baseline
proto-baseline: ## At a release: let buf breaking compare with the protos as they are now
	@$(setup) checks
	buf build --exclude-source-info -o proto/baseline.binpb

.PHONY: clean-dev
clean-dev: ## Forget everything that make run keeps
	rm -rf $(dev_dir)
