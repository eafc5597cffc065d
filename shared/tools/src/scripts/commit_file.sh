fail() { printf 'fail\t%s\n' "$1"; [ -n "${new:-}" ] && rm -f -- "$new"; exit 1; }
new=
dir=$(dirname -- "$path")
mkdir -p -- "$dir" 2>/dev/null || fail "cannot make the directory $dir"
target=$(readlink -f -- "$path") || fail "the path leads through a symbolic link that goes nowhere"
dir=$(dirname -- "$target")
# One writer at a time: between looking at the version and the rename nobody else may do the same. The lock is on the
# directory, which is there already and stays; it ends with this shell.
if command -v flock >/dev/null && { exec 9< "$dir"; } 2>/dev/null; then
  flock -w 60 9 || fail "another write in $dir does not end; try again"
fi
[ -d "$target" ] && fail "it is a directory"
created=1; old=absent
if [ -e "$target" ]; then
  [ -f "$target" ] || fail "it is not a regular file"
  old=$(sha256sum < "$target" 2>/dev/null) || fail "permission denied: $(id -un) may not read it; owner and mode are $(stat -c '%U:%G %a' -- "$target")"
  old=${old%% *}
  created=0
fi
take() { if [ "$encoding" = base64 ]; then base64 -d; else cat; fi; }
small() { [ "$(stat -c %s -- "$target")" -lt 2097152 ]; }
case "$old" in
"$expected"*) ;;
*)
  diff=
  if [ "$append" = 0 ] && [ "$created" = 0 ] && command -v diff >/dev/null && small; then
    diff=$(take 2>/dev/null | diff -u --label "now" --label "yours" -- "$target" - 2>/dev/null | head -c 65536 | tr -d '\000')
  fi
  printf 'conflict\t%s\t%s\n%s\n' "$old" "$target" "$diff"
  exit 1
  ;;
esac
changed=1; diff=
if [ "$append" = 1 ]; then
  take >> "$target" 2>/dev/null || fail "permission denied: $(id -un) may not write it"
else
  in_place=0
  new="$dir/.pvm-$run"
  if ! ( : > "$new" ) 2>/dev/null; then new=$(mktemp) && in_place=1 || fail "no room for a temporary file"; fi
  take > "$new" || fail "the content is not valid base64, or the disk is full"
  if [ "$created" = 0 ]; then
    cmp -s -- "$target" "$new" && changed=0
    if [ "$(stat -c %u:%g -- "$target")" != "$(stat -c %u:%g -- "$new")" ]; then
      chown --reference="$target" -- "$new" 2>/dev/null || in_place=1
    fi
    if [ "$changed" = 1 ] && command -v diff >/dev/null && small; then
      diff=$(diff -u --label "before" --label "after" -- "$target" "$new" 2>/dev/null | head -c 65536 | tr -d '\000')
    fi
    chmod --reference="$target" -- "$new" 2>/dev/null
  else
    chmod 0644 -- "$new"
  fi
  if [ "$in_place" = 1 ]; then
    ( cat -- "$new" > "$target" ) 2>/dev/null || fail "permission denied: $(id -un) may not write in $dir"
    rm -f -- "$new"
  else
    mv -f -- "$new" "$target" || fail "it cannot be replaced"
  fi
  new=
fi
if [ -n "$owner" ]; then
  chown -- "$owner" "$target" 2>/dev/null || fail "it was written, but its owner cannot be set to $owner"
fi
if [ -n "$mode" ]; then
  chmod -- "$mode" "$target" 2>/dev/null || sudo -n chmod -- "$mode" "$target" 2>/dev/null || fail "it was written, but its mode cannot be set to $mode"
fi
sum=$( (sha256sum < "$target") 2>/dev/null || sudo -n sha256sum "$target" 2>/dev/null)
printf 'ok\t%s\t%s\t%s\t%s\t%s\t%s\n%s\n' "$created" "$changed" "$old" "${sum%% *}" "$(stat --printf='%s\t%04a\t%U:%G' -- "$target")" "$target" "$diff"
