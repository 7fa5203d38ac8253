# refusion.c: one Makefile for everything. `make help` lists the targets.
#
# Variables a user may set: BUILD=release|debug|asan, MPI=0|1, CUDA=0|1, CC, MPICC, CFLAGS (appended),
# HDF5_CFLAGS, HDF5_LIBS, MPI_CFLAGS, MPI_LIBS, ... (clusters without pkg-config files), CUDA_HOME,
# NVCC, CUDA_CFLAGS, CUDA_LIBS, PREFIX.

BUILD   ?= release
MPI     ?= 1
CUDA    ?= 0
PREFIX  ?= /usr/local
ifeq ($(origin CC),default)
CC := gcc
endif
MPICC   ?= mpicc
FLAVOUR := $(BUILD)$(if $(filter 0,$(MPI)),-nompi)
OUT     := build/$(FLAVOUR)$(if $(filter 0,$(CUDA)),,-cuda)$(VARIANT)
# With CUDA=1 most objects are the same: backend.c and the tests alone know of it (-DRF_CUDA), as *.cuda.o.
OBJ     := build/$(FLAVOUR)$(VARIANT)/obj
KNOWS   := $(if $(filter 0,$(CUDA)),,.cuda)
VERSION := 0.1.0

# --- Libraries -----------------------------------------------------------------------------------
# Looked up when a command needs them, not when this file is read: `make deps demo` installs first.
pkg = $(shell pkg-config $(1) $(2) 2>/dev/null)
HDF5_CFLAGS      ?= $(or $(call pkg,--cflags,hdf5-serial),$(call pkg,--cflags,hdf5))
HDF5_LIBS        ?= $(or $(call pkg,--libs,hdf5-serial),$(call pkg,--libs,hdf5))
JANSSON_CFLAGS   ?= $(call pkg,--cflags,jansson)
JANSSON_LIBS     ?= $(call pkg,--libs,jansson)
YAML_CFLAGS      ?= $(call pkg,--cflags,yaml-0.1)
YAML_LIBS        ?= $(call pkg,--libs,yaml-0.1)
ZLIB_CFLAGS      ?= $(call pkg,--cflags,zlib)
ZLIB_LIBS        ?= $(call pkg,--libs,zlib)
PCRE2_CFLAGS     ?= $(call pkg,--cflags,libpcre2-8)
PCRE2_LIBS       ?= $(call pkg,--libs,libpcre2-8)
UTF8PROC_CFLAGS  ?= $(call pkg,--cflags,libutf8proc)
UTF8PROC_LIBS    ?= $(call pkg,--libs,libutf8proc)
LIBEDIT_CFLAGS   ?= $(call pkg,--cflags,libedit)
LIBEDIT_LIBS     ?= $(call pkg,--libs,libedit)
MICROHTTPD_CFLAGS ?= $(call pkg,--cflags,libmicrohttpd)
MICROHTTPD_LIBS  ?= $(call pkg,--libs,libmicrohttpd)
CRITERION_CFLAGS ?= $(call pkg,--cflags,criterion)
CRITERION_LIBS   ?= $(call pkg,--libs,criterion)
MPI_CFLAGS       ?= $(or $(call pkg,--cflags,ompi-c),$(shell $(MPICC) --showme:compile 2>/dev/null))
CUDA_HOME        ?= /usr/local/cuda
NVCC             ?= $(CUDA_HOME)/bin/nvcc
CUDA_CFLAGS      ?= -isystem $(CUDA_HOME)/include
CUDA_LIBS        ?= -L$(CUDA_HOME)/lib64 -Wl,-rpath,$(CUDA_HOME)/lib64 -lcublasLt -lcudart_static -ldl -lrt
MPI_LIBS         ?= $(or $(call pkg,--libs,ompi-c),$(shell $(MPICC) --showme:link 2>/dev/null))

