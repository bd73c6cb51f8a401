# Two commands for a newcomer: make demo, make test. Each sets up what it needs itself.
# ASDIC_PIP_ARGS goes to pip as it is: where torch's CPU wheels come from an index of their own,
# name it there.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS := constraints/dev.txt
# apt_install(command, package, what for): installed when we may, else said in one line.
define apt_install
	@command -v $(1) >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "asdic: installing the Debian package $(2), for $(3)"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	      apt-get install -y -qq --no-install-recommends $(2) >/dev/null; \
	  else echo "asdic: $(3) needs the Debian package $(2); its tests are skipped"; fi; }
endef
PARTS := cli contract device firmware_bridge fleet quantization training

.PHONY: demo test lint types contracts tests coverage docs faults clean debian

demo: $(VENV)/.demo
	@$(BIN)/asdic demo --out demo

test: lint types contracts tests

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev
	@rm -rf .typecheck && mkdir -p .typecheck/asdic
	@for part in $(PARTS); do ln -s ../../$$part .typecheck/asdic/$$part; done
	$(BIN)/mypy

contracts: $(VENV)/.dev
	$(BIN)/lint-imports

debian:
	$(call apt_install,chromium,chromium,the browser)
	$(call apt_install,proot,proot,the arm64 box)
	$(call apt_install,cc,gcc libc6-dev,the C library)
# Where systemd runs, these packages would start a server: an sshd for all the world, a broker.
ifeq ($(wildcard /run/systemd/system),)
	$(call apt_install,sshd,openssh-server,flashing over SSH)
	$(call apt_install,mosquitto,mosquitto,a broker with TLS)
else
	@PATH=$$PATH:/usr/sbin; command -v sshd >/dev/null || \
	  echo "asdic: flashing over SSH needs the Debian package openssh-server; its tests are skipped"
	@PATH=$$PATH:/usr/sbin; command -v mosquitto >/dev/null || \
	  echo "asdic: a broker with TLS needs the Debian package mosquitto; its tests are skipped"
endif
	$(call apt_install,runsvdir,runit,flashing over SSH)
	$(call apt_install,systemd-analyze,systemd,the judgement of the systemd unit)
	$(call apt_install,qemu-aarch64-static,qemu-user-static,the arm64 box)
	$(call apt_install,qemu-system-arm,qemu-system-arm,the board with MCUboot)
	$(call apt_install,/lib/ld-linux.so.2,libc6-i386 lib32gcc-s1,the board with Zephyr)
	$(call apt_install,arm-none-eabi-gcc,gcc-arm-none-eabi,a model as C for a microcontroller)

# First what judges times, with nothing beside it; then the rest, two files at a time.
tests: $(VENV)/.dev debian
	$(BIN)/pytest -m alone
	$(BIN)/pytest -m "not alone" -n 2 --dist loadfile

# Which lines no test reaches; counting them takes half as long again.
coverage: $(VENV)/.dev debian
	$(BIN)/pytest --cov --cov-report=term:skip-covered

# As much as BUDGET allows (as 10m or 1h), on JOBS processes; a stopped run goes on.
faults: $(VENV)/.dev
	$(BIN)/python -m tests.faults --page docs/reliability.md $(if $(BUDGET),--budget $(BUDGET)) \
	  $(if $(JOBS),--jobs $(JOBS))

docs: $(VENV)/.dev
	$(BIN)/python -m tests.support.cli_reference docs/cli.md
	$(BIN)/python -m tests.support.bench_schema docs/bench.schema.json
	$(BIN)/python -m tests.support.report_schema docs/report.schema.json

clean:
	rm -rf $(VENV) build demo .typecheck .coverage*

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "asdic: needs Python 3.11 or newer; try make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "asdic: Python cannot make environments; install the package python3-venv"; exit 1; }
	@$(PYTHON) -m venv $(VENV)

# The packages of the demo: what a server needs to train, quantize and manage a fleet.
$(VENV)/.demo: pyproject.toml $(CONSTRAINTS) | $(VENV)/bin/python
	@echo "asdic: installing torch, the quantizers and runtimes into $(VENV):"
	@echo "asdic: about 1 GB to download, 3 GB on disk (with torch's CUDA build several GB more;"
	@echo "asdic: see ASDIC_PIP_ARGS in the README); a few minutes"
	@$(BIN)/python -m pip install -qq $(ASDIC_PIP_ARGS) -c $(CONSTRAINTS) -e '.[fleet,quantize,train]'
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	@echo "asdic: installing what the tests need on top, TensorFlow among it: 1.5 GB on disk"
	@$(BIN)/python -m pip install -qq $(ASDIC_PIP_ARGS) -c $(CONSTRAINTS) -e '.[dev]'
	@touch $@
