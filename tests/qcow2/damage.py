# SPDX-License-Identifier: BSD-2-Clause
#
# damage.py IMAGE OUT KIND: a copy of IMAGE, damaged in one way. `damage.py list` names the
# kinds, with what repairing them comes to:
#
#	whole	clean to both programs, and every byte of the disk as before
#	clean	clean to both, but parts of the disk are lost or were never right
#	worse	what is left is still an error, to both

import struct
import sys

COPIED, COMPRESSED = 1 << 63, 1 << 62
MASK = 0x00FFFFFFFFFFFE00
CS = 65536

KINDS = {
    # counts
    "data-count-0": "whole", "data-count-5": "whole", "header-count-0": "whole",
    "header-count-3": "whole", "l1-count-0": "whole", "table-count-0": "whole",
    "block-count-0": "whole", "block-count-2": "whole", "all-counts-0": "whole",
    "leak-inside": "whole", "leak-past-end": "whole",
    # the refcount structure
    "block-missing": "whole", "block-unaligned": "whole", "block-reserved": "whole",
    "block-outside": "whole", "second-block-outside": "whole", "block-is-l2": "whole",
    "block-twice": "whole", "block-is-table": "whole", "table-outside": "whole",
    "table-too-long": "whole", "table-is-l1": "whole", "table-empty": "whole",
    "table-is-l2": "whole", "table-leaves-file": "whole",
    # flags
    "l1-not-copied": "whole", "l2-not-copied": "whole", "dirty": "whole", "corrupt": "whole",
    "dirty-and-wrong": "whole",
    # entries
    "two-share": "clean", "l2-to-l2": "clean", "l2-to-block": "clean",
    "prealloc-unaligned": "clean", "l1-is-table": "clean",
    "just-outside-and-no-block": "clean",
    "data-unaligned": "worse", "data-outside": "worse", "data-far-outside": "worse",
    "l2-reserved": "worse", "l1-reserved": "worse", "l1-outside": "worse",
    "compressed-outside": "worse", "l1-is-block": "worse",
}


class Image:
    def __init__(self, path):
        with open(path, "rb") as f:
            self.b = bytearray(f.read())
        self.l1, self.reft = self.u64(40), self.u64(48)
        self.l2 = self.u64(self.l1) & MASK
        self.block = self.u64(self.reft)

    def u64(self, at):
        return struct.unpack_from(">Q", self.b, at)[0]

    def p64(self, at, v):
        struct.pack_into(">Q", self.b, at, v)

    def p32(self, at, v):
        struct.pack_into(">I", self.b, at, v)

    def count(self, offset, n):
        struct.pack_into(">H", self.b, self.block + 2 * (offset // CS), n)

    def do(self, kind):
        data = self.u64(self.l2) & MASK
        end = len(self.b) // CS * CS + CS
        {
            "data-count-0": lambda: self.count(data, 0),
            "data-count-5": lambda: self.count(data, 5),
            "header-count-0": lambda: self.count(0, 0),
            "header-count-3": lambda: self.count(0, 3),
            "l1-count-0": lambda: self.count(self.l1, 0),
            "table-count-0": lambda: self.count(self.reft, 0),
            "block-count-0": lambda: self.count(self.block, 0),
            "block-count-2": lambda: self.count(self.block, 2),
            "all-counts-0": self.no_counts,
            "leak-inside": self.leak_inside,
            "leak-past-end": lambda: self.count(end + 5 * CS, 1),
            "block-missing": lambda: self.p64(self.reft, 0),
            "block-unaligned": lambda: self.p64(self.reft, self.block + 512),
            "block-reserved": lambda: self.p64(self.reft, self.block + 1),
            "block-outside": lambda: self.p64(self.reft, 1 << 28),
            "second-block-outside": lambda: self.p64(self.reft + 8, 1 << 28),
            "block-is-l2": lambda: self.p64(self.reft + 8, self.l2),
            "block-twice": lambda: self.p64(self.reft + 8, self.block),
            "block-is-table": lambda: self.p64(self.reft + 8, self.reft),
            "table-outside": lambda: self.p64(48, 1 << 28),
            "table-too-long": lambda: self.p32(56, 2),
            "table-is-l1": lambda: self.p64(48, self.l1),
            "table-leaves-file": lambda: self.p64(48, len(self.b) // CS * CS) or self.p32(56, 3),
            "table-empty": lambda: self.p32(56, 0),
            "table-is-l2": lambda: self.p64(48, self.l2),
            "l1-not-copied": lambda: self.p64(self.l1, self.l2),
            "l2-not-copied": lambda: self.p64(self.l2, data),
            "dirty": lambda: self.p64(72, self.u64(72) | 1),
            "corrupt": lambda: self.p64(72, self.u64(72) | 2),
            "dirty-and-wrong": lambda: (self.p64(72, self.u64(72) | 1), self.count(data, 0),
                                        self.count(data + CS, 3)),
            "two-share": lambda: self.p64(self.l2, self.u64(self.l2 + 8)),
            "l2-to-l2": lambda: self.p64(self.l2, self.l2 | COPIED),
            "l2-to-block": lambda: self.p64(self.l2, self.block | COPIED),
            "prealloc-unaligned": lambda: self.p64(self.l2, (data + 512) | COPIED | 1),
            "data-unaligned": lambda: self.p64(self.l2, (data + 512) | COPIED),
            "data-outside": lambda: self.p64(self.l2, 1 << 28 | COPIED),
            "data-far-outside": lambda: self.p64(self.l2, (MASK & ~(CS - 1)) | COPIED),
            "l2-reserved": lambda: self.p64(self.l2, self.u64(self.l2) | 4),
            "l1-reserved": lambda: self.p64(self.l1, self.u64(self.l1) | 1 << 56),
            "l1-is-table": lambda: self.p64(self.l1, self.reft),
            "l1-is-block": lambda: self.p64(self.l1, self.block | COPIED),
            "just-outside-and-no-block": lambda: (self.p64(self.l2, end | COPIED),
                                                  self.p64(self.reft, 0)),
            "l1-outside": lambda: self.p64(self.l1, 1 << 28 | COPIED),
            "compressed-outside": lambda: self.p64(self.l2, 1 << 28 | COMPRESSED),
        }[kind]()

    def no_counts(self):
        self.b[self.block:self.block + CS] = bytes(CS)

    # A cluster of zeros at the end that is counted and nobody's.
    def leak_inside(self):
        end = -(-len(self.b) // CS) * CS
        self.b.extend(bytes(end + CS - len(self.b)))
        self.count(end, 1)


if sys.argv[1] == "list":
    for kind, after in KINDS.items():
        print(kind, after)
else:
    image = Image(sys.argv[1])
    image.do(sys.argv[3])
    with open(sys.argv[2], "wb") as f:
        f.write(image.b)
