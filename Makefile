# Entry points; docs/development.md explains them. `make` alone builds.
SECONDS ?= 3600
ARCH ?= amd64
TAG ?=

.PHONY: build demo demo-kube demo-fabric test fuzz storm outage upgrade bench bench-kube e2e e2e-kernel e2e-arm64 e2e-deb lint crds manifests image deb setup

build: ## release binaries in target/release
	tests/setup.sh build
	cargo build --release --locked -p balancing-agent -p balancing-ctl
	cargo rustc --release --locked -p balancing-cni --bin balancing-cni -- -C target-feature=+crt-static

demo: build ## a live redirect on this machine, without Kubernetes
	tests/setup.sh run go && tests/as-root.sh tests/demo.sh

demo-kube: build ## the node-local DNS story on a real control plane, with kubectl
	tests/setup.sh run go kube && tests/as-root.sh tests/demo.sh kube

demo-fabric: build ## pods of an overlay reached from a host outside the cluster, through tunnels that build themselves
	tests/setup.sh run kube && tests/as-root.sh tests/demo.sh fabric

test: ## every test, kernel tests as root
	tests/setup.sh build run go kube flannel helm prometheus && cargo build --locked --workspace
	tests/as-root.sh cargo test --locked --workspace --no-fail-fast

fuzz: ## every parser of what others wrote, SECONDS= for each target
	tests/setup.sh build run && cargo build --locked --workspace
	BALANCING_FUZZ_SECONDS=$(SECONDS) tests/as-root.sh cargo test --locked -p balancing-cni --bin balancing-cni fuzz -- --nocapture
	BALANCING_FUZZ_SECONDS=$(SECONDS) tests/as-root.sh cargo test --locked -p balancing-tests --test fuzz -- --nocapture

storm: ## a million connections while everything changes
	tests/setup.sh build run && BALANCING_STORM=1000000 tests/as-root.sh cargo test --locked -p balancing-tests --test sockets_storm -- --nocapture

outage: ## ten minutes without API server, with traffic through tunnel and proxy
	tests/setup.sh build run kube && cargo build --locked --workspace
	BALANCING_OUTAGE=600 tests/as-root.sh cargo test --locked -p balancing-tests --test kube fabric_outage -- --nocapture

upgrade: ## from the agent of an earlier commit (FROM=) to this one, under load
	tests/setup.sh build run && cargo build --locked --workspace && tests/upgrade.sh $(FROM)

bench: build ## the numbers of docs/, measured here
	tests/setup.sh run go && tests/as-root.sh cargo bench --locked -p balancing-tests --bench numbers

bench-kube: build ## the numbers of docs/ on a real control plane, measured here
	tests/setup.sh run kube && tests/as-root.sh cargo bench --locked -p balancing-tests --bench kube

e2e: ## a cluster of virtual machines, with the chart on it; CASES=, NODES=, KERNEL=, RUNTIME=, CNI=, KEEP=1: tests/cluster/run.sh
	tests/setup.sh build run image kube go helm node coredns cluster $(if $(filter 2,$(RUNTIME)),containerd) $(if $(filter flannel,$(CNI)),flannel)
	install/image/build.sh --tag e2e.invalid/balancing:e2e --out target/cluster/image
	install/deb/build.sh --out target/cluster/deb
	tests/cluster/build.sh probe
	tests/as-root.sh tests/cluster/run.sh $(CASES)

e2e-kernel: ## the data plane's suites on another kernel (KERNEL=), in a virtual machine; CASES= for some of them
	tests/setup.sh build run cluster && tests/cluster/build.sh suites
	tests/as-root.sh tests/cluster/kernel.sh $(CASES)

e2e-arm64: ## the arm64 image on an emulated machine: its programs load, and connects are redirected
	tests/setup.sh build image cross cluster-arm64 && install/image/build.sh --arch arm64
	tests/cluster/arm64.sh

e2e-deb: ## the Debian package installed, upgraded, removed and purged, where systemd does not run
	tests/setup.sh build image cluster && install/deb/build.sh
	tests/as-root.sh tests/cluster/deb.sh

lint: ## formatting, clippy and the project's own rules
	tests/setup.sh build lint helm && tests/lint.sh

crds: ## install/crds, from the types in agent/kube/src/api
	for plural in localredirectpolicies balancingpolicies tunnelfabrics tunnelnodes tunneladdressclaims externalhosts; do \
		cargo run --quiet --locked -p balancing-agent --bin balancing-agent -- crds $$plural >install/crds/$$plural.yaml || exit; \
	done

manifests: ## install/balancing.yaml, from the chart
	tests/setup.sh helm && install/manifests.sh >install/balancing.yaml.new && mv install/balancing.yaml.new install/balancing.yaml

image: ## target/image: the container image as an archive, its digest and SBOM; ARCH=arm64, TAG=NAME:TAG
	tests/setup.sh build image $(if $(filter arm64,$(ARCH)),cross) && install/image/build.sh --arch $(ARCH) --tag "$(TAG)"

deb: ## target/deb: the Debian package for hosts outside a cluster; ARCH=arm64
	tests/setup.sh build $(if $(filter arm64,$(ARCH)),cross) && install/deb/build.sh --arch $(ARCH)

setup: ## install everything that tests and lints need
	tests/setup.sh
