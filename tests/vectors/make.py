"""``python -m tests.vectors.make``: writes the test vectors for whoever builds another verifier of exports.

``vectors.json`` says of every export beside it with which keys and kept checkpoints it is to be checked,
whether it holds, and where not. The keys are fixed and signatures of Ed25519 are, too, so this gives the same
bytes every time.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from msgspec.structs import replace

from horizon.core import events as ev
from horizon.core.model import Array, Device, Exit, IndexRange, Inventory, JobSpec, Placement, Priority
from horizon.core.policy import Policy
from horizon.store import codec
from horizon.store.export import Header, checkpoint_line, event_line
from horizon.store.note import Checkpoint, SigningKey, origin_of, signed
from horizon.store.port import GENESIS_HASH, Head, Signed
from horizon.store.proof import Proof, proven_lines
from horizon.store.tree import Frontier

HERE: Final = Path(__file__).parent
LOG_ID: Final = bytes(range(16))
T0_US: Final = 1_700_000_000_000_000
FIRST, SECOND, STRANGER = (SigningKey(origin_of(LOG_ID), bytes([one]) * 32) for one in (1, 2, 3))
KEYS: Final = {"first": FIRST, "second": SECOND, "stranger": STRANGER}
A, B = "01890a5d-ac96-774b-bcce-b302099a8057", "01890a5d-ac96-774b-bcce-ffffffffffff"
TASK: Final = "01890a5d-ac96-774b-bcce-000000000000"
"""The first task of B: the array's id counted on, round the end."""

Log = list[ev.Recorded]


def history() -> Log:
    """The life of a job and of an array, under two leaders and two keys; the first is of an older Horizon."""
    inventory = Inventory("node-1", 32, 262_144, (Device("GPU-1", 0, "H100", 81_559),), simulated=True)
    place = (Placement("node-1", ("GPU-1",)),)
    array = Array((IndexRange(0, 4, 2),))
    ok = Exit(exit_code=0)
    scheduled = {
        "attempt": 1,
        "allocation": place,
        "now_us": T0_US,
        "rank": 1,
        "score": 0.5,
        "policy_version": 1,
    }
    elected = {"host": "h", "version": "0.1.0", "config_digest": "ef", "decisions": 1}
    log = sealed(
        [
            (1, ev.LeaderElected(epoch=1, pid=7, **elected)),
            (1, ev.SigningKeySet(key=str(FIRST.public), by="scheduler")),
            (1, ev.PolicySet(version=1, policy=Policy(), by="scheduler")),
            (1, ev.NodeRegistered(node="node-1", inventory=inventory)),
            (
                1,
                ev.JobSubmitted(
                    job_id=A, number=1, spec=JobSpec("alice", "true", comment='"\u2028\n\U0001d525')
                ),
            ),
            (1, ev.JobSubmitted(job_id=B, number=2, spec=JobSpec("böb", ("echo", "1"), array=array))),
            (1, ev.JobScheduled(job_id=A, cycle=1, **scheduled)),
            (1, ev.JobStarted(job_id=A, attempt=1)),
            (1, ev.JobHeld(job_id=B)),
            (1, ev.JobUpdated(job_id=A, priority=Priority.HIGH)),
            (1, ev.JobCompleted(job_id=A, attempt=1, exit=ok)),
            (1, ev.AllocationReleased(job_id=A, attempt=1)),
            (3, ev.LeaderElected(epoch=3, pid=8, **elected)),
            (3, ev.SigningKeySet(key=str(SECOND.public), by="scheduler")),
            (3, ev.JobReleased(job_id=B)),
            (3, ev.JobScheduled(job_id=TASK, cycle=2, **scheduled)),
            (3, ev.JobStarted(job_id=TASK, attempt=1)),
            (3, ev.JobCancelled(job_id=B, by="owner", reason="wrong data")),
            (3, ev.AllocationReleased(job_id=TASK, attempt=1, exit=Exit(signal=15))),
            (3, ev.ShareSet(path="research", weight=3)),
        ]
    )
    old = log[0].payload.replace(b',"decisions":1', b"")
    return changed(log, 1, True, schema_version=1, payload=old)


