# Lanes of a parallel run: copies of the workspace that agents work in at the same time, and their merge.
# The snapshot lives in a repository of its own, so that the project's own .git is neither read nor written.
# Called as: lanes.sh make DIR WORKSPACE NAME...   and   lanes.sh merge DIR WORKSPACE NAME...
set -eu
action="$1" dir="$2" workspace="$3"
shift 3
export GIT_DIR="$dir/git" GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null GIT_TERMINAL_PROMPT=0
export GIT_AUTHOR_NAME=pvm GIT_AUTHOR_EMAIL=pvm@localhost GIT_COMMITTER_NAME=pvm GIT_COMMITTER_EMAIL=pvm@localhost

# In the main workspace; everything else sets its own work tree. What `user` may not read stays as it is.
main() { GIT_WORK_TREE="$workspace" git -c core.fileMode=true "$@"; }
lane() { name="$1"; shift; (cd "$dir/$name" && unset GIT_DIR && git "$@"); }

case "$action" in
make)
  mkdir -p "$dir"
  [ -d "$GIT_DIR" ] || git init -q --bare "$GIT_DIR"
  git config core.bare false
  main add -A --ignore-errors . || true
  main commit -q --allow-empty -m "before the lanes"
  git update-ref refs/pvm/base HEAD
  for name in "$@"; do
    [ -d "$dir/$name" ] || git worktree add -q -B "lane/$name" "$dir/$name" refs/pvm/base
  done
  ;;
merge)
  # What happened to the workspace itself meanwhile is the side that a lane is merged into.
  main add -A --ignore-errors . || true
  main commit -q --allow-empty -m "the workspace meanwhile"
  for name in "$@"; do
    if [ ! -d "$dir/$name" ]; then
      echo "LOST $name"
      continue
    fi
    lane "$name" add -A --ignore-errors . || true
    lane "$name" commit -q --allow-empty -m "work of $name"
    changed="$(git diff --name-only refs/pvm/base "lane/$name" | wc -l)"
    if ! main merge -q --no-edit -m "merge $name" "lane/$name" > /dev/null 2>&1; then
      # Both versions stay: the workspace's under its name, the lane's beside it.
      main diff -z --name-only --diff-filter=U | while IFS= read -r -d '' path; do
        if git cat-file -e "HEAD:$path" 2> /dev/null; then
          main checkout -q --ours -- "$path"
        else
          rm -f "$workspace/$path"
        fi
        if git cat-file -e "lane/$name:$path" 2> /dev/null; then
          git show "lane/$name:$path" > "$workspace/$path.$name"
        fi
        echo "CONFLICT $name $path"
      done
      main add -A --ignore-errors . || true
      main commit -q --allow-empty -m "merge $name, with conflicts"
    fi
    echo "MERGED $name $changed"
  done
  ;;
esac
