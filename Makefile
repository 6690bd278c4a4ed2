SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# The steps of `make test` come in order, and the first failure is the last step, under `make -j` too.
.NOTPARALLEL:
.DELETE_ON_ERROR:

# The binary is static, and tools are built as it is. Only the race detector needs cgo.
export CGO_ENABLED := 0

BIN := .bin
BUF := $(BIN)/buf
LINT := $(BIN)/golangci-lint
IMAGE := proto/image.binpb

heading = @printf '\n== %s\n' '$(1)'

.PHONY: help
help: ## Lists the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## Creates, backs up, provisions and signs, all in one process.
	@echo 'builds mpcd first, which takes a minute or two the first time' >&2
	@go run ./cmd/mpcd demo

.PHONY: test
test: deps tools check-build check-gen check-test ## Builds, compares generated code, runs the tests with the race detector; installs what it needs.
	$(call heading,tests: all green)

.PHONY: check
check: tools linter check-proto check-format check-vet lint check-modules ## Lints and checks formats, the API's compatibility and the modules. CI runs it too.
	$(call heading,checks: all green)

# Those of the files with the build tag `long`: each takes more than 30 seconds of processor time, or needs Node, npm or nginx.
.PHONY: test-long
test-long: deps-long tools ## Runs the tests that take longest, and those that need Node and nginx. CI runs them too.
	$(call heading,go test -race: long tests)
	@CGO_ENABLED=1 go test -race $(RACE_FLAGS) -tags long -run '^TestLong' -count=1 -timeout=60m \
		$$(find . -name '*_long_test.go' -not -path './.*' -printf '%h\n' | sort -u)
	$(call heading,long tests: all green)

.PHONY: bench
bench: ## Measures mpcd beside bare tss-lib: 20 minutes, on a machine that does nothing else.
	@mkdir -p .bench
	@go build -buildvcs=false -o .bench/ ./cmd/mpcbench ./cmd/mpcd
	@.bench/mpcbench --json .bench/bench.json --markdown .bench/bench.md --plot docs/bench-concurrency.png $(BENCH)

.PHONY: test-crash
test-crash: ## Kills the service at least 100 times in mid-run, and writes docs/CRASH-TEST.md.
	@MPCD_CRASH_KILLS=$${MPCD_CRASH_KILLS:-108} MPCD_CRASH_REPORT=$(CURDIR)/docs/CRASH-TEST.md go test -count=1 -run '^TestCrash$$' -timeout 80m -v ./cmd/mpcd

.PHONY: fuzz
fuzz: ## Fuzzes each decoder of a device's messages for FUZZTIME, 10 minutes by default: three hours on two cores.
	@scripts/fuzz $${FUZZTIME:-10m}

# Not a part of `make test`: it says whether the tests are good, not whether the code is.
.PHONY: mutants
mutants: ## Puts each condition of the guards out of action, and wants a unit test to fail: some 20 minutes. MUTANTS=internal/tss: that package alone.
	@go run -C tools ./mutants $(MUTANTS)

.PHONY: load
load: $(BIN)/ghz ## Loads a service of its own with ghz, and keeps the reports in .load/.
	@scripts/load

$(BIN)/ghz: tools/ghz/go.mod tools/ghz/go.sum tools/ghz/report/main.go
	$(call heading,ghz: building it into $(BIN))
	@mkdir -p $(BIN)
	@cd tools/ghz && go build -o ../../$(BIN)/ghz-report ./report
	@cd tools/ghz && go build -o ../../$(BIN)/ghz tool
	@touch $@

.PHONY: gen
gen: tools ## Makes gen/ anew from proto/.
	$(BUF) generate

.PHONY: fmt
fmt: tools linter ## Formats Go and proto files.
	$(LINT) fmt
	$(BUF) format -w

.PHONY: lint
lint: linter ## Lints the Go code.
	$(call heading,golangci-lint)
	@GOFLAGS="$${GOFLAGS:-} -buildvcs=false" $(LINT) run ./...

