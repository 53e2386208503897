# Everything that is run here. `make help` lists it.
.DEFAULT_GOAL := help
SHELL := /bin/bash
CARGO ?= cargo
TOOLS := target/tools/bin
# What the tests of real pods noted when they could not run.
SKIPPED := target/skipped
TELL_SKIPPED = @[ ! -s $(SKIPPED) ] || { echo "SKIPPED: $$(wc -l <$(SKIPPED)) tests"; cat $(SKIPPED); }

.PHONY: help tools demo demo-stop test test-pure test-cluster test-node images bench bench-resolve soak crds cluster lint docs deny chart-check manifest

help: ## what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

tools: # says what is missing before anything is built
	@tests/prerequisites.sh $(MAKECMDGOALS)

demo: tools ## files, a canary, a quorum, with milliseconds; ACT=quorum: three clusters; KUBECONFIG=… on a cluster of your own, KEEP=1 leaves it running
	@echo "Building operator and sidecar (the first time: a few minutes)" >&2
	@$(CARGO) build --workspace --bins
	@$(if $(KUBECONFIG),,tests/cluster/build.sh >/dev/null)
	@KEEP=$(KEEP) ACT=$(ACT) target/debug/demo

demo-stop: ## ends what KEEP=1 left running
	@tests/demo-stop.sh

test: tools test-pure test-cluster ## all tests

test-pure: ## tests that need no API server
	$(CARGO) build --workspace --bins
	$(CARGO) test --workspace --exclude quorate-tests

test-cluster: ## tests on the real control plane
	@tests/cluster/build.sh >/dev/null
	@tests/helm.sh >/dev/null
	$(CARGO) build --workspace --bins
	@rm -f $(SKIPPED)
	$(CARGO) test -p quorate-tests
	$(TELL_SKIPPED)

test-node: tools ## tests with real pods on a real node; as root, who gets containerd and so on by apt-get
	@tests/cluster/build.sh >/dev/null
	@tests/helm.sh >/dev/null
	@rm -f $(SKIPPED)
	$(CARGO) test -p quorate-tests --test node --test watchers
	$(TELL_SKIPPED)

images: tools ## the images of operator and sidecar, as OCI archives in target/images; PROFILE=release for a release
	@$(CARGO) run --quiet -p quorate-tests --bin images

bench: tools $(if $(PART),,bench-resolve) ## latency, memory, rollouts: tables, and target/bench/results.json; PART= for one: propagation, memory, rollout, pods (as root), counter, queue, handover, quorum or agreement
	@tests/cluster/build.sh >/dev/null
	$(CARGO) build --workspace --bins
	@target/debug/bench $(PART)

bench-resolve: ## resolve with 10, 1,000 and 100,000 keys
	$(CARGO) bench --profile dev -p quorate-resolve

soak: ## the property tests, a hundred times as long and more
	PROPTEST_CASES=25600 $(CARGO) test -p quorate-resolve --test laws
	PROPTEST_CASES=200000 $(CARGO) test -p quorate-operator --test histories
	PROPTEST_CASES=20000 $(CARGO) test -p quorate-coordination --test lock_histories --test lock_state --test queue
	MODEL_DEPTH=16 $(CARGO) test -p quorate-coordination --test model_lock never_two
	MODEL_DEPTH=21 $(CARGO) test -p quorate-coordination --test model_quorum what_is_chosen
	MODEL_DEPTH=14 $(CARGO) test -p quorate-coordination --test model_members what_is_chosen
	PROPTEST_CASES=20000 $(CARGO) test -p quorate-coordination --test redlock --test quorum
	QUORATE_SOAK=600 $(CARGO) test -p quorate-tests --test coordination_lock --test coordination_election --test coordination_queue --test raft --test quorum_chaos

chart-check: tools ## the chart: lint, every value toggle on a real API server, install, upgrade, uninstall
	@tests/cluster/build.sh >/dev/null
	@tests/helm.sh >/dev/null
	$(CARGO) build --workspace --bins
	$(CARGO) test -p quorate-tests --test chart

manifest: ## the one-file install manifest, in target/quorate.yaml
	@mkdir -p target
	@charts/manifest.sh $(HELM_ARGS) >target/quorate.yaml.new && mv target/quorate.yaml.new target/quorate.yaml
	@echo target/quorate.yaml

crds: ## generates crds/*.yaml and docs/api.md from the types
	$(CARGO) run -q -p quorate-crds --bin crdgen crds docs/api.md

cluster: ## builds the control plane
	@tests/cluster/build.sh

lint: ## formatting, clippy
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

docs: ## the crates' documentation, in target/doc, without a warning
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --keep-going

deny: $(TOOLS)/cargo-deny ## licences and sources of all dependencies
	$(TOOLS)/cargo-deny --locked --log-level error check bans licenses sources

$(TOOLS)/cargo-deny:
	@echo "Installing cargo-deny into target/tools, once: two or three minutes" >&2
	@$(CARGO) install --locked --quiet --root target/tools cargo-deny@0.20.2
