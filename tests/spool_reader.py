#!/usr/bin/env python3
"""Reads a stopped relay's spool by src/spool/FORMAT.md and the tables that it names alone: `spool_reader.py DIR` prints each
message that is not settled, an object a line. At damage it stops, where a relay goes on."""
import functools, hashlib, json, pathlib, struct, sys

BLOCK, ONES = 4096, 0xFFFFFFFF
CRC = [functools.reduce(lambda value, _: value >> 1 ^ (0x82F63B78 if value & 1 else 0), range(8), byte) for byte in range(256)]
HEAD = "sum version magic salt part number size oldest next_message tail_segment tail_offset tail_batch"
NOTHING = {"owed": 0, "relayed": 0, "placed": 0}
SIMPLE = {0x81: "sender", 0x82: "accepted_at", 0x83: "expires_at", 0x86: "flags", 0x87: "needs", 0x07: "envid", 0x08: "tenant", 0x09: "pool"}

def checksum(data, seed=0):
    return functools.reduce(lambda value, byte: CRC[(value ^ byte) & 255] ^ value >> 8, data, seed ^ ONES) ^ ONES

def read_segment(path):
    data, number, heads = path.read_bytes(), int(path.name[8:]), {b"RPsegmnt": [], b"RPfooter": []}
    for at in (0, BLOCK, len(data) - BLOCK):
        block = data[at:][:BLOCK]
        head = dict(zip(HEAD.split(), struct.unpack_from("<II8sQIIIIQIIQ", block)), prepared=block[76])
        if head["number"] == number and head["sum"] == checksum(block[4:], checksum(block[16:24])):
            assert head["version"] == 1, "written by a newer version"
            heads[head["magic"]].append(head)
    head = min(heads[b"RPsegmnt"], key=lambda head: head["prepared"])
    end = next((trailer["tail_offset"] for trailer in heads[b"RPfooter"] if trailer["salt"] == head["salt"]), None)
    return {**head, "data": data, "end": end, "seed": checksum(struct.pack("<Q", head["salt"]))}

def batches(segment):
    data, seed, start, expected = segment["data"], segment["seed"], 2 * BLOCK, segment["tail_batch"] + 1
    while start < (segment["end"] or len(data) - BLOCK):
        total, magic, size, sequence, salt, offset, oldest = struct.unpack_from("<I4x4sIQ8xQ8xII", data, start)
        until, at, records = start + -(-size // BLOCK) * BLOCK, start + 64, []
        ours = (magic, sequence, salt, offset) == (b"RPb1", expected, segment["salt"], start)
        if not ours or total != checksum(data[start + 4 : until], seed):
            return sys.exit(f"segment {segment['number']} is rotten at {start}") if segment["end"] else None
        while at < start + size:
            kind, id, offset, meta, body, *sums = struct.unpack_from("<4xB3xQIIIII", data, at)
            meta, body = data[at + 40 :][:meta], data[at + 40 + meta :][:body]
            assert [offset, *sums] == [at, checksum(meta, seed), checksum(body, seed)], f"a bad record at {at}"
            records.append((kind, id, (segment["number"], at), meta, body))
            at += -(-(40 + len(meta) + len(body)) // 8) * 8
        yield oldest, records
        start, expected = until, expected + 1

def number(data):
    more, rest = number(data[1:]) if data[0] > 127 else (0, data[1:])
    return data[0] & 127 | more << 7, rest

def apply(messages, kind, id, place, meta, body):
    known = messages.get(id)
    message = {"id": id, "place": place, "legs": {}, "chunks": [], "rest": body} if kind == 0x81 else known
    legs, states = message["legs"] if message else {}, {}
    while message and meta:
        (tag, size), value = struct.unpack_from("<BH", meta), meta[3:]
        value, meta = value[:size], value[size:]
        if tag in SIMPLE:
            message[SIMPLE[tag]] = int.from_bytes(value, "little") if tag in (0x82, 0x83, 0x86, 0x87) else value.decode()
        elif tag == 0x84:
            first, due = sum(len(leg["to"]) for leg in legs.values()), message["accepted_at"]
            leg = legs[first] = dict(domain=value.decode(), attempts=0, due=due, open=0, **NOTHING, to=[], replies={})
        elif tag == 0x85:
            notify, size = struct.unpack_from("<BH", value)
            leg["open"] |= 1 << len(leg["to"])
            leg["to"].append((value[3:][:size].decode(), notify, value[3:][size:].decode()))
        elif tag == 0xA0:
            message["chunks"] += struct.iter_unpack("<III", value)
        elif tag == 0xA1:
            first, *numbers = struct.unpack("<HHQQQ", value)
            leg = states[first] = {**NOTHING, **dict(zip(("attempts", "due", "open", "owed"), numbers)), "replies": {}}
        elif tag == 0xA2:
            bits, verdict, code, *status = struct.unpack_from("<QBHBHH", value)
            leg["replies"].update((bit, [code, status, value[16:].decode()]) for bit in range(64) if bits >> bit & 1)
            hit = bits & leg["open"]
            if verdict == 2 and hit and kind == 0x83 and attempts >= before:
                leg["due"] = due if attempts > before else max(due, leg["due"])
            elif verdict != 2:
                leg["open"], leg["owed"] = leg["open"] & ~hit, leg["owed"] | (hit if verdict == 3 else 0)
        elif tag == 0x26:
            leg[("relayed", "placed")[value[0] - 1]] |= hit
        elif tag == 0x27:
            for leg in states.values():
                (leg["relayed"], value), (leg["placed"], value) = (pair := number(value[1:])), number(pair[1])
        elif tag == 0xA3:
            first, attempts, _, due = struct.unpack("<HHQQ", value)
            leg, before = legs[first], legs[first]["attempts"]
            leg["attempts"] = max(before, attempts)
        elif tag == 0xA4:
            first, bits = struct.unpack("<HQ", value)
            legs[first].update((name, legs[first][name] & ~bits) for name in NOTHING)
    for first, leg in legs.items() if states else ():
        leg.update(states.get(first, {"open": 0, **NOTHING}))
    message and known and kind == 0x81 and not states and message.update(legs=known["legs"])
    is_open = message and kind != 0x85 and any(leg["open"] or any(map(leg.get, NOTHING)) for leg in message["legs"].values())
    messages.update({id: message}) if is_open else messages.pop(id, None)

assert pathlib.Path(sys.argv[1], "format").read_text().startswith("ringpost spool\nformat 1\n"), "no spool of version 1"
for part in sorted(pathlib.Path(sys.argv[1]).glob("part-*")):
    messages, chunks, segments = {}, {}, map(read_segment, sorted(part.glob("segment-*")))
    log = [segment for segment in segments if not segment["prepared"]]
    for segment, after in zip(log, log[1:]):
        segment["end"] = after["tail_offset"] if after["tail_segment"] == segment["number"] else segment["end"]
    oldest = max((oldest for segment in log[-1:] for oldest in (segment["oldest"], *(b[0] for b in batches(segment)))), default=0)
    for record in (r for segment in log if segment["number"] >= oldest for _, records in batches(segment) for r in records):
        apply(messages, *record)
        chunks[record[2]] = record[-1]
    for message in sorted(messages.values(), key=lambda message: message["id"]):
        body = b"".join(chunks[at[:2]] for at in message.pop("chunks")) + message.pop("rest")
        print(json.dumps({**message, "size": len(body), "sha256": hashlib.sha256(body).hexdigest()}))
