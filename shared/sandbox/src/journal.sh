#!/bin/sh
# The run journal of a VM whose daemon keeps none: commands that are never run twice. One folder per run below
# /var/lib/pvm/runs, claimed by mkdir. Called by pvm-sandbox as root, never by people:
#   journal.sh start ID USER DIRECTORY TIMEOUT_SECS WAIT_CS LIMIT SHA256 STDIN_FILE|- PROGRAM [ARGUMENT ...]
#   journal.sh read ID STDOUT_OFFSET STDERR_OFFSET LIMIT WAIT_CS
#   journal.sh kill ID
# start and read print one line of facts and the output from the offset; the error stream goes to the error stream.
# Exit codes: 0 told, 64 refused (the reason is on the error stream), 65 the id runs something else, 66 no such run.

old_path=$PATH
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
umask 077
runs=/var/lib/pvm/runs
# Kept of each end of an output that has become too long, in bytes.
keep=4194304
# A claimed run that no runner looks after within this many seconds was never started.
start_within=10

# Hundredths of a second since the machine started.
now() {
	read -r up _ </proc/uptime
	up=${up%.*}${up#*.}
	while :; do
		case $up in
		0?*) up=${up#0} ;;
		*) break ;;
		esac
	done
	echo "$up"
}

# When process $1 started, in ticks: tells it from a later one of the same number. Nothing for a dead one.
started_at() {
	stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
	set -- ${stat##*) }
	case $1 in
	Z | X) return 0 ;;
	esac
	shift 19
	echo "$1"
}

boot() {
	read -r kernel </proc/sys/kernel/random/boot_id
	echo "$kernel-$(started_at 1)"
}

# Whether the process noted in file $1 still runs.
runs_still() {
	pid='' since=''
	[ -f "$1" ] && read -r pid since <"$1"
	[ -n "$since" ] && [ "$(started_at "$pid")" = "$since" ]
}

refuse() {
	echo "$1" >&2
	exit 64
}

# Writes line $2 as file $1, whole or not at all: others read it at any time.
put() {
	printf '%s\n' "$2" >"$1.new"
	mv "$1.new" "$1"
}

# Sets `known`, `booted` and `begun` to what run $1 runs, in which boot, and since when; empty while it is being claimed.
claim() {
	known='' booted='' begun=''
	[ -f "$1/claim" ] && read -r known booted begun <"$1/claim"
}

# Writes the end of run $1 unless it has one: state, exit code or -, time. The first one counts.
end() {
	printf '%s %s %s\n' "$2" "$3" "$(now)" >"$1/exit.$$"
	sync "$1/exit.$$" 2>/dev/null
	ln "$1/exit.$$" "$1/exit" 2>/dev/null
	rm -f "$1/exit.$$"
}

start() {
	id=$1 user=$2 directory=$3 timeout=$4 wait=$5 limit=$6 sha=$7 input=$8
	shift 8
	run=$runs/$id
	mkdir -p "$runs"
	if [ ! -d "$run" ]; then
		# Before the claim: what is refused here has not happened, and may be asked for again.
		id -u "$user" >/dev/null 2>&1 || refuse "The VM has no user $user."
		[ -d "$directory" ] || refuse "The working directory $directory does not exist."
		command -v setsid >/dev/null || refuse "The VM's template lacks setsid (package util-linux)."
	fi
	if mkdir "$run" 2>/dev/null; then
		put "$run/claim" "$sha $(boot) $(now)"
		[ "$input" = - ] || mv "$input" "$run/stdin"
		setsid sh "$0" look_after "$run" "$user" "$directory" "$timeout" "$@" </dev/null >/dev/null 2>&1 &
	else
		[ "$input" = - ] || rm -f "$input"
		[ -d "$run" ] || refuse "The run's folder $run cannot be made; is the disk full?"
		claim "$run"
		[ -z "$known" ] || [ "$known" = "$sha" ] || exit 65
	fi
	report "$run" 0 0 "$limit" "$wait" end
}

# Runs the command and notes its end. A process of its own, in a session of its own: nothing that happens to the
# caller or to the command ends it.
look_after() {
	run=$1 user=$2 directory=$3 timeout=$4
	shift 4
	put "$run/runner" "$$ $(started_at $$)"
	input=/dev/null
	[ -f "$run/stdin" ] && input=$run/stdin
	: >"$run/stdout"
	: >"$run/stderr"
	# The command may open /dev/stdout again, which asks for its own right to the file.
	chown "$user" "$run/stdout" "$run/stderr"
	entry=$(getent passwd "$user" 2>/dev/null || grep "^$user:" /etc/passwd)
	home=$(echo "$entry" | cut -d: -f6)
	# A shell makes what it starts in the background deaf to Ctrl-C.
	hears=''
	env --default-signal=INT,QUIT true 2>/dev/null && hears=--default-signal=INT,QUIT
	set -- env $hears PATH="$old_path" HOME="${home:-/}" USER="$user" LOGNAME="$user" "$@"
	if [ "$user" != root ]; then
		# The first that is there; setpriv becomes the command, the others stay in front of it.
		if command -v setpriv >/dev/null; then
			set -- setpriv --reuid "$(id -u "$user")" --regid "$(id -g "$user")" --init-groups -- "$@"
		elif command -v runuser >/dev/null; then
			set -- runuser -u "$user" -- "$@"
		else
			set -- su "$user" -s /bin/sh -c 'exec "$@"' sh "$@"
		fi
	fi
	umask 022
	if ! cd "$directory" 2>>"$run/stderr"; then
		end "$run" exited 126
		return
	fi
	setsid "$@" <"$input" >>"$run/stdout" 2>>"$run/stderr" &
	command=$!
	umask 077
	put "$run/pid" "$command $(started_at "$command")"
	# A kill that came before there was anything to kill.
	[ -f "$run/killed" ] && kill -9 "-$command"
	watch "$run" "$command" "$timeout" &
	watcher=$!
	wait "$command"
	code=$?
	state=exited
	if [ "$code" = 137 ]; then
		[ -f "$run/timed_out" ] && state=timed_out
		[ -f "$run/killed" ] && state=killed
	fi
	end "$run" "$state" "$code"
	kill "$watcher" 2>/dev/null
	prune
}

