[ -f "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
if ! command -v cargo >/dev/null; then
  if sudo -n apt-get -q update && apt-cache show rustup >/dev/null 2>&1; then apt_install rustup build-essential; rustup default stable || fail "rustup could not install the toolchain"
  else apt_install cargo rustc build-essential; fi
fi
command -v cc >/dev/null || apt_install build-essential
version rustc "$(rustc --version | cut -d' ' -f2)"; version cargo "$(cargo --version | cut -d' ' -f2)"
if [ -f Cargo.toml ]; then had Cargo.toml
else
  name=$(basename "$PWD" | tr 'A-Z .' 'a-z--' | tr -cd 'a-z0-9_-'); case "$name" in [a-z]*) ;; *) name="app-$name";; esac
  cargo init --vcs none --name "$name" . && made "Cargo.toml and src/main.rs" || fail "cargo init failed"
fi
[ $# -gt 0 ] && { cargo add "$@" || fail "cargo could not add $*"; }
printf '%s\n' 'target/' | new_file .gitignore
