# Everything one does with this repository. `make help` lists it.

CARGO_FLAGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=
TARGET := $(or $(CARGO_TARGET_DIR),target)
DASHBOARDS_VENV := $(TARGET)/dashboards-venv

# Python's own files stay out of the tree.
export PYTHONDONTWRITEBYTECODE := 1

# Where rustup puts cargo, for shells that have not read its profile. Last, so that it beats nothing.
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo build test check fmt clippy doc deny deny-if-there advisories truth bench fuzz dashboards check-dashboards screenshots \
	deps deps-bench deps-demo deps-dashboards

help: ## Show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# A debug build: it starts a minute sooner than a release build, and the demo is not about speed. `exec`, so that
# Ctrl-C and a signal to make reach the demo itself, which ends everything it started.
demo: deps-demo build ## Run a limiter, the exporter and a tour of the faults it finds, with pages (DEMO_ARGS="--exit --listen 127.0.0.1:9972")
	@exec $(TARGET)/debug/lab demo $(DEMO_ARGS)

build:
	cargo build --workspace $(CARGO_FLAGS)

# The integration tests run the binaries as processes, so these are built first.
test: deps check check-dashboards build ## Check, then run all tests
	cargo test --workspace $(CARGO_FLAGS)

check: fmt clippy doc deny-if-there ## Formatting, lints, documentation, dependencies

fmt:
	cargo fmt --all -- --check

clippy:
	cargo clippy --workspace --all-targets $(CARGO_FLAGS) -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items $(CARGO_FLAGS)

deny: ## Check the dependencies' licences, sources and versions with cargo-deny
	@command -v cargo-deny >/dev/null || { \
		echo "make deny: cargo-deny is not installed. Run: cargo install --locked cargo-deny" >&2; exit 2; }
	cargo deny check bans licenses sources

deny-if-there:
	@if command -v cargo-deny >/dev/null; then \
		$(MAKE) --no-print-directory deny; \
	else \
		echo "NOT CHECKED: licences, sources and versions of dependencies: cargo-deny is not installed (make deny says how)"; \
	fi

advisories: ## Check the dependencies for known vulnerabilities (needs the network)
	cargo deny check advisories

truth: deps build ## Run the truth suite: every fault against real servers, with its table
	cargo test --test truth $(CARGO_FLAGS) -- --nocapture

bench: deps-bench ## Measure what it costs, against what Redis costs (BENCH_ARGS="--most 100000")
	cargo build --release --workspace $(CARGO_FLAGS)
	cargo bench --bench scale $(CARGO_FLAGS) -- $(BENCH_ARGS)

fuzz: ## Throw hostile input at every way in (FUZZ_SECONDS=60 for each; docs/FUZZING.md)
	@scripts/fuzz

dashboards: deps-dashboards $(DASHBOARDS_VENV)/made ## Generate grafana/dashboards from grafana/generator
	$(DASHBOARDS_VENV)/bin/python grafana/generator

# What the tests of the page saw, as the README shows it.
screenshots: deps build ## Take the pictures of the page in docs/ anew
	cargo test --test integration $(CARGO_FLAGS) -- page::it_says_how_things_stand
	@for state in healthy violated blind; do cp $(TARGET)/debug/screenshots/$$state.png docs/page-$$state.png; done

check-dashboards: deps-dashboards $(DASHBOARDS_VENV)/made
	$(DASHBOARDS_VENV)/bin/python grafana/generator/check.py

# Grafana's own models, from PyPI, by hash. Made anew when their version changes.
$(DASHBOARDS_VENV)/made: grafana/requirements.txt
	python3 -m venv --clear $(DASHBOARDS_VENV)
	$(DASHBOARDS_VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $< || { \
		echo "make: pip could not install grafana-foundation-sdk from PyPI: the dashboards cannot be checked without it" >&2; exit 2; }
	touch $@

deps: ## See that everything tests need is here; as root, install it
	@scripts/deps cargo cargo-fmt cargo-clippy cc redis-server redis-cli prometheus promtool prometheus-alertmanager amtool curl jq setpriv python3 chromium

deps-bench:
	@scripts/deps cargo cc redis-server setpriv prometheus-redis-exporter

deps-dashboards:
	@scripts/deps python3

# Without the last two the demo shows everything but the pages.
deps-demo:
	@scripts/deps cargo cc redis-server setpriv
	@scripts/deps prometheus prometheus-alertmanager || echo "going on without them: the demo prints no pages" >&2
