#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: a discard of a raw external data file is a change like any other: an enabled bitmap
# that does not record it is flagged in use before it.
. "$BYRE_SRC/tests/tap.sh"
have qemu-img && qemu-img bitmap --help 2>&1 | grep -q -- --add || skip_all "no qemu-img that makes bitmaps"

byre-img create -q -f qcow2 -o data_file=d.raw,data_file_raw=on d.qcow2 16M
byre-io -c 'write -q -P 7 0 1M' d.qcow2
ok "a bitmap" qemu-img bitmap --add d.qcow2 b0
unlike "$(byre-img info --output=json d.qcow2)" '"in-use"' "nobody has changed anything"
byre-io -d unmap -c 'discard -q 0 1M' -c 'read -q -P 0 0 1M' d.qcow2
like "$(byre-img info --output=json d.qcow2)" '"in-use"' "the discard has told"
done_testing
