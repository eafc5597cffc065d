# Lanes of a parallel run: copies of the workspace that agents work in at the same time, and their merge.
# The snapshot lives in a repository of its own, so that the project's own .git is neither read nor written.
# Called as: lanes.sh make DIR WORKSPACE NAME...   and   lanes.sh merge DIR WORKSPACE NAME...
set -eu
action="$1" dir="$2" workspace="$3"
shift 3
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE
export GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null GIT_TERMINAL_PROMPT=0
export GIT_AUTHOR_NAME=pvm GIT_AUTHOR_EMAIL=pvm@localhost GIT_COMMITTER_NAME=pvm GIT_COMMITTER_EMAIL=pvm@localhost

# git on the tree ROOT with the repository REPO: in REPO ROOT ...
in_tree() { repo="$1" root="$2"; shift 2; GIT_DIR="$repo" GIT_WORK_TREE="$root" git -c core.fileMode=true -c advice.addEmbeddedRepo=false -c core.quotePath=false "$@"; }
main() { in_tree "$dir/git" "$workspace" "$@"; }
lane() { name="$1"; shift; in_tree "$dir/git/worktrees/$name" "$dir/$name" "$@"; }

# Commits all of a tree: snapshot REPO ROOT MESSAGE. Repositories inside of it are taken as the files that they hold: git
# by itself would only note which commit they are at. What `user` may not read stays as it is.
snapshot() {
  in_tree "$1" "$2" add -A --ignore-errors . 2> /dev/null || true
  while inner="$(in_tree "$1" "$2" ls-files -s -z | tr '\0' '\n' | sed -n 's/^160000 [0-9a-f]* 0\t//p' | head -n 1)" && [ -n "$inner" ]; do
    in_tree "$1" "$2" rm -q --cached -- "$inner" || break
    [ -d "$2/$inner" ] || continue
    rm -f "$dir/inner.index"
    GIT_INDEX_FILE="$dir/inner.index" in_tree "$1" "$2/$inner" add -A --ignore-errors . 2> /dev/null || true
    tree="$(GIT_INDEX_FILE="$dir/inner.index" in_tree "$1" "$2/$inner" write-tree)"
    in_tree "$1" "$2" read-tree --prefix="$inner/" "$tree"
  done
  in_tree "$1" "$2" commit -q --allow-empty -m "$3"
}

make_lanes() {
  # Lanes that were never merged, or had something left, for longer than a run can go on.
  find "$(dirname "$dir")" -mindepth 1 -maxdepth 1 -type d -mtime +30 -exec rm -rf {} + 2> /dev/null || true
  mkdir -p "$dir"
  [ -d "$dir/git" ] || git init -q --bare "$dir/git"
  git --git-dir="$dir/git" config core.bare false
  snapshot "$dir/git" "$workspace" "before the lanes"
  main update-ref refs/pvm/base HEAD
  for name in "$@"; do
    [ -d "$dir/$name" ] || git --git-dir="$dir/git" worktree add -q -B "lane/$name" "$dir/$name" refs/pvm/base
  done
}

# Both versions stay: the workspace's under its name, the lane's beside it.
keep_both() {
  main diff -z --name-only --diff-filter=U | while IFS= read -r -d '' path; do
    if main cat-file -e "HEAD:$path" 2> /dev/null; then
      main checkout -q --ours -- "$path"
    else
      rm -f "$workspace/$path"
    fi
    if main cat-file -e "lane/$1:$path" 2> /dev/null; then
      main show "lane/$1:$path" > "$workspace/$path.$1"
    fi
    echo "CONFLICT $1 $path"
  done
  main add -A --ignore-errors . 2> /dev/null || true
  main commit -q --allow-empty -m "merge $1, with conflicts"
}

# A repository that was cloned or begun in a lane comes with its files; that of the workspace stays what it is.
carry_repositories() {
  (cd "$dir/$1" && find . -mindepth 2 -name .git -prune -print0) | while IFS= read -r -d '' found; do
    if [ -d "$workspace/${found%/.git}" ] && [ ! -e "$workspace/$found" ]; then
      cp -a "$dir/$1/$found" "$workspace/$found"
    fi
  done
}

# What .gitignore names is not merged. It stays where it is, and a lane without any is removed.
leave_ignored() {
  ignored="$(lane "$1" ls-files --others --ignored --exclude-standard --directory | head -n 20)"
  if [ -n "$ignored" ]; then
    echo "$ignored" | sed "s/^/IGNORED $1 /"
  else
    rm -rf "${dir:?}/$1"
  fi
}

merge_lanes() {
  # A machine that was made anew knows nothing of the lanes.
  if [ ! -d "$dir/git" ]; then
    for name in "$@"; do echo "LOST $name"; done
    return
  fi
  # What happened to the workspace itself meanwhile is the side that a lane is merged into.
  snapshot "$dir/git" "$workspace" "the workspace meanwhile"
  for name in "$@"; do
    if [ ! -d "$dir/$name" ]; then
      echo "LOST $name"
      continue
    fi
    snapshot "$dir/git/worktrees/$name" "$dir/$name" "work of $name"
    changed="$(main diff --name-only refs/pvm/base "lane/$name" | wc -l)"
    main merge -q --no-edit -m "merge $name" "lane/$name" > /dev/null 2>&1 || keep_both "$name"
    carry_repositories "$name"
    echo "MERGED $name $changed"
    leave_ignored "$name"
  done
  rmdir_lanes "$@"
}

# The snapshots go when no lane has anything left.
rmdir_lanes() {
  for name in "$@"; do
    [ ! -d "$dir/$name" ] || return 0
  done
  rm -rf "$dir"
}

"${action}_lanes" "$@"
