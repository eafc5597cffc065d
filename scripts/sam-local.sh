#!/usr/bin/env bash
# SAM's own API on this machine, the functions in containers, over the emulator's tables, bucket and state machines.
# Needs a container engine (Debian: apt-get install docker.io debootstrap) and root.
#
#   scripts/sam-local.sh          run until Ctrl-C
#   scripts/sam-local.sh check    start, try a few routes, stop; exits 0 when they answer as they must, and 3 where no
#                                 container engine can run
#
# Where no image registry is in reach, the base image is made from Debian's packages.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
target=${CARGO_TARGET_DIR:-$root/target}
home=${PVM_SAM_HOME:-$target/sam-local}
port=${PVM_SAM_PORT:-13000}
base=public.ecr.aws/lambda/provided:al2023-x86_64
check=no
[ "${1:-}" = check ] && check=yes

say() { printf 'sam-local: %s\n' "$*"; }
fail() { say "$*" >&2; exit 1; }
cannot() { say "cannot run here: $*" >&2; exit 3; }

pids=()
clean() {
  for pid in "${pids[@]}"; do kill -TERM -- "-$pid" 2>/dev/null || kill -TERM "$pid" 2>/dev/null || true; done
  PVM_AWS_HOME=$home scripts/deploy-local.sh stop || true
}
trap clean EXIT

# --- a container engine -----------------------------------------------------------------------------------------------
[ "$(uname -m)" = x86_64 ] || cannot "the functions are built for x86_64"
command -v docker >/dev/null || cannot "no container engine (apt-get install docker.io debootstrap)"
mkdir -p "$home"
if ! docker info >/dev/null 2>&1; then
  command -v dockerd >/dev/null || cannot "no container engine runs, and there is no dockerd to start (apt-get install docker.io)"
  [ "$(id -u)" = 0 ] || cannot "no container engine runs, and only root can start one"
  say "starting dockerd"
  setsid dockerd --data-root "$home/docker" --exec-root "$home/docker-run" >"$home/dockerd.log" 2>&1 &
  pids+=($!)
  for _ in $(seq 300); do docker info >/dev/null 2>&1 && break; sleep 0.1; done
  docker info >/dev/null 2>&1 || cannot "dockerd does not start on this machine: $(tail -1 "$home/dockerd.log")"
fi
if ! docker image inspect "$base" >/dev/null 2>&1 && ! timeout 120 docker pull -q "$base" >/dev/null 2>&1; then
  say "no image registry in reach: making the base image from Debian's packages"
  command -v debootstrap >/dev/null || fail "debootstrap is missing: apt-get install debootstrap"
  rootfs=$(mktemp -d "$home/rootfs.XXXXXX")
  debootstrap --variant=minbase --include=ca-certificates bookworm "$rootfs" >"$home/debootstrap.log" 2>&1 || fail "see $home/debootstrap.log"
  tar -C "$rootfs" -c . | docker import --change 'ENTRYPOINT ["/lambda-entrypoint.sh"]' --change 'WORKDIR /var/task' - "$base" >/dev/null
  rm -rf "$rootfs"
fi
bridge=$(docker network inspect bridge --format '{{(index .IPAM.Config 0).Gateway}}')
# An engine that was never started before does not name it yet: it is the first address of the network.
[ -n "$bridge" ] || bridge=$(docker network inspect bridge --format '{{(index .IPAM.Config 0).Subnet}}' | sed -E 's|0/[0-9]+$|1|')
[ -n "$bridge" ] || fail "docker has no default bridge"

# --- the emulator and the VMs' server, where containers reach them: on docker's bridge ----------------------------------
PVM_AWS_HOME=$home PVM_AWS_BIND=$bridge PVM_AWS_PORT=${PVM_AWS_PORT:-14567} \
  PVM_AWS_E2B_PORT=${PVM_AWS_E2B_PORT:-18789} scripts/deploy-local.sh
tools=$(scripts/aws-tools.sh)
export PATH=$tools/sam/bin:$PATH SAM_CLI_TELEMETRY=0 AWS_DEFAULT_REGION=us-east-1
export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test
# SAM fills the template's references with names of its own; these are the ones of the emulator's stack.
"$tools/sam/bin/python" scripts/aws-tools/sam_local_env.py --home "$home" >"$home/env.json"
# It passes only variables that the template names, and where the emulator is belongs into none that is deployed.
sed 's/^      Variables:$/&\n        AWS_ENDPOINT_URL: ""/' "$home/build/template.yaml" >"$home/build/sam-local.yaml"
setsid sam local start-api --config-env local --template-file "$home/build/sam-local.yaml" --port "$port" \
  --host 127.0.0.1 --skip-pull-image --env-vars "$home/env.json" --warm-containers LAZY \
  --parameter-overrides Architecture=x86_64 RequireTls=false >"$home/sam.log" 2>&1 &
pids+=($!)
for _ in $(seq 600); do
  (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break
  kill -0 "${pids[-1]}" 2>/dev/null || fail "sam local ended at its start; see $home/sam.log"
  sleep 0.1
done
key=$(cat "$home/api-key")
say "API  http://127.0.0.1:$port"
say "key  $home/api-key"
if [ $check = no ]; then
  wait "${pids[-1]}"
  exit
fi

# --- a few routes -------------------------------------------------------------------------------------------------------
ask() { # expected status, method, path, curl arguments...
  local expected=$1 method=$2 path=$3
  shift 3
  local status
  status=$(curl -sS -m 120 -o "$home/answer.json" -w '%{http_code}' -X "$method" "http://127.0.0.1:$port$path" "$@")
  [ "$status" = "$expected" ] || { tail -30 "$home/sam.log" >&2; fail "$method $path: $status instead of $expected: $(cat "$home/answer.json")"; }
  say "$method $path: $status"
}
auth=(-H "Authorization: Bearer $key")
ask 200 GET /healthz
ask 401 GET /api/projects
ask 201 POST /api/projects "${auth[@]}" -H 'content-type: application/json' -d '{"name": "sam local"}'
project=$(sed -E 's/.*"project_id":"([^"]+)".*/\1/' "$home/answer.json")
ask 200 GET "/api/projects/$project" "${auth[@]}"
ask 200 GET /api/projects "${auth[@]}"
ask 404 GET /api/projects/prj_00000000000000000000000000 "${auth[@]}"
# A function in a container, the emulator's state machine (its functions are programs beside it), and a real VM.
ask 202 POST "/api/projects/$project/vm/setup" "${auth[@]}" -H 'content-type: application/json' -d '{}'
for _ in $(seq 120); do
  ask 200 GET "/api/projects/$project/status" "${auth[@]}" >/dev/null
  grep -q '"vm_status":"active"' "$home/answer.json" && break
  sleep 0.5
done
ask 200 POST "/api/projects/$project/vm/command" "${auth[@]}" -H 'content-type: application/json' \
  -d '{"command": "echo from the VM"}'
grep -q '"stdout":"from the VM' "$home/answer.json" || fail "the command said something else: $(cat "$home/answer.json")"
ask 202 DELETE "/api/projects/$project" "${auth[@]}"
say "all answered as they must"