VERSIONS: Final = [1, 2, 1, 1, 1, 1, 2, 3, 2, 4, 5, 6, 3, 4, 3, 4, 5, 4, 7, 1]
"""Of the events' streams. Those of a task count what is said of its array while it waits, or is alive."""
SIGNED: Final[dict[int, list[SigningKey]]] = {4: [FIRST], 12: [FIRST], 14: [FIRST, SECOND], 19: [SECOND]}


def sealed(events: list[tuple[int, ev.Event]]) -> Log:
    log: Log = []
    head = Head(LOG_ID, 0, 0, GENESIS_HASH, 0)
    for (epoch, event), version in zip(events, VERSIONS, strict=True):
        head = replace(head, epoch=epoch)
        at = head.position + 1
        draft = ev.Draft(
            event, event.stream, version, "owner", bytes([at]) * 16, bytes(16), at - 1 if at % 3 else 0
        )
        one = codec.seal(head, (draft,), T0_US + 1_000 * at)
        head = codec.after(head, one)
        log += one
    return log


def rechained(log: Log, begin: int = 1) -> Log:
    """With positions and hashes made anew from one event on, as whoever owns the database can."""
    chained = log[: begin - 1]
    for position, one in enumerate(log[begin - 1 :], begin):
        one = replace(one, position=position)
        previous = chained[-1].hash if chained else GENESIS_HASH
        chained.append(replace(one, hash=codec.header_hash(one, previous)))
    return chained


def notes(log: Log, signers: dict[int, list[SigningKey]]) -> dict[int, str]:
    frontier, found = Frontier(), {}
    for one in log:
        frontier.add(one.hash)
        if one.position in signers:
            checkpoint = Checkpoint(origin_of(LOG_ID), frontier.size, frontier.root(), one.hash)
            found[one.position] = signed(checkpoint, signers[one.position])
    return found


def exported(log: Log, notes: dict[int, str], first: int = 1) -> list[bytes]:
    """The lines of an export."""
    frontier = Frontier()
    for one in log[: first - 1]:
        frontier.add(one.hash)
    tip = log[first - 2].hash if first > 1 else GENESIS_HASH
    hashes = [hash.hex() for hash in frontier.hashes]
    header = Header(1, LOG_ID.hex(), first, len(log), hashes, tip.hex())
    lines = [msgspec.json.encode(header)]
    left = {size: note for size, note in notes.items() if size >= first - 1}
    if first - 1 in left:
        lines.append(checkpoint_line(Signed(first - 1, b"", left.pop(first - 1))))
    for one in log[first - 1 :]:
        lines.append(event_line(one))
        if one.position in left:
            lines.append(checkpoint_line(Signed(one.position, b"", left.pop(one.position))))
    lines += [checkpoint_line(Signed(size, b"", note)) for size, note in left.items()]
    return [*lines, msgspec.json.encode({"end": True, "events": len(log) - first + 1})]


class Vector(NamedTuple):
    """An export, and what is to be said of it."""

    name: str
    lines: list[bytes]
    why: str
    position: int | None = None
    """The first one that does not hold; None when all do."""
    keys: tuple[str, ...] = ("first",)
    kept: str = ""


def changed(log: Log, position: int, rechain: bool = False, **fields: Any) -> Log:
    """The log with one event changed, and all hashes from it on, if asked."""
    log = [*log[: position - 1], replace(log[position - 1], **fields), *log[position:]]
    return rechained(log, position) if rechain else log


def instead(log: Log, position: int, event: ev.Event, version: int, **fields: Any) -> Log:
    """The log with another event in this place, its chain made anew."""
    made = {"type": type(event).__name__, "payload": ev.encode(event), "event": event, "stream": event.stream}
    return changed(log, position, True, **made, stream_version=version, **fields)


def vectors() -> list[Vector]:
    log = history()
    under = notes(log, SIGNED)
    return [
        *right(log, under),
        *tampered(log, under),
        *against_the_rules(log, under),
        *badly_signed(log, under),
    ]


def right(log: Log, under: dict[int, str]) -> Iterable[Vector]:
    good = exported(log, under)
    yield Vector("good", good, "checked with the key before the rotation")
    yield Vector("good-by-the-new-key", good, "checked with the key after it", keys=("second",))
    yield Vector("good-with-kept-checkpoints", good, "the same ones, kept elsewhere", kept="kept.txt")
    yield Vector("good-from-5", exported(log, under, 5), "begins in the middle", keys=("second",))


