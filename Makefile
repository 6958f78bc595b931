# The commands of daily work. `make check` is the whole gate; `make demo` shows the main job on a fresh machine.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

CARGO  ?= cargo
PREFIX ?= $(if $(filter 0,$(shell id -u)),/usr/local,$(HOME)/.local)
RUST   := 1.91
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
AGENT  := $(TARGET)/debug/agent
PROFILE ?= release
BUILT  := $(TARGET)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))
TINY   := $(abspath target/tiny/tiny.raw)
DEBIAN := $(abspath target/debian/debian.raw)
DEBIAN_HOST := $(abspath target/debian-host/debian.raw)
# The last commit whose agent is of level 1 (proto/src/level.rs): it meets today's in tests/tests/e2e/older.rs.
OLDER  := 1335133f2f5b5230c8d880e7293aa226253b639d

.PHONY: help
help:
	@echo 'make demo        install what is needed, build, and show the main job'
	@echo 'make test        all tests, with the agent and the tiny guest built first'
	@echo 'make check       formatting, lints, dependency rules, then the tests: what CI runs'
	@echo 'make tiny        build the tiny guest; `make -s tiny` prints only its path'
	@echo 'make debian      build the Debian guest (minutes); `make -s debian` prints only its path'
	@echo 'make test-debian the stories with it: cloud-init, systemd, a few minutes of emulation'
	@echo 'make install     put the agent into $(PREFIX)/bin (PREFIX=...)'
	@echo 'make dist        make what people install, in target/dist: a package and a tarball'
	@echo 'make advisories  known vulnerabilities of dependencies (needs the internet)'
	@echo 'make bench       measure ratios on this computer, as root (ONLY=idle, boot, net, dns, image, card, across, http, names, start, rest, dead or evict)'
	@echo 'make bench-deps  install the programs that bench compares with'
	@echo 'make soak        use two hosts for 20 minutes (SECONDS=...) and see that nothing piles up, as root'
	@echo 'make sim         play many worlds of hosts and sessions from seeds (SEEDS=...)'
	@echo 'make fuzz        feed every reader of what strangers write (ONLY=frames, SECONDS=60 each)'
	@echo 'make nat-matrix  who meets whom behind routers of nine kinds, directly or by relay, as root'

# --- what must be there -------------------------------------------------------------------------------------------

.PHONY: packages rust nextest deny
packages:
	@sh .ci/packages

rust:
	@command -v $(CARGO) >/dev/null || { \
	  echo 'Rust is missing: version $(RUST) or newer is needed.' >&2; \
	  echo 'hint: install it with rustup (https://rustup.rs), then again' >&2; exit 1; }
	@have=$$(rustc --version | cut -d' ' -f2); \
	if [ "$$(printf '%s\n%s\n' '$(RUST)' "$$have" | sort -V | head -n 1)" != '$(RUST)' ]; then \
	  echo "Rust $$have is too old: version $(RUST) or newer is needed." >&2; \
	  echo 'hint: rustup update stable' >&2; exit 1; \
	fi

nextest: rust
	@$(CARGO) nextest --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-nextest

deny: rust
	@$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-deny

# --- building -----------------------------------------------------------------------------------------------------

.PHONY: build older tiny debian install dist
build: rust
	@$(CARGO) build --workspace --bins

older: rust
	@CARGO=$(CARGO) sh .ci/older $(OLDER) $(TARGET)

tiny:
	@images/guests/tiny/build target/tiny

debian:
	@images/guests/debian/build target/debian

install: rust
	$(CARGO) build --release -p agent
	install -D -m 755 $(TARGET)/release/agent $(DESTDIR)$(PREFIX)/bin/agent

# What people install, in target/dist: a package of Debian's and a tarball. `make dist PROFILE=dev` is for trying it out.
# The other architecture comes with them where its toolchain is there.
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
HERE    := $(shell uname -m)
OTHER   := $(if $(filter x86_64,$(HERE)),aarch64,x86_64)
dist: rust
	@$(CARGO) build --profile $(PROFILE) -p agent
	@.ci/package $(BUILT)/agent $(VERSION) $(HERE) target/dist
	@if command -v $(OTHER)-linux-gnu-gcc >/dev/null && rustc --print target-libdir --target $(OTHER)-unknown-linux-gnu \
	  2>/dev/null | xargs test -d; then \
	  CARGO_TARGET_$(shell echo $(OTHER) | tr a-z A-Z)_UNKNOWN_LINUX_GNU_LINKER=$(OTHER)-linux-gnu-gcc \
	    $(CARGO) build --profile $(PROFILE) -p agent --target $(OTHER)-unknown-linux-gnu; \
	  .ci/package $(TARGET)/$(OTHER)-unknown-linux-gnu/$(notdir $(BUILT))/agent $(VERSION) $(OTHER) target/dist $(BUILT)/agent; \
	else \
	  echo 'nothing for $(OTHER): that needs $(OTHER)-linux-gnu-gcc and rustup target add $(OTHER)-unknown-linux-gnu' >&2; \
	fi

