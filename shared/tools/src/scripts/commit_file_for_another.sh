# The user writes; root gives the result away. `-h`: a link that the user puts there meanwhile is not followed.
export path encoding append expected run
report=$(mode='' owner='' runuser -u user -- bash -c "$write") || { printf '%s\n' "$report"; exit 1; }
IFS=$'\t' read -r ok created changed old sum _ _ _ target <<< "${report%%$'\n'*}"
diff=
case $report in *$'\n'*) diff=${report#*$'\n'} ;; esac
fail() { printf 'fail\tit was written, but %s\n' "$1"; exit 1; }
[ -f "$target" ] && [ ! -L "$target" ] || fail 'it is gone again'
chown -h -- "$owner" "$target" 2>/dev/null || fail "its owner cannot be set to $owner"
if [ -n "$mode" ]; then chmod -- "$mode" "$target" || fail "its mode cannot be set to $mode"; fi
printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\n%s\n' "$ok" "$created" "$changed" "$old" "$sum" "$(stat --printf='%s\t%04a\t%U:%G' -- "$target")" "$target" "$diff"
