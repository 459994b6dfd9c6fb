#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: names that an image holds may have any bytes in them: shown to people, they stay on
# their line and send the terminal nothing. JSON has them as they are, escaped.
. "$BYRE_SRC/tests/tap.sh"

# Every control character becomes a '?': what is left after these are taken away is text.
control=$(printf '[\001-\011\013-\037\177]')
nl='
'
esc=$(printf '\033[31m')
# clean NAME: out and err hold no control character, and nothing begins with "fake".
clean () {
	unlike "$(cat out err)" "$control" "$1: no control characters"
	unlike "$(cat out err)" '^fake' "$1: no line of its own"
}
# hold IMAGE OLD NEW: one string in an image replaced by another of its length.
hold () {
	python3 - "$@" <<'PY'
import sys
path, old, new = sys.argv[1], sys.argv[2].encode(), sys.argv[3].encode()
data = open(path, "rb").read()
assert len(old) == len(new) and old in data, (old, new)
open(path, "wb").write(data.replace(old, new))
PY
}

byre-img create -q -f qcow2 -u -b "nothere_____fake" -F "qcow2" new.qcow2 1M
hold new.qcow2 "nothere_____fake" "a$nl$esc${nl}fake${nl}bcd"
hold new.qcow2 "qcow2" "q$nl${nl}w2"
ok "info" byre-img info new.qcow2
clean "info"
like "$(cat out)" '^backing file: a??\[31m?fake?bcd$' "info: the rest of the name is shown"
like "$(cat out)" '^backing file format: q??w2$' "info: the format's too"
ok "info in JSON" byre-img info --output=json new.qcow2
like "$(cat out)" '"a\\n\\u001B\[31m\\nfake\\nbcd"' "info in JSON: escaped"
not_ok "a backing format that is none" byre-img convert -O raw new.qcow2 x.raw
clean "a backing format that is none"
is "$(wc -l <err)" 1 "a backing format that is none: one line"

byre-img create -q -f qcow2 -u -b "nothere_____fake" -F raw new.qcow2 1M
hold new.qcow2 "nothere_____fake" "a$nl$esc${nl}fake${nl}bcd"
not_ok "a backing file that is not there" byre-img map new.qcow2
clean "a backing file that is not there"
is "$(wc -l <err)" 1 "a backing file that is not there: one line"

byre-img create -q -f qcow2 -o data_file=data_file_fake_,data_file_raw=on data.qcow2 1M
byre-io -c 'write 0 64k' data.qcow2 >/dev/null
hold data.qcow2 "data_file_fake_" "d$esc${nl}fakefile"
cp data_file_fake_ "d$esc${nl}fakefile"
ok "info of a data file" byre-img info data.qcow2
clean "info of a data file"
ok "map of a data file" byre-img map data.qcow2
clean "map of a data file"
like "$(cat out)" '^0 .*d?\[31m?fakefile$' "map of a data file: its name"
ok "byre-io info" byre-io -c info data.qcow2
clean "byre-io info"
rm "d$esc${nl}fakefile"
not_ok "a data file that is not there" byre-img map data.qcow2
clean "a data file that is not there"

byre-img create -q -f qcow2 snap.qcow2 1M
ok "a snapshot" byre-img snapshot -c "s$nl${esc}fake" snap.qcow2
ok "listed" byre-img snapshot -l snap.qcow2
clean "listed"
is "$(sed -n '3,$p' out | cut -c 1-19)" '1       s??[31mfake' "listed: on its line"
ok "in info" byre-img info snap.qcow2
clean "in info"
not_ok "deleting another" byre-img snapshot -d "x${nl}fake" snap.qcow2
clean "deleting another"
ok "names in UTF-8" byre-img snapshot -c 'blåbær 点' snap.qcow2
like "$(byre-img snapshot -l snap.qcow2)" '^2       blåbær 点' "names in UTF-8 are shown as they are"

if byre-img --help | grep -qw luks; then
	byre-img create -q -f luks --object secret,id=s,data=x -o key-secret=s,iter-time=10 l.luks 1M
	hold l.luks sha256 "a${nl}fake"
	not_ok "a hash that is none" byre-img map --object secret,id=s,data=x --image-opts driver=luks,key-secret=s,file.filename=l.luks
	clean "a hash that is none"
fi
done_testing
