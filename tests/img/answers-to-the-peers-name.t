#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: started as qemu-img the messages begin with that name, else with byre-img; what
# getopt and the command line as a whole have to say is what the peer says.
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/img/peer.sh"

is "$("$ours" info nothere 2>&1 | cut -d: -f1)" qemu-img "under the peer's name"
is "$(byre-img info nothere 2>&1 | cut -d: -f1)" byre-img "under our own"
like "$("$ours" --version)" "^qemu-img version 10" "the release whose options these are"
like "$(byre-img --version)" "^byre-img version " "and our own"
like "$("$ours" --help)" "^  convert - " "help lists the commands"
like "$("$ours" -h)" "qcow2" "and the formats"
for command in check compare convert create info map measure resize snapshot; do
	ok "$command --help" byre-img $command --help
	like "$(cat out)" "^  byre-img $command " "$command --help shows its usage"
done
alike_err "no command" ''
[ $peer_new = no ] || {
	alike_err "nothing"
	alike_err "an unknown command" foo
	alike_err "an unknown letter" -x
	alike_err "an unknown word" --bar
	alike_err "a letter without its value" -T
	alike_err "an unknown letter of a command" create -z
	alike_err "an unknown word of a command" create --foo
	alike_err "a letter of a command without its value" create -f
	alike_err "no name for create" create
	alike_err "no name for info" info
	alike_err "no name for check" check
	alike_err "no name for map" map
	alike_err "no name for snapshot" snapshot
	alike_err "no names for compare" compare
	alike_err "no names for convert" convert
	alike_err "no names for resize" resize
	alike_err "nothing for measure" measure
	alike_err "a bad output" info --output=x y
}
ok "-T is accepted" byre-img -T 'foo*' create -q -f raw a.raw 64k
not_ok "a full disk is not a success" sh -c 'byre-img info -f raw a.raw >/dev/full'
done_testing