# --- proving ------------------------------------------------------------------------------------------------------

.PHONY: check lint test demo advisories
check: lint test

lint: rust deny
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) deny --all-features check bans licenses sources

test: packages nextest older build
	@images/guests/tiny/test/run
	@$(MAKE) --no-print-directory -s tiny >/dev/null
	OLDER_AGENT=$(TARGET)/older/agent AGENT_BIN=$(AGENT) NETSIM_BIN=$(TARGET)/debug/netsim TINY_IMAGE=$(TINY) \
	  $(CARGO) nextest run --workspace

# Needs Debian's mirror and minutes, so it is not part of the gate.
.PHONY: test-debian
test-debian: packages nextest build tiny debian
	@images/guests/debian/build target/debian-host qemu-system-x86 qemu-utils >/dev/null
	SLOW=1 DEBIAN_IMAGE=$(DEBIAN) DEBIAN_HOST_IMAGE=$(DEBIAN_HOST) AGENT_BIN=$(AGENT) NETSIM_BIN=$(TARGET)/debug/netsim TINY_IMAGE=$(TINY) \
	  $(CARGO) nextest run -p tests debian

# Needs the internet, so it is not part of the gate.
advisories: deny
	$(CARGO) deny check advisories

# Ends with its table in target/soak.md. Not by nextest, which would end it.
.PHONY: soak
SECONDS ?= 1200
soak: packages build
	@images/guests/tiny/build target/tiny >/dev/null
	REQUIRE_LAB=1 SOAK_SECONDS=$(SECONDS) SOAK_TABLE=$(abspath target/soak.md) AGENT_BIN=$(AGENT) \
	  NETSIM_BIN=$(TARGET)/debug/netsim TINY_IMAGE=$(TINY) $(CARGO) test -p tests --test e2e soak:: -- --nocapture

demo: packages build
	@images/guests/tiny/build target/tiny >/dev/null
	@AGENT_BIN=$(AGENT) NETSIM_BIN=$(TARGET)/debug/netsim TINY_IMAGE=$(TINY) examples/demo.sh

# --- measuring ----------------------------------------------------------------------------------------------------

# Figures of a development build say little: `make bench PROFILE=dev` is for trying the bench itself.
.PHONY: bench bench-deps
bench: packages rust
	@$(CARGO) build --profile $(PROFILE) -p agent -p netsim --bins
	@images/guests/tiny/build target/tiny >/dev/null
	@AGENT_BIN=$(BUILT)/agent NETSIM_BIN=$(BUILT)/netsim TINY_IMAGE=$(TINY) netsim/bench $(ONLY)

bench-deps:
	@sh .ci/packages --also dnsperf dnsmasq:dnsmasq-base passt wireguard-go wg:wireguard-tools iperf3 wrk haproxy serf

# Many seeds of the world of `netsim`: `make sim SEEDS=10000`.
SEEDS ?= 2000
.PHONY: sim
sim: packages nextest
	SEEDS=$(SEEDS) $(CARGO) nextest run --cargo-profile sim -p netsim --lib --no-capture \
	  as_many_worlds_as_are_asked_for_keep_every_promise

# Each reader of what strangers write, by what libFuzzer thinks of: `make fuzz ONLY=frames SECONDS=600`. What it keeps of its
# own stays in target/fuzz; what is worth keeping for ever is moved to fuzz/corpus by `KEEP=1`, which `make test` replays.
.PHONY: fuzz
fuzz: ONLY = frames dhcp names gateway datagrams handshakes front
fuzz: SECONDS = 60
fuzz: rust
	@RUSTC_WORKSPACE_WRAPPER=$(CURDIR)/fuzz/instrumented $(CARGO) build -p fuzz --features libfuzzer --bin fuzz
	@set -e; for target in $(ONLY); do \
	  mkdir -p target/fuzz/$$target fuzz/corpus/$$target; \
	  FUZZ_TARGET=$$target $(TARGET)/debug/fuzz -max_total_time=$(SECONDS) -timeout=10 -rss_limit_mb=2048 -max_len=4096 \
	    -print_final_stats=1 -artifact_prefix=target/fuzz/$$target- target/fuzz/$$target fuzz/corpus/$$target; \
	  if [ -n "$(KEEP)" ]; then \
	    FUZZ_TARGET=$$target $(TARGET)/debug/fuzz -merge=1 -max_len=512 fuzz/corpus/$$target target/fuzz/$$target; fi; \
	done

# Nine hosts behind routers of every kind, as root: which pairs meet directly, which by relay, and after how long.
.PHONY: nat-matrix
nat-matrix: packages build
	REQUIRE_LAB=1 AGENT_BIN=$(AGENT) NETSIM_BIN=$(TARGET)/debug/netsim \
	  $(CARGO) test -q -p tests --test e2e nat_matrix::hosts_behind_every_kind -- --ignored --nocapture