# Ends the command $2 of run $1 after $3 seconds, and keeps its output in bounds.
watch() {
	begun=$(now)
	while [ ! -f "$1/exit" ]; do
		sleep 1
		if [ "$3" -gt 0 ] && [ $(($(now) - begun)) -ge $(($3 * 100)) ]; then
			: >"$1/timed_out"
			kill -9 "-$2" 2>/dev/null
			return
		fi
		trim "$1/stdout"
		trim "$1/stderr"
	done
}

# Gives back the disk space of the middle of output $1 when it is long. What is gone is noted first.
trim() {
	size=$(stat -c %s "$1" 2>/dev/null) || return 0
	gone=$keep
	[ -f "$1.gone" ] && read -r gone <"$1.gone"
	[ $((size - gone)) -gt $((2 * keep)) ] || return 0
	upto=$(((size - keep) / 4096 * 4096))
	put "$1.gone" "$upto"
	fallocate -p -o "$keep" -l $((upto - keep)) "$1" 2>/dev/null
}

# Removes runs that ended more than a week ago, at most once a day.
prune() {
	[ -z "$(find "$runs/.pruned" -mtime -1 2>/dev/null)" ] || return 0
	: >"$runs/.pruned"
	find "$runs" -mindepth 1 -maxdepth 1 -type d -mtime +7 | while read -r old; do
		[ -f "$old/exit" ] && rm -rf "$old"
	done
}

# Sets `state`, and `code` and `ended` where the run $1 has ended.
look() {
	state=running code=- ended=$(now)
	if [ ! -f "$1/exit" ]; then
		claim "$1"
		if [ -n "$booted" ] && [ "$booted" != "$(boot)" ]; then
			end "$1" lost -
		elif runs_still "$1/runner" || runs_still "$1/pid"; then
			return
		elif [ -f "$1/runner" ]; then
			# It may have noted the end between the two looks; then that one counts.
			end "$1" lost -
		elif [ $(($(date +%s) - $(stat -c %Y "$1"))) -gt $start_within ]; then
			end "$1" lost -
		else
			return
		fi
	fi
	read -r state code ended <"$1/exit"
}

# Sets `from`, `length`, `total` and `dropped` for reading output $1 from offset $2, at most $3 bytes.
piece() {
	total=$(stat -c %s "$1" 2>/dev/null || echo 0)
	from=$2 last=$total dropped=0
	if [ -f "$1.gone" ]; then
		read -r gone <"$1.gone"
		dropped=$((gone - keep))
		if [ "$from" -lt "$keep" ]; then
			last=$keep
		elif [ "$from" -lt "$gone" ]; then
			from=$gone
		fi
	fi
	[ "$from" -le "$total" ] || from=$total
	length=$((last - from))
	[ "$length" -le "$3" ] || length=$3
}

show() {
	[ "$3" -eq 0 ] || tail -c +$(($2 + 1)) "$1" | head -c "$3"
}

# Tells of run $1: from offsets $2 and $3, at most $4 bytes of each, within $5 hundredths of a second, as soon as it has
# ended or, if $6 is `news`, as there is more output.
report() {
	run=$1 out_from=$2 err_from=$3 limit=$4 mode=$6
	until=$(($(now) + $5))
	pause=0.02
	while :; do
		look "$run"
		piece "$run/stdout" "$out_from" "$limit"
		out="$from $length $total $dropped" out_at=$from out_length=$length out_total=$total
		piece "$run/stderr" "$err_from" "$limit"
		[ "$state" = running ] || break
		if [ "$mode" = news ]; then
			[ "$out_total" -gt "$out_from" ] || [ "$total" -gt "$err_from" ] && break
		fi
		[ "$(now)" -lt "$until" ] || break
		sleep $pause
		case $pause in
		0.02) pause=0.05 ;;
		0.05) pause=0.1 ;;
		*) pause=0.2 ;;
		esac
	done
	claim "$run"
	[ "$ended" -ge "${begun:=$ended}" ] || ended=$begun
	echo "pvm-journal-1 $state $code $(((ended - begun) * 10)) $out $from $length $total $dropped"
	show "$run/stdout" "$out_at" "$out_length"
	show "$run/stderr" "$from" "$length" >&2
}

kill_run() {
	run=$runs/$1
	[ -d "$run" ] && [ ! -f "$run/exit" ] || return 0
	: >"$run/killed"
	runs_still "$run/pid" && kill -9 "-$pid"
	return 0
}

do=$1
shift
case $do in
start) start "$@" ;;
look_after) look_after "$@" ;;
read)
	[ -d "$runs/$1" ] || exit 66
	report "$runs/$1" "$2" "$3" "$4" "$5" news
	;;
kill) kill_run "$1" ;;
*) exit 2 ;;
esac
