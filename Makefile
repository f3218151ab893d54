# What people do with this tree. Every target works on a clean clone with Go 1.26 alone, except `faults`, which as root
# also breaks disks (it needs strace and mount).

GO      ?= go
BIN     := bin/agentos
VERSION ?= 1.02.0-dev
SHA     := $(shell git rev-parse --short=12 HEAD 2>/dev/null)
# The time of the commit, not of the build, so that two builds of one commit are the same bytes.
STAMP   := $(shell TZ=UTC git log -1 --format=%cd --date=format-local:%Y-%m-%dT%H:%M:%SZ 2>/dev/null)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.gitSHA=$(SHA) -X main.timestamp=$(STAMP)

GOFUMPT     := mvdan.cc/gofumpt@v0.12.0
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

# Flags of every test run: no test may depend on another's order, and none may hang. -p 2 keeps two packages at work on a
# small machine without starving the suites that watch the clock.
TESTFLAGS ?= -race -shuffle=on -timeout 10m -p 2

.PHONY: build up nuke test check fmt release-contract bench faults soak clean

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/agentos

up: build
	$(BIN) up

nuke: build
	$(BIN) nuke --yes-really --hard

test: build
	AGENTOS_TEST_BINARY=$(CURDIR)/$(BIN) $(GO) test $(TESTFLAGS) ./...

check:
	@unformatted="$$($(GO) run $(GOFUMPT) -l .)"; if [ -n "$$unformatted" ]; then echo "not formatted (make fmt):"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...
	$(GO) test -count=1 ./internal/house
	$(GO) mod tidy -diff
	$(GO) mod verify

fmt:
	$(GO) run $(GOFUMPT) -l -w .

# Copies docs/api to docs/api/released, unless that took something back that was promised.
release-contract:
	$(GO) test -count=1 ./tests/conformance -run Released -update

# All of it takes ten to twenty minutes; ONLY=raft,gossip takes some measures only, ROUNDS=2 makes it shorter.
bench: build
	AGENTOS_TEST_BINARY=$(CURDIR)/$(BIN) $(GO) run ./tests/bench $(if $(ONLY),-only $(ONLY)) $(if $(ROUNDS),-rounds $(ROUNDS))

faults: build
	AGENTOS_TEST_BINARY=$(CURDIR)/$(BIN) AGENTOS_FAULTS=full $(GO) test -count=1 -v -timeout 90m ./tests/faults/... ./tests/cluster ./tests/federation ./tests/conformance ./storage/replica

soak: build
	AGENTOS_TEST_BINARY=$(CURDIR)/$(BIN) AGENTOS_FAULTS=full $(GO) test -count=20 -timeout 12h ./tests/faults/... ./tests/cluster ./tests/federation ./tests/onenode/... ./storage/replica

clean:
	rm -rf bin
