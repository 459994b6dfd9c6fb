#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: the tree keeps its own rules: layers, headers that stand alone, clean manual pages,
# shell scripts that any POSIX shell runs, a licence line in each file.
. "$BYRE_SRC/tests/tap.sh"

ok "folders include only what their layer may" sh "$BYRE_SRC/scripts/check-layers" "$BYRE_SRC"

cd "$BYRE_BUILD" || exit 1
# shellcheck disable=SC2046 # the compiler and its flags
ok "each header compiles alone and twice" \
	sh "$BYRE_SRC/scripts/check-headers" "$BYRE_SRC" $(cat obj/flags)
cd "$TMPDIR" || exit 1

if have mandoc; then
	ok "manual pages are clean to mandoc" sh "$BYRE_SRC/scripts/check-man" "$BYRE_SRC"
else
	skip "manual pages are clean to mandoc" "mandoc is not installed"
fi

shell_files () {
	# shellcheck disable=SC2046 # either may be missing
	(cd "$BYRE_SRC" && grep -rl '^#!/bin/sh' configure scripts tests $(ls -d quickstart .ci 2>/dev/null))
}
syntax () {
	shell_files | while read -r file; do sh -n "$BYRE_SRC/$file" || echo "$file"; done
}
is "$(syntax 2>&1)" "" "every shell script parses"

unlicensed () {
	cd "$BYRE_SRC" || exit 1
	for folder in base block backends qcow2 formats tools tests scripts; do
		[ ! -d $folder ] || find $folder -name '*.[cht]' -o -type f -path 'scripts/*'
	done | while read -r file; do
		head -n 3 "$file" | grep -q 'SPDX-License-Identifier: BSD-2-Clause' || echo "$file"
	done
}
is "$(unlicensed)" "" "every source names its licence"

done_testing