# once: the value of variable $(1) is $(2), computed only once. check: stops where $(1)_LIBS is neither
# found nor set.
once  = $(eval $(1) := $$(2))$($(1))
check = $(if $($(1)_LIBS)$(filter-out file,$(origin $(1)_LIBS)),,$(error $(1) is missing: `make deps` \
        installs it on Debian and Ubuntu; elsewhere set $(1)_CFLAGS and $(1)_LIBS, see README.md))
LIB_CFLAGS  = $(call once,LIB_CFLAGS,$(strip $(foreach l,HDF5 JANSSON YAML ZLIB PCRE2 UTF8PROC LIBEDIT MICROHTTPD,$(call check,$l)) \
              $(HDF5_CFLAGS) $(JANSSON_CFLAGS) $(YAML_CFLAGS) $(ZLIB_CFLAGS) $(PCRE2_CFLAGS) $(UTF8PROC_CFLAGS) $(LIBEDIT_CFLAGS) \
              $(MICROHTTPD_CFLAGS)))
LIBS        = $(call once,LIBS,$(HDF5_LIBS) $(JANSSON_LIBS) $(YAML_LIBS) $(ZLIB_LIBS) $(PCRE2_LIBS) \
              $(UTF8PROC_LIBS) $(LIBEDIT_LIBS) $(MICROHTTPD_LIBS) $(if $(filter 0,$(CUDA)),,$(CUDA_LIBS)) -lm -lpthread)
DIST_CFLAGS = $(call once,DIST_CFLAGS,$(if $(filter 0,$(MPI)),,$(call check,MPI)$(MPI_CFLAGS)))
DIST_LIBS   = $(call once,DIST_LIBS,$(if $(filter 0,$(MPI)),,$(MPI_LIBS)))
TEST_CFLAGS = $(call once,TEST_CFLAGS,$(call check,CRITERION)$(CRITERION_CFLAGS) $(DIST_CFLAGS))

# --- Flags ---------------------------------------------------------------------------------------
, := ,
WARNINGS := -Wall -Wextra -Wshadow -Wconversion -Wdouble-promotion -Wstrict-prototypes \
            -Wmissing-prototypes -Wvla -Wformat=2 -Wundef $(if $(WERROR),-Werror)
OPT_release := -O2 -g
OPT_debug   := -O0 -g3
OPT_asan    := -O1 -g1 -fsanitize=address,undefined -fno-omit-frame-pointer -fno-sanitize-recover=all
OPT_lint    := -O0
OPT_fuzz    := $(subst address,fuzzer-no-link$(,)address,$(OPT_asan))
ifeq ($(OPT_$(BUILD)),)
$(error BUILD=$(BUILD) is unknown: use release, debug, asan, lint or, with clang, fuzz)
endif
# -ffp-contract=off: a fused multiply-add happens where the source says so and nowhere else, so that
# results do not depend on the compiler's mood.
ALL_CFLAGS = -std=c17 -D_GNU_SOURCE -I. -DRF_VERSION='"$(VERSION)"' $(OPT_$(BUILD)) $(WARNINGS) -fopenmp \
             -ffp-contract=off $(LIB_CFLAGS) $(CFLAGS)
LINK_FLAGS = $(OPT_$(BUILD)) -fopenmp $(LDFLAGS)

# --- Sources -------------------------------------------------------------------------------------
# ref/ is compiled twice (f32 and f64), cpu/ once per instruction set; a *_main.c is a program.
MACHINE  := $(shell uname -m)
ISAS     := portable $(if $(filter x86_64,$(MACHINE)),avx2 avx512 avx512bf16 amx)
ISA_portable :=
ISA_avx2     := -mavx2 -mfma -mf16c
ISA_avx512   := -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c -mprefer-vector-width=512
ISA_avx512bf16 := $(ISA_avx512) -mavx512bf16 -mavx512vnni
ISA_amx      := $(ISA_avx512bf16) -mamx-tile -mamx-bf16 -mamx-int8