def tampered(log: Log, under: dict[int, str]) -> Iterable[Vector]:
    good = exported(log, under)
    yield Vector("changed-actor", exported(changed(log, 7, actor="mallory"), under), "a field was changed", 7)
    payload = log[6].payload.replace(b'"rank":1', b'"rank":2')
    yield Vector(
        "changed-payload", exported(changed(log, 7, payload=payload), under), "a payload was changed", 7
    )
    hash = bytes([log[6].hash[0] ^ 1]) + log[6].hash[1:]
    yield Vector("changed-hash", exported(changed(log, 7, hash=hash), under), "a hash was changed", 7)
    yield Vector("deleted", [line for line in good if b'"position":9,' not in line], "an event is missing", 9)
    swapped = [*log[:8], replace(log[9], position=9), replace(log[8], position=10), *log[10:]]
    yield Vector("swapped", exported(swapped, under), "two events changed places", 9)
    inserted = [*log[:8], *(replace(one, position=one.position + 1) for one in log[7:])]
    yield Vector("inserted", exported(inserted, under), "an event was put in", 9)
    rewritten = changed(log, 7, True, actor="mallory")
    yield Vector("rewritten", exported(rewritten, under), "all hashes from 7 on were made anew", 12)
    unsigned = {size: note for size, note in under.items() if size < 7}
    yield Vector(
        "rewritten-unsigned",
        exported(rewritten, unsigned),
        "and the checkpoints taken away",
        12,
        kept="kept.txt",
    )
    yield Vector("truncated", exported(log[:17], under), "the last three events were taken away", 18)
    short = {size: note for size, note in under.items() if size < 18}
    yield Vector(
        "truncated-unsigned", exported(log[:17], short), "and the checkpoint, too", 18, kept="kept.txt"
    )
    yield Vector("cut-off", good[:-1], "the last line is missing", 21)
    count = msgspec.json.encode({"end": True, "events": 19})
    yield Vector("miscounted", [*good[:-1], count], "the last line says another number", 21)


def against_the_rules(log: Log, under: dict[int, str]) -> Iterable[Vector]:
    """Behind the last checkpoint, their hashes right: a writer that was not Horizon."""
    wrong: list[tuple[str, str, Log]] = [
        ("time-goes-back", "time goes back", changed(log, 20, True, recorded_at_us=T0_US)),
        ("epoch-unelected", "an epoch begins without its leader", changed(log, 20, True, epoch=4)),
        ("version-skipped", "a stream skips a version", changed(log, 20, True, stream_version=2)),
        ("effect-before-cause", "an event is caused by a later one", changed(log, 20, True, causation=20)),
        ("filed-wrongly", "a type is not that of the payload", changed(log, 20, True, type="QuotaSet")),
        ("illegal-move", "a job that completed is started",
         instead(log, 20, ev.JobStarted(job_id=A, attempt=1), 7)),
        ("never-submitted", "a job was never submitted", instead(log, 20, ev.JobHeld(job_id="x"), 1)),
        ("released-twice", "what was released is released again",
         instead(log, 20, ev.AllocationReleased(job_id=TASK, attempt=1), 8)),
        ("of-a-newer-version", "a version of a type that is not known yet",
         changed(log, 20, True, schema_version=3)),
        ("number-skipped", "a job's number skips one",
         instead(log, 20, ev.JobSubmitted(job_id=A[:-1] + "8", number=7, spec=JobSpec("eve", "true")), 1)),
    ]  # fmt: skip
    return [Vector(name, exported(log, under), why, 20) for name, why, log in wrong]


