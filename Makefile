# Project VM. `make run` and `make demo` need a Rust toolchain, a C compiler and root on Linux; nothing else.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# A build cache outside the checkout serves fresh clones where it exists; otherwise ./target is used.
ifneq ($(wildcard $(HOME)/.cache/pvm-target),)
export CARGO_TARGET_DIR ?= $(HOME)/.cache/pvm-target
endif
TARGET := $(or $(CARGO_TARGET_DIR),target)
PVM := $(TARGET)/local/pvm

.PHONY: help run demo build test test-full test-aws test-real-model fuzz check fmt lint doc generate assert-unchanged bench bench-lambda template tools clean-state deploy-local stop-local sam-local

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

build: ## Build the `pvm` program with the `local` profile
	@echo "Building pvm (a cold build takes about ten minutes on two cores, a warm one seconds) ..."
	cargo build --profile local -p pvm-local --bin pvm

run: build ## Build and run the whole system in this terminal
	exec $(PVM) serve

demo: build ## Run the main job end to end, over HTTP, on real input
	$(PVM) demo

template: build ## Build the `base` template now instead of in the background
	$(PVM) template base

tools: ## Install what the tests need from the package registries
	scripts/prepare-tests.sh

test: tools ## Run all tests but the heavy ones
	scripts/test.sh

test-full: ## Run everything, the heavy cases too
	scripts/prepare-tests.sh --full
	scripts/test.sh --full

test-real-model: ## A conversation with a real model on this machine (builds llama.cpp once)
	scripts/real-model.sh

test-aws: tools ## Of the tests only the AWS form, deployed on an emulator
	cargo test --workspace --test aws_shaped

fuzz: ## Run each fuzz target for a minute (PVM_FUZZ_SECONDS)
	scripts/fuzz.sh

check: fmt lint doc ## Formatting, lints, documentation

fmt:
	cargo fmt --all --check

lint:
	cargo clippy --workspace --all-targets -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

generate: ## Regenerate what is checked in but made by a program
	UPDATE=1 cargo test --workspace --test openapi

assert-unchanged: generate ## Fail if a generated file is not what is checked in
	git diff --exit-code -- openapi.json

bench: build ## Print the figures of the design as ratios to named baselines
	scripts/bench.sh

bench-lambda: ## Print size, start and memory of three Lambda programs as they are shipped
	scripts/bench-lambda.sh

deploy-local: ## Deploy the AWS form on an emulator on this machine
	scripts/deploy-local.sh

stop-local: ## Stop what deploy-local started
	scripts/deploy-local.sh stop

sam-local: ## The AWS form with SAM's own API and functions in containers
	scripts/sam-local.sh

clean-state: ## Remove the state of `make run` (.pvm); stop it first
	$(PVM) purge
