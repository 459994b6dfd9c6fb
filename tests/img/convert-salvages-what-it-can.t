#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: --salvage goes on where the source cannot be read, with zeros for what is lost, and
# says where; without it convert fails and keeps nothing.
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/img/peer.sh"

head -c 64k /dev/urandom >disk.raw
head -c 64k /dev/zero >zeros.raw
bad=driver=raw,file.driver=fault,file.file.filename=disk.raw,file.ops=read,file.fail-at=1

exits 1 "a read fails" byre-img convert --image-opts -O raw $bad new.raw
is "$(wc -l <err)" 1 "that is one line"
like "$(cat err)" "error while reading at byte 0.*: Input/output error" "which says where"
ok "and no target" test ! -e new.raw
ok "a read that fails once loses nothing" byre-img convert --salvage --image-opts -O raw $bad new.raw
same new.raw disk.raw "it is tried again in parts"

ok "nothing can be read" byre-img convert --salvage --image-opts -O raw $bad,file.sticky=on new.raw
same new.raw zeros.raw "what is lost is zeros"
is "$(wc -l <err)" 128 "a line for each sector"
like "$(cat err)" "^byre-img: warning: error while reading offset 65024: Input/output error$" "which says which"
ok "quietly" byre-img convert -q --salvage --image-opts -O raw $bad,file.sticky=on new.raw
is "$(cat err)" "" "none with -q"
done_testing
