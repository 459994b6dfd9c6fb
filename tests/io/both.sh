# SPDX-License-Identifier: BSD-2-Clause
# shellcheck shell=sh
#
# For tests that hold byre-io's words against those of the installed qemu-io.

# Output without what differs from run to run, from program to program, and the help's
# sentences (which are each project's own).
normal () {
	sed -E \
		-e 's/; [0-9][0-9:.]*( sec)? \(.*ops\/sec\)$/; TIME/' \
		-e 's/^([0-9]+),1,[0-9:.]+,[0-9.]+,[0-9.]+$/\1,1,TIME/' \
		-e 's/^([a-z_]+( .*)?) -- .*/\1 --/' \
		-e 's/\[-abCqrv\]/[-bCqrv]/' \
		-e 's/^(byre|qemu)-io: /NAME: /' \
		-e 's/(byre|qemu)-io> /PROMPT> /g' \
		-e '/^WARNING: Image format was not/d' \
		-e '/^         /d'
}

# alike NAME SETUP ARGS...: both programs, each in a fresh folder where the shell words of
# SETUP have run, print the same on both outputs and end alike.
alike () {
	what=$1
	setup=$2
	shift 2
	for tool in byre-io qemu-io; do
		rm -rf "$tool.d"
		mkdir "$tool.d"
		(
			cd "$tool.d" || exit 1
			eval "$setup" >/dev/null 2>&1 || echo "set-up failed" >>../setup.err
			"$tool" "$@" >../"$tool.raw.out" 2>../"$tool.raw.err" </dev/null
			echo "status $?" >../"$tool.status"
		)
		{
			normal <"$tool.raw.out"
			echo "-- errors"
			normal <"$tool.raw.err"
			cat "$tool.status"
		} >"$tool.seen"
	done
	if [ -e setup.err ]; then
		rm -f setup.err
		fail "$what" "the set-up failed: $setup"
	elif diff -u qemu-io.seen byre-io.seen >seen.diff; then
		pass "$what"
	else
		fail "$what" "$(cat seen.diff)"
	fi
}
