# Functions of every environment. Programs write to standard error; standard output has only our own lines.
exec 3>&1 1>&2
export DEBIAN_FRONTEND=noninteractive PIP_NO_INPUT=1 NO_COLOR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
made() { printf 'made\t%s\n' "$1" >&3; }
had() { printf 'had\t%s\n' "$1" >&3; }
version() { printf 'version\t%s\t%s\n' "$1" "$2" >&3; }
fail() { echo "$1"; exit 1; }
new_file() { if [ -e "$1" ]; then had "$1"; cat >/dev/null; else cat > "$1" && made "$1" || fail "cannot write $1"; fi; }
apt_install() {
  sudo -n apt-get -q update && sudo -n apt-get -q -y -o DPkg::Lock::Timeout=300 -o APT::Install-Recommends=false install "$@" || fail "apt could not install $*"
  for p in "$@"; do made "$p (apt package)"; done
}
python_venv() {
  command -v python3 >/dev/null || apt_install python3 python3-venv python3-pip
  if [ -x .venv/bin/python ] && .venv/bin/python -m pip --version >/dev/null 2>&1; then had "${1}.venv"
  else
    python3 -m venv .venv || { apt_install python3-venv python3-pip && python3 -m venv .venv; } || fail "the virtual environment cannot be made"
    made "${1}.venv"
  fi
  version python "$(.venv/bin/python -c 'import platform; print(platform.python_version())')"
}
pip_install() { .venv/bin/python -m pip install --no-input --progress-bar off "$@" || fail "pip could not install $*"; }
pip_versions() { .venv/bin/python -m pip list --format=freeze 2>/dev/null | while IFS='=' read -r n _ v; do for w in "$@"; do [ "$n" = "$w" ] && version "$n" "$v"; done; done; true; }
need_node() {
  command -v npm >/dev/null || apt_install nodejs npm
  version node "$(node --version | tr -d v)"; version npm "$(npm --version)"
}
node_package() {
  if [ -f package.json ]; then had "${1}package.json"; [ -d node_modules ] || npm install --no-fund --no-audit --no-progress || fail "npm install failed"
  else npm init -y >/dev/null && made "${1}package.json" || fail "npm init failed"; fi
}
npm_install() { npm install --no-fund --no-audit --no-progress "$@" || fail "npm could not install $*"; }
