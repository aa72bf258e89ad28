# SPDX-License-Identifier: MIT
# A thin front to CMakeLists.txt: `make help` lists what it does.
BUILD  ?= build
PREFIX ?= /usr/local
DESTDIR ?=
SECONDS ?= 60
JOBS   ?= $(shell nproc 2>/dev/null || echo 2)
MODEL  ?= models/stories-q4_k_m.gguf
PROMPT ?= Tell me a story about a girl called Mira and a lantern.
TOKENS ?= 300
CMAKE_ARGS ?=

all: ## build build/gqmm, build/libgqmm.so, build/libgqmm.a and the model libraries
	@tools/need.sh --check build
	@tools/build.sh "$(BUILD)" $(CMAKE_ARGS)

demo: ## install what is missing, build, and let the model in models/ tell a story (DEVICE=, PROMPT=)
	@tools/need.sh demo
	@tools/build.sh "$(BUILD)" $(if $(filter cuda%,$(DEVICE)),-DGQMM_CUDA=auto) $(CMAKE_ARGS)
	@BUILD="$(BUILD)" DEVICE="$(DEVICE)" tools/demo.sh "$(MODEL)" "$(PROMPT)" "$(TOKENS)"

check: ## install what is missing, build five ways, run every test, end with one line of counts
	@tools/need.sh check
	@tools/need.sh emulate || true
	@JOBS="$(JOBS)" tools/check.sh "$(BUILD)"

check-peers: ## compare with the packages gguf and mlx from PyPI (GGML=1: also ggml's, slow to install)
	@tools/need.sh peers
	@tools/build.sh "$(BUILD)" $(CMAKE_ARGS)
	@tools/peers.sh "$(BUILD)"

fuzz: ## run each reader's fuzzer for SECONDS=60
	@tools/need.sh fuzz
	@JOBS="$(JOBS)" tools/fuzz.sh "$(BUILD)/fuzz" "$(SECONDS)"

cuda-release: ## build with CUDA for every architecture of the README into build-cuda; takes minutes
	@tools/need.sh --check build
	@tools/build.sh "$(BUILD)-cuda" -DGQMM_CUDA=ON -DGQMM_CUDA_ARCHS=release $(CMAKE_ARGS)

install: ## install headers, libraries, command and man pages (DESTDIR=, PREFIX=/usr/local)
	@tools/need.sh --check build
	@tools/build.sh "$(BUILD)" $(CMAKE_ARGS)
	@DESTDIR="$(DESTDIR)" cmake --install "$(BUILD)" --prefix "$(PREFIX)"

readme: ## write anew what README.md quotes: the format matrix and the example's output
	@tools/build.sh "$(BUILD)" $(CMAKE_ARGS)
	@tools/readme.sh "$(BUILD)"

format: ## clang-format every C file in place
	@tools/format.sh

clean: ## remove the build directory
	rm -rf "$(BUILD)"

help: ## this list
	@grep -E '^[a-z-]+: ## ' Makefile | sed 's/: ## /\t/' | while IFS='	' read -r name text; do \
	    printf '  make %-13s %s\n' "$$name" "$$text"; done

.PHONY: all demo check check-peers fuzz cuda-release install readme format clean help