ROOMS    := common/base common/base/files common/base/config common/base/manual common/kernels common/kernels/apart common/dist common/text common/text/jinja common/model common/store data/corpus \
            data/convert data/tasks data infer/decode infer/score infer/web infer infer/eval/page infer/eval serve train/math train/run train
# The sources that call MPI.
MPI_C    := common/dist/dist_mpi.c common/dist/exchange_mpi.c
BACKEND  := common/kernels/backend
PLAIN    := $(filter-out %_main.c common/dist/dist_stub.c $(MPI_C) $(BACKEND).c, $(wildcard $(ROOMS:%=%/*.c)))
REF      := $(wildcard common/kernels/ref/*.c)
CPU      := $(wildcard common/kernels/cpu/*.c)
CUDA_C   := $(if $(filter 0,$(CUDA)),,$(wildcard common/kernels/cuda/*.c common/kernels/cuda/*/*.c))
CUDA_CU  := $(if $(filter 0,$(CUDA)),,$(wildcard common/kernels/cuda/*.cu common/kernels/cuda/*/*.cu))
DIST     := $(patsubst %.c,$(OBJ)/%.o,$(if $(filter 0,$(MPI)),common/dist/dist_stub.c,$(MPI_C)))
# test_link has stand-ins for the part of the backend cuda that calls CUDA: not beside that part itself.
TESTS    := $(filter-out $(if $(filter 0,$(CUDA)),,tests/dist/test_link.c),$(wildcard tests/*/test_*.c tests/*/*/test_*.c))
HELPERS  := $(wildcard tests/*.c)
# What the machine allows comes first.
BENCHES  := tests/bench/bench_limits.c $(filter-out %/bench_limits.c,$(wildcard tests/bench/bench_*.c))
FUZZERS  := $(wildcard tests/fuzz/fuzz_*.c)

LIB_OBJECTS := $(PLAIN:%.c=$(OBJ)/%.o) $(OBJ)/$(BACKEND)$(KNOWS).o \
               $(foreach r,f32 f64,$(REF:%.c=$(OBJ)/%.$(r).o)) \
               $(foreach i,$(ISAS),$(CPU:%.c=$(OBJ)/%.$(i).o)) \
               $(CUDA_C:%.c=$(OBJ)/%.o) $(CUDA_CU:%.cu=$(OBJ)/%.cu.o)
LIBRARY     := $(OUT)/librefusion.a
PROGRAMS    := $(OUT)/refusion-data $(OUT)/refusion-convert $(OUT)/refusion-train $(OUT)/refusion-infer $(OUT)/refusion-eval $(OUT)/refusion-serve
TEST_BINS   := $(TESTS:%.c=$(OUT)/%)
BENCH_BINS  := $(BENCHES:%.c=$(OUT)/%)
FUZZ_BINS   := $(FUZZERS:%.c=$(OUT)/%)

# One short line a file; V=1 shows the commands.
Q   := $(if $(V),,@)
say  = $(if $(V),,@echo "  $(1)	$@")

.DEFAULT_GOAL := all
.PHONY: all deps demo compare compare-quick test test-faults soak tests bench fuzz fuzzers fuzz_objects objects lint format floors headers scripts man install uninstall clean help
.SECONDARY:

all: $(PROGRAMS)  ## the programs, into build/release/

# --- Compile -------------------------------------------------------------------------------------
# With -j too, `make deps demo` compiles nothing before all is installed.
DEPS_FIRST := $(filter deps,$(MAKECMDGOALS))
CPU_release := -O3 -fno-math-errno
# With sanitizers tests spend most of their time in kernels, a third of it on what the address sanitizer
# finds too: null, pointers that leave their object.
CPU_asan := -O2 -fno-sanitize=null,pointer-overflow,object-size
REF_asan := $(CPU_asan)
# A function that the address sanitizer leaves alone does not clean up its stack of what inlined ones mark there,
# so in all of that file nobody marks what has gone out of scope.
asan_product := -fno-sanitize-address-use-after-scope
# Those of instruction sets that this machine lacks are linked but never run: without sanitizers, which
# would cost a third of the time of the whole build. So such a build is for the machine that made it.
NEEDS_avx512     := avx512vl
NEEDS_avx512bf16 := avx512_bf16
NEEDS_amx        := amx_bf16
MACHINE_FLAGS    := $(if $(filter asan,$(BUILD)),$(shell sed -n '/^flags/{p;q}' /proc/cpuinfo 2>/dev/null))
idle = $(if $(MACHINE_FLAGS),$(if $(filter-out $(MACHINE_FLAGS),$(NEEDS_$(1))),-O0 -fno-sanitize=all))
$(OBJ)/common/kernels/ref/%.f32.o: common/kernels/ref/%.c | $(DEPS_FIRST)
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(ALL_CFLAGS) $(REF_$(BUILD)) -DRF_REF_DOUBLE=0 -MMD -MP -c $< -o $@
$(OBJ)/common/kernels/ref/%.f64.o: common/kernels/ref/%.c | $(DEPS_FIRST)
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(ALL_CFLAGS) $(REF_$(BUILD)) -DRF_REF_DOUBLE=1 -MMD -MP -c $< -o $@
define isa_rule
$(OBJ)/common/kernels/cpu/%.$(1).o: common/kernels/cpu/%.c | $(DEPS_FIRST)
	@mkdir -p $$(@D)
	$$(call say,CC)
	$$(Q)$$(CC) $$(ALL_CFLAGS) $(CPU_$(BUILD)) $$($(BUILD)_$$*) $(call idle,$(1)) $(ISA_$(1)) -DRF_ISA=$(1) -DRF_ISA_$(1)=1 -MMD -MP -c $$< -o $$@
endef
$(foreach i,$(ISAS),$(eval $(call isa_rule,$(i))))
# Kernels: no fused multiply-add but where the source says so, as above. -warn-spills with all warnings
# as errors: a kernel whose registers spill does not build. NVCC's warnings are errors always.
NVCC_FLAGS = -std=c++17 -I. -O3 -fmad=false -gencode arch=compute_90a,code=sm_90a -Werror all-warnings \
             -Xptxas -warn-spills,-warn-lmem-usage -Xcompiler -Wall,-Wextra,-Wshadow,-Wconversion,-Werror,-fno-exceptions,-fno-rtti,-fno-threadsafe-statics
$(OBJ)/%.cu.o: %.cu | $(DEPS_FIRST)
	@mkdir -p $(@D)
	$(call say,NVCC)
	$(Q)$(NVCC) $(NVCC_FLAGS) -MMD -MP -MF $(@:.o=.d) -c $< -o $@
$(OBJ)/$(BACKEND).cuda.o: $(BACKEND).c | $(DEPS_FIRST)
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(ALL_CFLAGS) -DRF_CUDA -MMD -MP -c $< -o $@
$(OBJ)/common/kernels/cuda/%.o: common/kernels/cuda/%.c | $(DEPS_FIRST)
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(ALL_CFLAGS) $(CUDA_CFLAGS) -MMD -MP -c $< -o $@
$(MPI_C:%.c=$(OBJ)/%.o): $(OBJ)/%.o: %.c | $(DEPS_FIRST)
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(ALL_CFLAGS) $(DIST_CFLAGS) -MMD -MP -c $< -o $@
$(OBJ)/infer/eval/page/page.o: infer/eval/page/page.html infer/eval/page/page.css infer/eval/page/page.js
$(OBJ)/serve/page.o: serve/page.html serve/page.css serve/page.js
$(OBJ)/infer/web/web.o: $(wildcard infer/web/*.css infer/web/*.js)
$(OBJ)/%.o: %.c | $(DEPS_FIRST)
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(ALL_CFLAGS) -MMD -MP -c $< -o $@

$(LIBRARY): $(LIB_OBJECTS)
	@mkdir -p $(@D) && rm -f $@
	$(call say,AR)
	$(Q)ar rcs $@ $^

# --- Link ----------------------------------------------------------------------------------------
# refusion-infer, refusion-serve, refusion-data and refusion-convert run without MPI; the others take the
# communicator of $(DIST).
STUB      := $(OBJ)/common/dist/dist_stub.o
$(OUT)/refusion-data: $(OBJ)/data/data_main.o $(STUB) $(LIBRARY)
	$(call say,LINK)
	$(Q)$(CC) $(LINK_FLAGS) $^ $(LIBS) -o $@
$(OUT)/refusion-convert: $(OBJ)/data/convert/convert_main.o $(STUB) $(LIBRARY)
	$(call say,LINK)
	$(Q)$(CC) $(LINK_FLAGS) $^ $(LIBS) -o $@
$(OUT)/refusion-infer: $(OBJ)/infer/infer_main.o $(STUB) $(LIBRARY)
	$(call say,LINK)
	$(Q)$(CC) $(LINK_FLAGS) $^ $(LIBS) -o $@
$(OUT)/refusion-serve: $(OBJ)/serve/serve_main.o $(STUB) $(LIBRARY)
	$(call say,LINK)
	$(Q)$(CC) $(LINK_FLAGS) $^ $(LIBS) -o $@
$(OUT)/refusion-eval: $(OBJ)/infer/eval/eval_main.o $(DIST) $(LIBRARY)
	$(call say,LINK)
	$(Q)$(CC) $(LINK_FLAGS) $^ $(LIBS) $(DIST_LIBS) -o $@
$(OUT)/refusion-train: $(OBJ)/train/train_main.o $(DIST) $(LIBRARY)
	$(call say,LINK)
	$(Q)$(CC) $(LINK_FLAGS) $^ $(LIBS) $(DIST_LIBS) -o $@
$(OUT)/tests/fuzz/fuzz_%: $(OBJ)/tests/fuzz/fuzz_%.o $(STUB) $(LIBRARY)
	@mkdir -p $(@D)
	$(call say,LINK)
	$(Q)$(CC) $(subst fuzzer-no-link,fuzzer,$(LINK_FLAGS)) $^ $(LIBS) -o $@
$(OUT)/tests/fuzz/seeds: $(OBJ)/tests/fuzz/seeds.o $(STUB) $(LIBRARY)
	@mkdir -p $(@D)
	$(call say,LINK)
	$(Q)$(CC) $(LINK_FLAGS) $^ $(LIBS) -o $@
$(OUT)/tests/%: $(OBJ)/tests/%$(KNOWS).o $(HELPERS:%.c=$(OBJ)/%.o) $(DIST) $(LIBRARY)
	@mkdir -p $(@D)
	$(call say,LINK)
	$(Q)$(CC) $(LINK_FLAGS) $^ $(LIBS) $(CRITERION_LIBS) $(DIST_LIBS) -o $@
$(OUT)/tests/dist/test_link: $(OBJ)/common/kernels/cuda/link/nccl.o
$(OBJ)/tests/%.cuda.o: tests/%.c | $(DEPS_FIRST)
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(ALL_CFLAGS) $(TEST_CFLAGS) -DRF_CUDA -MMD -MP -c $< -o $@
$(OBJ)/tests/%.o: tests/%.c | $(DEPS_FIRST)
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(ALL_CFLAGS) $(TEST_CFLAGS) -MMD -MP -c $< -o $@

-include $(shell find $(OBJ) -name '*.d' 2>/dev/null)

tests: $(TEST_BINS)

test: $(PROGRAMS) $(TEST_BINS) | $(DEPS_FIRST)  ## every test; V=1 shows each
	BUILD_DIR=$(OUT) sh tests/run.sh $(TEST_BINS)

# Two hosts, kills at random: minutes. What needs root is skipped by name where there is none.
test-faults: $(PROGRAMS)  ## two hosts, a cut cable, 20 kills at random (under 20 minutes)
	@sh tests/faults/hosts.sh $(OUT) || [ $$? = 77 ]
	@KILLS=20 SEED=2 sh tests/faults/soak.sh $(OUT)
soak: $(PROGRAMS)  ## KILLS=200 kills at random: the end of the run is that of an undisturbed one
	@sh tests/faults/soak.sh $(OUT)

deps:  ## installs what is missing (Debian, Ubuntu), or lists what is needed
	@sh .ci/deps

demo: $(PROGRAMS) | $(DEPS_FIRST)  ## sudokus: three models on 2 ranks, side by side, and a decoding to watch (6 minutes)
	@BUILD_DIR=$(OUT) sh train/demo.sh

COMPARE ?= quick
compare: $(PROGRAMS) | $(DEPS_FIRST)  ## objectives and decoders side by side; COMPARE=quick|cpu|gpu|long|gpu150, GSM8K=FILE
	@BUILD_DIR=$(OUT) GSM8K="$(GSM8K)" sh train/compare.sh configs/compare/$(COMPARE).sh
compare-quick:  ## the same on sudoku4, minutes on 2 cores
	@$(MAKE) --no-print-directory compare COMPARE=quick

FORMATTED = $(shell git ls-files --cached --others --exclude-standard '*.c' '*.h' '*.cu' '*.cuh')
CLANG_FORMAT ?= clang-format-14
format:  ## rewrites the sources with clang-format 14
	$(CLANG_FORMAT) -i $(FORMATTED)

floors:  ## checks that folders include only lower floors
	@sh tests/lint/floors.sh

CHECK_FLAGS = $(ALL_CFLAGS) $(TEST_CFLAGS) -Werror
headers: | $(DEPS_FIRST)  ## checks that every header compiles alone
	@sh tests/lint/headers.sh $(CC) $(CHECK_FLAGS)

# Every source of the repository as an object; LINT_GCC: the variant that gcc compiles them into. Of
# gcc's warnings some need its optimizer, of clang's none: what clang makes is not run, so it is made fast.
MAINS    := data/data_main data/convert/convert_main infer/infer_main infer/eval/eval_main serve/serve_main train/train_main
objects: $(LIB_OBJECTS) $(MAINS:%=$(OBJ)/%.o) $(STUB) $(DIST) fuzz_objects \
         $(patsubst %.c,$(OBJ)/%.o,$(TESTS) $(HELPERS) $(BENCHES))
LINT_GCC ?= -lint-gcc
scripts:  ## checks that what begins with #! can be run by its name
	@for f in $$(git ls-files); do \
	    [ ! -f "$$f" ] || [ -x "$$f" ] || [ "$$(head -c 2 "$$f" | tr -d '\0')" != '#!' ] || { echo "scripts: chmod +x $$f"; exit 1; }; \
	done

lint: floors headers scripts  ## format, floors, headers, scripts, and all warnings as errors with gcc and clang
	$(Q)$(CLANG_FORMAT) --dry-run -Werror $(FORMATTED)
	$(MAKE) --no-print-directory CC=gcc BUILD=release WERROR=1 VARIANT=$(LINT_GCC) objects
	$(MAKE) --no-print-directory CC=clang BUILD=lint WERROR=1 objects

# --- Manual --------------------------------------------------------------------------------------
# Programs write their own pages; a script's page is what it says with -h.
NAMES      := $(notdir $(PROGRAMS))
SCRIPTS    := launch:train/launch.sh plot:train/plot.sh picture:infer/picture.sh
script      = $(patsubst $(1):%,%,$(filter $(1):%,$(SCRIPTS)))
SCRIPT_MAN := $(foreach s,$(SCRIPTS),$(OUT)/man/refusion-$(firstword $(subst :, ,$s)).1)
MAN        := $(NAMES:%=$(OUT)/man/%.1) $(SCRIPT_MAN) $(OUT)/man/refusion-config.5
man: $(MAN)  ## the pages of man(1), into build/release/man

$(NAMES:%=$(OUT)/man/%.1): $(OUT)/man/%.1: $(OUT)/%
	@mkdir -p $(@D)
	$(call say,MAN)
	$(Q)$< --man >$@.$$$$ && mv $@.$$$$ $@
$(OUT)/man/refusion-config.5: $(OUT)/refusion-train
	@mkdir -p $(@D)
	$(call say,MAN)
	$(Q)$< --man config >$@.$$$$ && mv $@.$$$$ $@
$(SCRIPT_MAN): $(OUT)/man/refusion-%.1: $(foreach s,$(SCRIPTS),$(lastword $(subst :, ,$s))) common/base/manual/script.awk
	@mkdir -p $(@D)
	$(call say,MAN)
	$(Q)sh $(call script,$*) -h | awk -v name=refusion-$* -v version=$(VERSION) -f common/base/manual/script.awk >$@.$$$$ && mv $@.$$$$ $@

# --- Installation --------------------------------------------------------------------------------
# MODE:SOURCE:PATH below $(PREFIX) of all that is installed, and so of all that uninstall removes.
# strip: a program. Folders of files keep their places, so that the links of READMEs hold.
DOCS      := $(wildcard *.md LICENSE */README.md */*/README.md */*/*/README.md train/scaling.md infer/decoding.svg serve/samples/*)
CONFIGS   := $(wildcard configs/*.yaml configs/hostfile configs/slurm.sbatch)
COMPLETED := $(NAMES) refusion-launch
INSTALLED := $(foreach p,$(PROGRAMS),strip:$p:bin/$(notdir $p)) \
             $(foreach s,$(SCRIPTS),755:$(lastword $(subst :, ,$s)):bin/refusion-$(firstword $(subst :, ,$s))) \
             $(foreach m,$(MAN),644:$m:share/man/man$(subst .,,$(suffix $m))/$(notdir $m)) \
             $(foreach c,$(COMPLETED),644:common/base/manual/refusion.bash:share/bash-completion/completions/$c) \
             644:common/base/manual/refusion.zsh:share/zsh/site-functions/_refusion \
             $(foreach f,$(CONFIGS),644:$f:share/refusion/$f) \
             $(foreach f,$(DOCS),644:$f:share/doc/refusion/$f)
install: $(PROGRAMS) $(MAN)  ## programs, man pages, completion, configurations and READMEs, below $(PREFIX)
	@set -e; for entry in $(INSTALLED); do \
	    mode=$${entry%%:*} from=$${entry#*:}; to="$(DESTDIR)$(PREFIX)/$${from#*:}"; from=$${from%:*}; \
	    if [ $$mode = strip ]; then install -D -s -m 755 "$$from" "$$to"; \
	    else install -D -m $$mode "$$from" "$$to"; fi; \
	done

uninstall:  ## removes what install puts there, and the folders that are empty then
	@cd "$(DESTDIR)$(PREFIX)" && for entry in $(INSTALLED); do \
	    rm -f "$${entry##*:}" || exit 1; \
	    rmdir -p --ignore-fail-on-non-empty "$$(dirname "$${entry##*:}")" 2>/dev/null || :; \
	done

bench: $(BENCH_BINS)  ## speed, beside what this machine allows; appended to runs/bench/bench.jsonl
	@set -e; for b in $(BENCH_BINS); do $$b; done

fuzzers: $(FUZZ_BINS) $(OUT)/tests/fuzz/seeds
fuzz_objects: $(FUZZERS:%.c=$(OBJ)/%.o) $(OBJ)/tests/fuzz/seeds.o

FUZZ_SECONDS ?= 600
FUZZ_JOBS    ?= 1
fuzz:  ## every fuzz target for FUZZ_SECONDS (600), FUZZ_JOBS (1) at once; needs clang
	$(MAKE) --no-print-directory CC=clang BUILD=fuzz fuzzers
	@sh tests/fuzz/run.sh build/fuzz/tests/fuzz build/fuzz $(FUZZ_SECONDS) $(FUZZ_JOBS)

clean:  ## removes build/
	rm -rf build

help:  ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1\t\2/p' Makefile | expand -t 16
