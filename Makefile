# Each verb does all of its own set-up: `make demo` and `make test` work in an empty clone.
# What is installed: Debian packages (named below, only where this user may), and Python packages into .venv.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

.PHONY: reference help demo stack test newest lint bench soak dashboards install-check pythons deb clean

help:
	@echo "make demo    a node in a private network namespace: real HTB, real traffic, a live table (no root needed)"
	@echo "make stack   the demo with Prometheus and Alertmanager beside it, each mail shown as it comes"
	@echo "make test    all checks: lint, types, architecture, tests on the real kernel"
	@echo "make newest  the tests with Prometheus and Alertmanager, on the newest of both that Debian has"
	@echo "make lint    ruff, mypy --strict, import-linter"
	@echo "make bench   speed, as ratios side by side in one run"
	@echo "make soak    half an hour of faults on the real kernel, every byte accounted for"
	@echo "make dashboards  writes the dashboards' JSON anew, with the thresholds of the alert rules"
	@echo "make reference   writes the README's table of metrics and docs/configuration.md anew"
	@echo "make deb     the Debian package, in dist/"
	@echo "make pythons the tests that need no kernel, on each further Python that is here"
	@echo "make install-check   each way to install it, on fresh systems that boot (root, some 30 minutes)"
	@echo "make clean   remove .venv and caches"

# Debian packages: PROGRAM:PACKAGE. Installed with apt-get where root allows; otherwise named, so that someone else can.
define need
	@for pair in $(1); do program=$${pair%%:*}; package=$${pair#*:}; \
	  command -v $$program >/dev/null 2>&1 || missing="$$missing $$package"; done; \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
	    echo "installing Debian packages:$$missing"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing >/dev/null; \
	  else echo "please install the Debian packages:$$missing" >&2; exit 1; fi; \
	fi
endef

$(BIN)/python:
	@if [ -z "$(PYTHON)" ] || ! $(PYTHON) -c 'import ensurepip' 2>/dev/null; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
	    echo "installing Debian packages: python3 python3-venv"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends python3 python3-venv >/dev/null; \
	  else echo "please install Python 3.11 or later with its venv module (Debian: python3-venv)" >&2; exit 1; fi; \
	fi
	@$(or $(PYTHON),python3) -m venv $(VENV)

$(VENV)/run.stamp: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing bwexporter and its libraries into $(VENV)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp
	@echo "installing the test tools into $(VENV)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(VENV)/run.stamp
	$(call need,unshare:util-linux)
	@$(BIN)/bwexporter demo $(ARGS)

stack: $(VENV)/dev.stamp
	$(call need,unshare:util-linux setpriv:util-linux prometheus:prometheus prometheus-alertmanager:prometheus-alertmanager)
	@$(BIN)/python -m tests.alerting $(ARGS)

newest: $(VENV)/dev.stamp
	$(call need,unshare:util-linux setpriv:util-linux tc:iproute2 ip:iproute2 nft:nftables)
	@tests/alerting/newest.sh $(BIN)/python -m pytest -q tests/alerting/test_mail.py tests/alerting/test_routes.py \
	  tests/alerting/test_stack.py tests/test_metrics.py tests/test_replay_prometheus.py tests/test_rules.py $(ARGS)

lint: $(VENV)/dev.stamp
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

test: lint
	$(call need,unshare:util-linux tc:iproute2 ip:iproute2 prometheus:prometheus promtool:prometheus chromium:chromium openssl:openssl nft:nftables fireqos:fireqos cc:gcc setpriv:util-linux \
	  prometheus-alertmanager:prometheus-alertmanager systemd-analyze:systemd man:man-db curl:curl jq:jq)
	@for unit in deploy/systemd/*.service; do echo "$$unit: $$(systemd-analyze security --offline=yes $$unit | tail -1)"; done
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

bench: $(VENV)/dev.stamp
	$(call need,unshare:util-linux tc:iproute2 ip:iproute2 nft:nftables prometheus:prometheus \
	  prometheus-node-exporter:prometheus-node-exporter)
	@$(BIN)/python -m tests.benchmarks $(ARGS)

soak: $(VENV)/dev.stamp
	$(call need,unshare:util-linux tc:iproute2 ip:iproute2 nft:nftables)
	@$(BIN)/python -m tests.faults.soak $(ARGS)

deb:
	$(call need,dpkg-buildpackage:dpkg-dev dh:debhelper fakeroot:fakeroot)
	@PATH=/usr/sbin:/usr/bin:/sbin:/bin deploy/debian/build.sh dist

# Further interpreters: make pythons PYTHONS="python3.12 python3.13". The kernel's side does not differ between them.
PYTHONS ?= $(shell for p in python3.12 python3.13 python3.14; do $$p -c 'import ensurepip' 2>/dev/null && echo $$p; done)

pythons:
	@[ -n "$(strip $(PYTHONS))" ] || { echo "no further Python is here: name some as PYTHONS=\"python3.12 python3.13\"" >&2; exit 1; }
	@for python in $(PYTHONS); do \
	  venv=.venv-$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	  $(MAKE) -s $$venv/dev.stamp VENV=$$venv PYTHON=$$python || exit 1; \
	  echo "testing with $$($$venv/bin/python --version)"; \
	  $$venv/bin/python -m pytest -q -m "not kernel" -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS) || exit 1; \
	done

install-check: $(VENV)/dev.stamp
	$(call need,unshare:util-linux debootstrap:debootstrap podman:podman buildah:buildah nsenter:util-linux)
	@unshare --mount $(BIN)/python -m tests.install $(ARGS)

reference: $(VENV)/dev.stamp
	@$(BIN)/python -m tests.reference

dashboards: $(VENV)/run.stamp
	@$(BIN)/python -m dashboards

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
