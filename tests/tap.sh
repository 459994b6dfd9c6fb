# SPDX-License-Identifier: BSD-2-Clause
# shellcheck shell=sh
#
# The vocabulary of shell tests (tests/**/*.t). A test begins with
#
#	#!/bin/sh
#	# SPDX-License-Identifier: BSD-2-Clause
#	# Goal: what this test shows, in a sentence.
#	. "$BYRE_SRC/tests/tap.sh"
#
# and ends with `done_testing`. It runs in an empty folder that is deleted afterwards, with
# byre-img and byre-io on its PATH.

tap_n=0
tap_failed=0

# pass NAME, fail NAME [DIAGNOSTIC...]
pass () {
	tap_n=$((tap_n + 1))
	echo "ok $tap_n - $1"
}
fail () {
	tap_n=$((tap_n + 1))
	tap_failed=$((tap_failed + 1))
	echo "not ok $tap_n - $1"
	shift
	[ $# -eq 0 ] || printf '%s\n' "$@" | sed 's/^/# /'
}

# skip NAME REASON: a point that could not be tried. skip_all REASON: nothing could.
skip () {
	tap_n=$((tap_n + 1))
	echo "ok $tap_n - $1 # SKIP $2"
}
skip_all () {
	echo "1..0 # SKIP $1"
	exit 0
}

# ok NAME COMMAND...: succeeds. not_ok NAME COMMAND...: exits with a status from 1 to 125,
# as a program that refuses; one that died of a signal or was not found fails the test.
# Output goes to the files out and err either way.
ok () {
	tap_name=$1
	shift
	"$@" >out 2>err
	tap_status=$?
	if [ $tap_status -eq 0 ]; then
		pass "$tap_name"
	else
		fail "$tap_name" "exit status $tap_status of: $*" "$(tail -n 20 out)" "$(tail -n 20 err)"
		return 1
	fi
}
not_ok () {
	tap_name=$1
	shift
	"$@" >out 2>err
	tap_status=$?
	if [ $tap_status -ge 1 ] && [ $tap_status -le 125 ]; then
		pass "$tap_name"
	else
		fail "$tap_name" "exit status $tap_status of: $*" "$(tail -n 20 out)" "$(tail -n 20 err)"
		return 1
	fi
}
# exits STATUS NAME COMMAND...: exits with exactly this status.
exits () {
	tap_want=$1 tap_name=$2
	shift 2
	"$@" >out 2>err
	tap_status=$?
	if [ $tap_status -eq "$tap_want" ]; then
		pass "$tap_name"
	else
		fail "$tap_name" "exit status $tap_status, not $tap_want, of: $*" "$(tail -n 20 out)" "$(tail -n 20 err)"
		return 1
	fi
}

# is GOT WANTED NAME; like TEXT BASIC-REGEX NAME (some line of it matches); unlike likewise.
is () {
	if [ "$1" = "$2" ]; then
		pass "$3"
	else
		fail "$3" "got:" "$1" "wanted:" "$2"
		return 1
	fi
}
like () {
	if printf '%s\n' "$1" | grep -q -e "$2"; then
		pass "$3"
	else
		fail "$3" "no line matches $2 in:" "$1"
		return 1
	fi
}
unlike () {
	if printf '%s\n' "$1" | grep -q -e "$2"; then
		fail "$3" "a line matches $2 in:" "$1"
		return 1
	else
		pass "$3"
	fi
}
# same FILE FILE NAME: equal bytes (a shorter one is not equal).
same () {
	if cmp "$1" "$2" >out 2>&1; then pass "$3"; else fail "$3" "$(cat out)"; return 1; fi
}

# have PROGRAM...: all are installed.
have () {
	for tap_program; do command -v "$tap_program" >/dev/null 2>&1 || return 1; done
}
# peer_at_least MAJOR MINOR: qemu-img is installed and as new as that.
peer_at_least () {
	have qemu-img || return 1
	qemu-img --version | awk -v major="$1" -v minor="$2" 'NR == 1 {
		split($3, v, ".")
		exit !(v[1] > major || (v[1] == major && v[2] + 0 >= minor))
	}'
}

# info_json byre|qemu ARGUMENT...: info in JSON with the peer's keys from either; ours prints no
# others under the peer's name.
info_json () {
	tap_side=$1
	shift
	if [ "$tap_side" = byre ]; then
		mkdir -p .named
		ln -sf "$BYRE_BUILD/byre-img" .named/qemu-img
		.named/qemu-img info --output=json "$@"
	else
		qemu-img info --output=json "$@"
	fi
}

done_testing () {
	echo "1..$tap_n"
	[ $tap_failed -eq 0 ]
	exit
}

# wait_for COMMAND...: until it succeeds, a minute at most.
wait_for () {
	wait_tries=0
	until "$@" >/dev/null 2>&1; do
		wait_tries=$((wait_tries + 1))
		[ $wait_tries -lt 1200 ] || return 1
		sleep 0.05
	done
}
