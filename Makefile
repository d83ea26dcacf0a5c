# The front door. Every target does its own set-up; a second run of any of them installs nothing.
#
#   make          build/yado and the guest's built-in image
#   make demo     the whole grid on this PC: four agents, real guests, two moves
#   make test     everything that must hold, under AddressSanitizer and UBSan
#   make soak     the same faults for longer      make bench   figures, tables and plots
#   make matrix   the moves of bench/migrate not measured yet, for MINUTES; they take hours in all
#   make figures  plot and tables of what is measured, into the README
#   make lint     clang-format, clang-tidy, cppcheck, man pages
#   make fmt      format all sources              make install DESTDIR= PREFIX=

BUILD := build
TEST := build-test
FUZZ := build-fuzz
PYTEST := /usr/bin/python3 -m pytest -p no:cacheprovider
FUZZ_SECONDS ?= 30
E2E_JOBS ?= 3
PREFIX ?= /usr
MINUTES ?= 60
MOVES := docs/figures/migrate.json

.PHONY: all setup images demo test unit e2e fuzz soak bench matrix figures lint fmt install clean
all: $(BUILD)/build.ninja images
	ninja -C $(BUILD)

setup:
	@scripts/setup

$(BUILD)/build.ninja: | setup
	meson setup $(BUILD) >/dev/null

$(TEST)/build.ninja: | setup
	meson setup $(TEST) -Db_sanitize=address,undefined -Db_lundef=false >/dev/null

$(FUZZ)/build.ninja: | setup
	CC=clang meson setup $(FUZZ) -Dfuzz=true -Db_sanitize=address,undefined -Db_lundef=false >/dev/null

# The guest's kernel and initrd, and the matrix program: the same files for every build.
images: setup
	@images/build-tiny $(BUILD)/images

demo: all
	$(BUILD)/yado demo $(DEMO_ARGS)

test: unit fuzz e2e

unit: $(TEST)/build.ninja
	ninja -C $(TEST)
	meson test -C $(TEST) --no-rebuild --print-errorlogs

# A second version of QEMU for the tests that need two; without it they skip and say so.
$(BUILD)/qemu10/qemu-system-x86_64: | setup
	-scripts/qemu-backports $(BUILD)/qemu10

e2e: $(TEST)/build.ninja images $(BUILD)/qemu10/qemu-system-x86_64
	ninja -C $(TEST)
	YADO_QEMU10=$$(ls $(CURDIR)/$(BUILD)/qemu10/qemu-system-x86_64 2>/dev/null) YADO=$(CURDIR)/$(TEST)/yado YADO_IMAGES=$(CURDIR)/$(BUILD)/images $(PYTEST) -q -n $(E2E_JOBS) --dist loadgroup tests/e2e $(E2E_ARGS)

fuzz: $(FUZZ)/build.ninja
	ninja -C $(FUZZ) $$(ninja -C $(FUZZ) -t targets all | sed -n 's/^\(src.*\/fuzz_[a-z_]*\): c_LINKER.*/\1/p')
	tests/fuzz/run $(FUZZ) $(FUZZ_SECONDS)

soak: $(TEST)/build.ninja images
	ninja -C $(TEST)
	$(TEST)/yado sim check --count 200000
	YADO_COUNT=20000 $(TEST)/src/mail/test_mail_histories
	YADO_SOAK=1 $(MAKE) e2e

bench: all
	bench/run $(BUILD)

matrix: all
	bench/migrate $(BUILD) --add $(MOVES) --minutes $(MINUTES)

figures: setup
	bench/migrate $(BUILD) --add $(MOVES) --draw

lint: $(TEST)/build.ninja
	scripts/lint $(TEST)

fmt: setup
	git ls-files '*.c' '*.h' | xargs clang-format -i

install: all
	DESTDIR=$(DESTDIR) scripts/install $(BUILD) $(PREFIX)

clean:
	rm -rf $(BUILD) $(TEST) $(FUZZ)