# Not a part of `make test`: its database is on the network, and what it finds today was not there yesterday.
.PHONY: vuln
vuln: ## Looks for known vulnerabilities in what is linked; asks vuln.go.dev.
	$(call heading,govulncheck)
	@go run golang.org/x/vuln/cmd/govulncheck@v1.8.0 ./...

.PHONY: deps
deps: ## Installs what the tests need from the system: gcc, openssl, curl.
	@scripts/install-deps

.PHONY: deps-long
deps-long: ## Installs what the long tests need from the system besides: Node, npm, nginx.
	@scripts/install-deps long

.PHONY: tools
tools: $(BIN)/.stamp ## Builds the pinned tools of tools/go.mod into .bin/, but for the linter.

.PHONY: linter
linter: $(LINT) ## Builds the pinned linter into .bin/.

# Tests find age, age-plugin-batchpass and grpcurl here too.
$(BIN)/.stamp: tools/go.mod tools/go.sum
	$(call heading,tools: building those of tools/go.mod into $(BIN); takes minutes the first time)
	@go build -modfile=tools/go.mod -o $(BIN)/ $$(sed -n '/^tool (/,/^)/{/golangci-lint/d; s/^\t//p}' tools/go.mod)
	@touch $@

# Apart from the others: it takes as long to build as all of them together, and only `make check` and `make fmt` need it.
$(LINT): tools/go.mod tools/go.sum
	$(call heading,golangci-lint: building it into $(BIN); takes minutes the first time)
	@go build -modfile=tools/go.mod -o $(BIN)/ github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	@touch $@

# Only at a release: until then the committed image is what released clients were built from, and `make check` compares every change
# with it. So the image itself can only be replaced by one that does not break the last.
.PHONY: api-image
api-image: tools check-proto ## At a release only: makes the API as it is the one not to break.
	$(BUF) build proto --exclude-source-info -o $(IMAGE)

.PHONY: check-build
check-build:
	$(call heading,go build)
	@go build -buildvcs=false ./...

# Into a directory of its own: uncommitted work in gen/ stays as it is.
.PHONY: check-gen
check-gen: tools
	$(call heading,generated code is current)
	@tmp=$$(mktemp -d); trap 'rm -rf "$$tmp"' EXIT; \
	$(BUF) generate -o "$$tmp"; \
	diff -r gen "$$tmp/gen" || { echo 'gen/ is not what proto/ makes: run `make gen`' >&2; exit 1; }

.PHONY: check-proto
check-proto: tools
	$(call heading,buf lint and breaking)
	@$(BUF) lint
	@$(BUF) breaking proto --against $(IMAGE)

.PHONY: check-format
check-format: tools linter
	$(call heading,formats)
	@$(LINT) fmt --diff || { echo 'run `make fmt`' >&2; exit 1; }
	@$(BUF) format --diff --exit-code || { echo 'run `make fmt`' >&2; exit 1; }

.PHONY: check-vet
check-vet:
	$(call heading,go vet)
	@go vet -tags long ./...

.PHONY: check-modules
check-modules:
	$(call heading,go mod verify)
	@go mod verify

# What others wrote that only computes, and SQLite, which keeps its own order. The race detector would make these
# several times slower, and has nothing of ours to find in them. None of them may make an instance of a generic type
# of the standard library (as modernc.org/libc does of sync.Map): the linker keeps one copy of such code for the
# whole program, and it might be theirs.
UNINSTRUMENTED = github.com/agl/ed25519/... github.com/decred/dcrd/dcrec/... filippo.io/edwards25519/... golang.org/x/crypto/scrypt \
	modernc.org/sqlite/lib

RACE_FLAGS = $(foreach p,$(UNINSTRUMENTED),-gcflags=$(p)=-race=false)

.PHONY: check-test
check-test: deps tools
	$(call heading,go test -race)
	@# Many tests wait for a time to pass: more of them at once than there are cores leave none idle.
	@CGO_ENABLED=1 go test -race $(RACE_FLAGS) -count=1 -parallel 4 -timeout=60m ./...
