# SPDX-License-Identifier: Apache-2.0
"""Where the parts of a layer file stand, and how to damage one (docs/formats/layer.md)."""
import struct
import subprocess

from blobserver import BLOCK, xxh128

HEADER, FOOTER = 256, 104


def unpack(stored):
    return subprocess.run(["zstd", "-dcq"], input=stored, check=True, capture_output=True).stdout


def parts(data):
    """Name -> (offset, bytes) of every part, in the order of the file."""
    assert data[:8] == b"YADOLAYR" and data[-FOOTER:][:8] == b"YADOLEND"
    hot, prints, table = (struct.unpack_from(">QI", data, len(data) - FOOTER + 8 + 24 * i)
                          for i in range(3))
    raw = unpack(data[table[0]:table[0] + table[1]])
    frames = [struct.unpack_from(">QI", raw, 4 + 24 * i)
              for i in range(struct.unpack_from(">I", raw)[0])]
    found = {"header": (0, HEADER), "device state": frames[0]}
    found.update({f"frame {i}": f for i, f in enumerate(frames) if i})
    found.update({"hot list": hot, "prints": prints, "page table": table,
                  "footer": (len(data) - FOOTER, FOOTER)})
    return found


def flip(path, part, rng):
    """One bit of that part of a file in the depot. The sums of its blocks are made anew, as if its
    PC had written it so: nothing but the layer's own checks can notice."""
    data = bytearray(path.read_bytes())
    found = parts(data)
    if part == "a frame":
        part = rng.choice([p for p in found if p.startswith("frame")])
    offset, size = found[part]
    bit = rng.randrange(size * 8)
    data[offset + bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    path.with_name(path.name + ".blocks").write_bytes(
        b"".join(xxh128(bytes(data[i:i + BLOCK])) for i in range(0, len(data), BLOCK)))
    return f"{part}, byte {offset + bit // 8}, bit {bit % 8}"
