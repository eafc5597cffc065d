#!/usr/bin/env bash
# The AWS form on this machine: an emulator of AWS and pvm-sandboxd on loopback, the real Lambda programs, the real
# template. Run again after a change to deploy it. No AWS account is touched.
#
#   scripts/deploy-local.sh          start what is not running, build, deploy, print the API's address
#   scripts/deploy-local.sh stop     end the emulator and the sandbox server that this script started
#
# PVM_AWS_HOME holds logs, keys and process ids (default: aws-local in cargo's target folder). PVM_AWS_PORT and
# PVM_AWS_E2B_PORT are the ports (14566, 18788); PVM_AWS_BIND is the address they are on, for containers (127.0.0.1). PVM_SANDBOXD names a built pvm-sandboxd to use.
# PVM_AWS_E2B_API_URL, PVM_AWS_E2B_SANDBOX_URL and PVM_AWS_E2B_KEY name a VM service that runs already; none is started.
# PVM_AWS_BUILD=dev takes the programs of the tests' own build instead of `sam build`'s, for the suite of `make test`.
# AWS_ENDPOINT_URL, when set, is an emulator that runs already, such as LocalStack (infra/compose); it is then not
# started or stopped here.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
target=${CARGO_TARGET_DIR:-$root/target}
home=${PVM_AWS_HOME:-$target/aws-local}
port=${PVM_AWS_PORT:-14566}
e2b_port=${PVM_AWS_E2B_PORT:-18788}
bind=${PVM_AWS_BIND:-127.0.0.1}
foreign=${AWS_ENDPOINT_URL:-}
build=${PVM_AWS_BUILD:-lambda-ci}
triple=x86_64-unknown-linux-gnu

say() { printf 'deploy-local: %s\n' "$*"; }
fail() { say "$*" >&2; exit 1; }

running() { [ -s "$home/$1.pid" ] && kill -0 "$(cat "$home/$1.pid")" 2>/dev/null; }

stop() {
  running "$1" || { rm -f "$home/$1.pid"; return 0; }
  local pid
  pid=$(cat "$home/$1.pid")
  # The emulator leads a process group of its own, which its functions belong to.
  kill -TERM -- "-$pid" 2>/dev/null || kill -TERM "$pid" 2>/dev/null || true
  for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
  kill -KILL -- "-$pid" 2>/dev/null || true
  rm -f "$home/$1.pid"
  say "stopped $1"
}

if [ "${1:-}" = stop ]; then
  stop emulator
  stop sandboxd
  exit 0
fi

[ "$(uname -m)" = x86_64 ] || fail "the emulator runs the functions as programs of this machine, built for x86_64"
mkdir -p "$home"
chmod 700 "$home"
# The tools are fetched while the compiler works.
scripts/aws-tools.sh >"$home/tools" 2>"$home/tools.log" &
fetching=$!
export SAM_CLI_TELEMETRY=0 AWS_DEFAULT_REGION=us-east-1 AWS_REGION=us-east-1
# What emulators take for the account's root. Never real ones: the endpoint below is on loopback.
export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test
export NO_PROXY=$bind,127.0.0.1,localhost no_proxy=$bind,127.0.0.1,localhost

free() { ! (exec 3<>"/dev/tcp/$bind/$1") 2>/dev/null; }
await() { # name, port
  for _ in $(seq 300); do
    running "$1" || fail "$1 ended at its start; see $home/$1.log"
    if ! free "$2"; then return 0; fi
    sleep 0.1
  done
  fail "$1 does not listen on port $2 after 30 s; see $home/$1.log"
}

# --- build: all programs by one call of cargo, so that both cores work; SAM then finds them built. (The whole workspace,
# as SAM's own calls: with fewer packages cargo would choose other features and compile everything twice.) --------------
started=$SECONDS
mapfile -t programs < <(sed -nE 's/.*\{Binary: ([a-z-]+)\}.*/--bin=\1/p' template.yaml)
if [ "$build" = dev ]; then
  say "linking the functions of the tests' own build"
  cargo build --quiet --workspace "${programs[@]}"
else
  say "building the functions (profile lambda-ci; a cold build takes some minutes)"
  cargo build --quiet --profile lambda-ci --target "$triple" --workspace "${programs[@]}"
fi
sandboxd=${PVM_SANDBOXD:-}
e2b_api=${PVM_AWS_E2B_API_URL:-}
if [ -z "$sandboxd$e2b_api" ]; then
  cargo build --quiet --profile local -p pvm-sandboxd --bin pvm-sandboxd
  sandboxd=$target/local/pvm-sandboxd
