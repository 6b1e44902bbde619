# gnomon. `make demo` shows the main job on live traffic; `make test` runs every test. Both install what they lack.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help deps build demo test fuzz bench bench-flows bench-end-to-end bench-store lint generate clean

IFACE ?=
ONCE ?=
ONLY ?=
WRITE ?=
ROWS ?= 5000000
PEERS ?=
PACED ?=

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18
	@echo "  make demo ONCE=1      the same once, checking every part; exit 0 only if all was seen to work"
	@echo "  make demo IFACE=eth0  capture a real interface (its traffic stays its own)"

deps: ## install what building, the demo and the tests need (apt, rustup)
	@deploy/install-deps.sh

build: deps ## build the release binaries
	@source deploy/build-env.sh && cargo build --release --locked -p gnomon-agent -p gnomon-collector -p gnomon-cli -p gnomon-integration-tests --bins

demo: build ## capture live traffic with AF_XDP in a network of its own, and show it
	@source deploy/build-env.sh && deploy/demo.sh "$$target_dir/release" $(if $(IFACE),--interface $(IFACE)) $(if $(ONCE),--once)

test: deps ## run every test
	@source deploy/build-env.sh && deploy/test.sh

fuzz: deps ## fuzz every parser with libFuzzer (SECONDS_EACH=600, ONLY=decode)
	@source deploy/build-env.sh && deploy/fuzz.sh "$(or $(SECONDS_EACH),600)" "$(ONLY)"

bench: build ## speed beside tcpdump and a bare receiver, a profile, how soon a packet is found (ONLY=, WRITE=1)
	@source deploy/build-env.sh && ONLY="$(ONLY)" WRITE="$(WRITE)" deploy/bench.sh "$$target_dir/release"

bench-flows: build ## how fast capture files become flow records, beside the peers that are installed; then bench-end-to-end (WRITE=1)
	@source deploy/build-env.sh && "$$target_dir/release/gnomon-bench" --bin-dir "$$target_dir/release" --only flows $(if $(WRITE),--write docs/benchmarks.md)
	@$(MAKE) --no-print-directory bench-end-to-end

bench-end-to-end: build ## how fast they are stored with every packet, beside Arkime where GNOMON_ARKIME names its capture (WRITE=1)
	@source deploy/build-env.sh && "$$target_dir/release/gnomon-bench" --bin-dir "$$target_dir/release" --only end-to-end $(if $(WRITE),--write docs/benchmarks.md)

bench-store: deps ## records in, bytes each, and how soon questions are answered, on made-up traffic (ROWS=5000000); PACED=30: searches while 100,000 a second come in; PEERS=1: beside ClickHouse and DuckDB
	@source deploy/build-env.sh && cargo build --release --locked -p gnomon-collector --example store_bench && \
		PEERS="$(PEERS)" PACED="$(PACED)" deploy/bench-store.sh "$$target_dir/release/examples/store_bench" $(ROWS)

lint: deps ## formatting, clippy, tidy, generated files, licences, deployment files
	@source deploy/build-env.sh && deploy/lint.sh

generate: deps ## write the generated documentation and examples anew
	@source deploy/build-env.sh && cargo run --quiet -p xtask -- generate

clean: ## remove what building made
	cargo clean