def badly_signed(log: Log, under: dict[int, str]) -> Iterable[Vector]:
    yield Vector("stranger", exported(log, under), "signed by no key that is trusted", 4, keys=("stranger",))
    forged = changed(log, 7, True, actor="mallory")
    made_up = instead(forged, 2, ev.SigningKeySet(key=str(STRANGER.public), by="scheduler"), 2)
    signers = {size: [STRANGER] for size in (4, 12)}
    yield Vector("made-up", exported(made_up[:13], notes(made_up, signers)), "all of it is by another key", 4)
    alone = notes(log, {**SIGNED, 14: [SECOND]})
    yield Vector("not-handed-over", exported(log, alone), "the first key did not sign for the second", 14)
    outsider = notes(log, {**SIGNED, 12: [STRANGER]})
    yield Vector("by-an-outsider", exported(log, outsider), "a checkpoint is under another key", 12)
    body, _, signature = under[12].partition("\n\n")
    false = {**under, 12: body.replace("\n12\n", "\n12\n", 1) + "\n\n" + signature[:-5] + "AAA=\n"}
    yield Vector("false-signature", exported(log, false), "a signature is false", 12)
    yield Vector("unsigned", exported(log, {}), "nothing is signed", 20)


def proof_of(log: Log, note: str, streams: list[str]) -> Proof:
    async def hashes(after: int, end: int) -> AsyncIterator[bytes]:
        for one in log[after:end]:
            yield one.hash

    events = [one for one in log[:19] if one.stream in streams]
    lines = asyncio.run(proven_lines(events, note, hashes))
    return Proof(1, LOG_ID.hex(), streams[0], streams, 0, note, lines)


def proofs() -> Iterable[tuple[str, Proof, str, int | None]]:
    """Of the job and of the task: by name, with what is to be said of them."""
    log = history()
    note = notes(log, SIGNED)[19]
    job = proof_of(log, note, [f"job/{A}"])
    yield "proof", job, "a job's events are in the log", None
    yield "proof-of-task", proof_of(log, note, [f"job/{TASK}", f"job/{B}"]), "a task's, and its array's", None
    second = job.events[1]
    other = replace(second, payload=second.payload.replace('"rank":1', '"rank":2'))
    yield (
        "proof-changed",
        replace(job, events=[job.events[0], other]),
        "an event was changed",
        second.position,
    )
    path = [second.path[1], second.path[0], *second.path[2:]]
    astray = replace(second, path=path)
    yield (
        "proof-astray",
        replace(job, events=[job.events[0], astray]),
        "a path leads elsewhere",
        second.position,
    )
    less = [job.events[0], *job.events[2:]]
    yield "proof-with-a-hole", replace(job, events=less), "an event of the job is kept back", less[1].position
    yield "proof-of-nothing", replace(job, events=[]), "it has no events", 1
    yield (
        "proof-without-beginning",
        replace(job, events=job.events[1:]),
        "the first is kept back",
        second.position,
    )
    yield "proof-of-another", replace(job, job="3"), "the events are of another job", job.events[0].position
    task = proof_of(log, note, [f"job/{TASK}", f"job/{B}"])
    for name, left_out, found in (("task", 17, 19), ("array", 9, 15)):
        less = [event for event in task.events if event.position != left_out]
        why = f"an event of the {name} is kept back, and the next one in its stream shows it"
        yield f"proof-of-task-with-a-hole-in-its-{name}", replace(task, events=less), why, found


def files() -> dict[str, bytes]:
    """Every file by its name."""
    made, described = {}, []
    for vector in vectors():
        made[f"{vector.name}.jsonl"] = b"".join(line + b"\n" for line in vector.lines)
        described.append(
            {
                "export": f"{vector.name}.jsonl",
                "keys": [str(KEYS[key].public) for key in vector.keys],
                "kept": [vector.kept] if vector.kept else [],
                "holds": vector.position is None,
                "position": vector.position,
                "why": vector.why,
            }
        )
    for name, proof, why, position in proofs():
        made[f"{name}.json"] = msgspec.json.format(msgspec.json.encode(proof), indent=1) + b"\n"
        keys = [str(SECOND.public)]
        fields = {"proof": f"{name}.json", "keys": keys, "kept": [], "holds": position is None}
        described.append({**fields, "position": position, "why": why})
    made["kept.txt"] = "".join(note + "\n" for note in notes(history(), SIGNED).values()).encode()
    made["vectors.json"] = json.dumps(described, indent=1, ensure_ascii=False).encode() + b"\n"
    return made


def main(write: Callable[[Path, bytes], object] = Path.write_bytes) -> None:
    for name, data in files().items():
        write(HERE / name, data)


if __name__ == "__main__":
    main()
