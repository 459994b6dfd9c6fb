# SPDX-License-Identifier: BSD-2-Clause
# shellcheck shell=sh
#
# Times commands and prints rows of the table. Sourced with $runs and $measure set.

heading () {
	printf '%-26s %9s %9s %7s %6s %9s %9s %8s %8s\n' work 'qemu s' 'byre s' ratio goal 'qemu MiB' 'byre MiB' 'qemu RSS' 'byre RSS'
}

# best VARIABLE BEFORE COMMAND...: the best run's "wall cpu peak"; BEFORE puts the files right.
best () {
	var=$1 before=$2
	shift 2
	result=
	i=0
	while [ $i -lt "$runs" ]; do
		$before || return 1
		one=$("$measure" "$@" 2>err) || { echo "bench: failed: $*: $(cat err)" >&2; eval "$var="; return 1; }
		result=$(printf '%s\n%s\n' "$result" "$one" | sed '/^$/d' | sort -n | head -n 1)
		i=$((i + 1))
	done
	eval "$var=\$result"
}
mib () { if [ -e "$1" ]; then echo $(($(stat -c %b "$1") / 2048)); else echo -; fi; }

# row WORK GOAL COLUMN: prints $theirs and $ours; COLUMN is 1 for wall, 2 for processor time.
row () {
	if [ -z "$theirs" ] || [ -z "$ours" ]; then
		printf '%-26s %9s\n' "$1" failed
		return
	fi
	printf '%s\n%s\n' "$theirs" "$ours" | awk -v work="$1" -v goal="$2" -v column="$3" -v a="$their_mib" -v b="$our_mib" '
		NR == 1 { t = $column; rss = $3 / 1024 }
		NR == 2 { printf "%-26s %9.3f %9.3f %6.2fx %5sx %9s %9s %8.0f %8.0f\n", work, t, $column, t / $column, goal, a, b, rss, $3 / 1024 }'
}
clean () { rm -f out; }
fresh () { :; }