fi
say "built ${#programs[@]} functions in $((SECONDS - started)) s"
wait $fetching || { cat "$home/tools.log" >&2; fail "the tools of the AWS form could not be installed"; }
tools=$(cat "$home/tools")
export PATH=$tools/sam/bin:$PATH

# --- start ----------------------------------------------------------------------------------------------------------
if [ -n "$e2b_api" ]; then
  e2b_sandbox=${PVM_AWS_E2B_SANDBOX_URL:-$e2b_api}
  (umask 077; printf '%s' "${PVM_AWS_E2B_KEY:?is not set}" >"$home/e2b-api-key")
else
  e2b_api=http://$bind:$e2b_port
  e2b_sandbox=$e2b_api
fi
[ -s "$home/e2b-api-key" ] || (umask 077; printf 'e2b_%s' "$(head -c 20 /dev/urandom | od -An -tx1 | tr -d ' \n')" >"$home/e2b-api-key")
if [ -z "${PVM_AWS_E2B_API_URL:-}" ] && ! running sandboxd; then
  free "$e2b_port" || fail "port $e2b_port is in use; set PVM_AWS_E2B_PORT"
  PVM_E2B_API_KEYS=$(cat "$home/e2b-api-key") setsid "$sandboxd" --listen "$bind:$e2b_port" \
    --state "$home/sandboxes" --on-stop kill >"$home/sandboxd.log" 2>&1 &
  echo $! >"$home/sandboxd.pid"
  await sandboxd "$e2b_port"
fi
if [ -z "$foreign" ]; then
  if ! running emulator; then
    free "$port" || fail "port $port is in use; set PVM_AWS_PORT"
    # AUTH=true: the emulator holds every call to the policies of the caller's role, as AWS does. The endpoint is what it
    # hands on to the functions; without it they would call AWS itself.
    (cd "$home" && AWS_ENDPOINT_URL=http://$bind:$port AUTH=true IOT_MTLS_ENABLED=0 BIND_HOST=$bind GATEWAY_PORT=$port LAMBDA_EXECUTOR=local \
      PERSIST_STATE=0 LAMBDA_WARM_TTL_SECONDS=3600 TMPDIR="$home" \
      exec setsid "$tools/emulator/bin/ministack") >"$home/emulator.log" 2>&1 &
    echo $! >"$home/emulator.pid"
    await emulator "$port"
  fi
  export AWS_ENDPOINT_URL=http://$bind:$port
fi

# --- deploy ---------------------------------------------------------------------------------------------------------
started=$SECONDS
if [ "$build" = dev ]; then
  "$tools/sam/bin/python" scripts/aws-tools/package.py --template template.yaml --programs "$target/debug" --build "$home/build"
else
  SAM_BUILD_MODE=debug CARGO_LAMBDA_GLOBAL=$root/scripts/aws-tools/lambda-ci.toml \
    sam build --config-env local --build-dir "$home/build" --parameter-overrides Architecture=x86_64 \
    >"$home/sam-build.log" 2>&1 || { tail -40 "$home/sam-build.log" >&2; fail "sam build failed"; }
  # SAM has copied what cargo-lambda put here: some gigabytes of unoptimised programs.
  rm -rf "$target/lambda"
fi
say "packaged in $((SECONDS - started)) s"
started=$SECONDS
sam deploy --config-env local --config-file "$root/samconfig.toml" --template-file "$home/build/template.yaml" \
  --parameter-overrides Architecture=x86_64 RequireTls=false StreamResponses=false DeletionProtection=false \
  ModelKeysParameter=/pvm/pvm-local/model-keys \
  "E2bApiUrl=$e2b_api" "E2bSandboxUrl=$e2b_sandbox" "E2bDomain=localhost:${e2b_sandbox##*:}" \
  ${PVM_AWS_PARAMETERS:-} \
  >"$home/sam-deploy.log" 2>&1 || { tail -40 "$home/sam-deploy.log" >&2; fail "sam deploy failed"; }
"$tools/sam/bin/python" scripts/aws-tools/after_deploy.py --stack pvm-local --home "$home"
say "deployed in $((SECONDS - started)) s"
say "API  $(cat "$home/url")"
say "key  $home/api-key"
say "try: curl -H \"Authorization: Bearer \$(cat $home/api-key)\" $(cat "$home/url")/api/projects"
