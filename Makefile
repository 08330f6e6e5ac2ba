# The ways in. `make demo` needs nothing but Debian's packages and PyPI's CMake; `make test` also gets the reference
# programs (tools/setup says what). Everything made stays in build/, bin/, .venv/ and .cache/.
#
#   make build   the converter, at bin/viaduct
#   make build-train  and what runs models, at bin/viaduct-train
#   make demo    a real model to Megatron and back, bit for bit
#   make demo-chat  that model answers, on the CPU (also gets libtorch, 5 GB, and Rust)
#   make demo-train  and learns a style from 160 conversations by LoRA, in minutes (also gets transformers and peft)
#   make test    every test; what CI runs
#   make check   format, layering, build and tests of what you are working on
#   make docs    the C++ API and the guides, at build/docs/api/index.html
#   make release build/viaduct-VERSION-linux-ARCH.tar.gz
#   make bench   speed and memory, against cp on the same disk
#   make clean   removes build/ and bin/

CMAKE := .venv/build/bin/cmake
export PATH := $(CURDIR)/.venv/build/bin:$(PATH)
JOBS ?= $(shell nproc)

.PHONY: build build-train release demo demo-chat demo-train docs test check bench clean setup-converter setup-test
.DEFAULT_GOAL := build

setup-converter:
	@tools/setup converter

build: setup-converter
	@tools/build release viaduct
	@mkdir -p bin
	@cp -f build/release/bin/viaduct bin/.viaduct.new && mv -f bin/.viaduct.new bin/viaduct
	@echo "build: bin/viaduct"

release: build
	@tools/release

demo: build
	@tools/demo

# The program that runs models lies beside the converter, which hands its commands over.
build-train: build
	@tools/setup train
	@tools/build train viaduct-train
	@cp -f build/train/bin/viaduct-train bin/.viaduct-train.new && mv -f bin/.viaduct-train.new bin/viaduct-train
	@echo "build: bin/viaduct-train"

demo-chat: build-train
	@tools/demo_chat

demo-train: build-train
	@tools/setup test
	@tools/demo_train

docs:
	@tools/setup docs
	@tools/api_docs

test:
	@tools/setup converter test train
	@tools/test

check:
	@tools/setup converter test train
	@tools/check.sh

bench: build
	@tools/setup bench
	@tools/build bench dequantize_bench merge_bench
	@tools/bench

clean:
	rm -rf build bin
