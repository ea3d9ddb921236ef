#!/usr/bin/env python3
"""Checks an export of a Horizon log, or the proof of a job's events, without trusting Horizon or its keepers.

    python auditor.py EXPORT --key PUB [--key PUB]... [--checkpoint OLD]...
    python auditor.py --proof FILE --key PUB

PUB is a public key as `horizon keys` prints it, or a file with one; OLD a file of checkpoints that were kept
elsewhere, one behind the other, such as a copy of the file `checkpoints` of a data directory. Ends with 0
only if all of it holds; with 1 and the first bad position if not; with 2 when it is asked wrongly; with 6 if
it holds, and something that was given could not be held against it, which is then named. A proof shows that
its events are in the log, and are the first ones of the job; never that no later one was left out. This file
is all there is: it needs Python 3.11 and the package cryptography. What is hashed and signed, Horizon's
README says.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import json
import os
import re
import struct
import sys
import zlib
from hashlib import sha256
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

HEADER = struct.Struct(">BBQqQHQQ16s16s32s32sHHH")
NOTE = re.compile("(?:[^\n]+\n)+\n(?:\u2014 [^\n]+\n)+")
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, EOFError, OSError, struct.error, zlib.error)
"""Whatever reading raises that was not written by Horizon."""
ENDED = ("Completed", "Failed", "Cancelled")
ALIVE = ("Queued", "Scheduled", "Running", "Preempted")
MOVES: dict[str, tuple[tuple[str, ...], str]] = {
    "JobHeld": (("Queued",), ""),
    "JobReleased": (("Queued",), ""),
    "JobUpdated": (ALIVE, ""),
    "JobReserved": (("Queued",), ""),
    "JobScheduled": (("Queued",), "Scheduled"),
    "JobStarted": (("Scheduled",), "Running"),
    "CheckpointRecorded": (("Running",), ""),
    "AllocationOverdue": ((*ALIVE, *ENDED), ""),
    "TimeLimitReached": (("Running",), ""),
    "PreemptionRequested": (("Running",), ""),
    "RequeueRequested": (("Scheduled", "Running"), ""),
    "JobPreempted": (("Running",), "Preempted"),
    "JobRequeued": (("Scheduled", "Running", "Preempted"), "Queued"),
    "JobCompleted": (("Running",), "Completed"),
    "JobFailed": (("Queued", "Scheduled", "Running"), "Failed"),
    "JobCancelled": (ALIVE, "Cancelled"),
    "AllocationReleased": (("Queued", "Preempted", *ENDED), ""),
    "BlobsErased": (ENDED, ""),
}
"""What may happen to a job in which states, and its state after that, where it is another."""
VERSIONS = {
    **dict.fromkeys(("JobSubmitted", *MOVES), 1),
    **dict.fromkeys(("JobHeld", "JobReleased", "JobUpdated", "NodeResumed", "DeviceRecovered"), 2),
    **dict.fromkeys(("BookingEnded", "ShareSet", "QuotaSet", "PolicySet", "LeaderElected"), 2),
    "CommandRefused": 2,
    **dict.fromkeys(("NodeRegistered", "NodeChanged", "NodeLost", "NodeCordoned", "DeviceFailed"), 1),
    **dict.fromkeys(("BookingMade", "SigningKeySet", "PartitionArchived"), 1),
}
"""The types of events that this knows, each up to a version: it does not judge what it does not know."""
GZIPPED = b"\x1f\x8b"
"""What a gzipped file begins with, whatever its name."""
PARTIAL = 6
"""The exit code when all that could be checked holds, and not all could be."""
OF_ARRAYS = ("JobHeld", "JobReleased", "JobUpdated", "JobFailed", "JobCancelled", "BlobsErased")


class Wrong(Exception):
    """What does not hold, and at which position."""

    def __init__(self, position: int, what: str) -> None:
        super().__init__(f"position {position}: {what}")


class Unvouched(Wrong):
    """It is signed, and by no key that is trusted; the ids of those keys."""

    def __init__(self, note: Note) -> None:
        self.key_ids = [both[:4].hex() for _, both in note.signatures]
        ids = " and ".join(self.key_ids)
        what = f"its checkpoint is signed with the key {ids}, which no key given here is or vouches for"
        super().__init__(note.size, f"{what}; that the log itself names a key is no reason to trust it")


# --- hashes, keys and notes ---------------------------------------------------------------------------


def event_hash(event: dict[str, Any], previous: bytes) -> bytes:
    """SHA-256(0x00 || header); in the header is every field, the payload's digest, and the hash before."""
    names = ("position", "recorded_at_us", "epoch", "schema_version", "stream_version", "causation")
    ids = [bytes.fromhex(event[name]) for name in ("command_id", "correlation_id")]
    if any(type(event[name]) is not int for name in names) or [len(one) for one in ids] != [16, 16]:
        raise ValueError("a number or an id is none")
    texts = [event[name].encode() for name in ("type", "stream", "actor")]
    digest = sha256(event["payload"].encode("utf-8", "surrogateescape")).digest()
    numbers = [event[name] for name in names]
    return sha256(
        HEADER.pack(0, 1, *numbers, *ids, digest, previous, *map(len, texts)) + b"".join(texts)
    ).digest()


def inner(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


class Note:
    """A C2SP signed note over a checkpoint: origin, size, root, and the hash of the last event."""

    def __init__(self, text: str) -> None:
        body, _, signatures = text.partition("\n\n")
        self.body = (body + "\n").encode()
        self.origin, size, root, tip = body.split("\n")
        self.size, self.root, self.tip = int(size), base64.b64decode(root), base64.b64decode(tip)
        lines = [line.split(" ") for line in signatures.splitlines()]
        self.signatures = [(name, base64.b64decode(data, validate=True)) for _, name, data in lines]


class Key:
    """A public key, written NAME+ID+BASE64."""

    def __init__(self, text: str) -> None:
        self.text = text.strip()
        self.name, key_id, encoded = self.text.split("+", 2)
        public = base64.b64decode(encoded, validate=True)
        self.id = sha256(self.name.encode() + b"\n" + public).digest()[:4]
        if self.id.hex() != key_id or public[:1] != b"\x01":
            raise ValueError("this is no public key")
        self._key = Ed25519PublicKey.from_public_bytes(public[1:])

    def signed(self, note: Note) -> bool:
        """Whether it signed the note; a signature that claims to be its own must be."""
        for name, both in note.signatures:
            if (name, both[:4]) == (self.name, self.id):
                try:
                    self._key.verify(both[4:], note.body)
                except InvalidSignature:
                    raise Wrong(note.size, "the signature under its checkpoint is false") from None
                return True
        return False


# --- an export ----------------------------------------------------------------------------------------


class Job:
    """What the log has said of a job so far; its state is empty while it began before the export."""

    def __init__(self, state: str = "", version: int = 0) -> None:
        self.begun = not state
        self.state, self.version = state, version
        self.tasks: list[Job] = []
        self.attempt: int | None = 0 if state else None
        self.holds: bool | None = False if state else None

    def move(self, at: int, payload: dict[str, Any]) -> None:
        """What happens to it by the event at this position. Raises ``Wrong`` if that cannot be."""
        kind, attempt = payload["type"], payload.get("attempt")
        allowed, after = MOVES[kind]
        if self.tasks and kind in OF_ARRAYS:
            # It is said of all tasks: a hold of those that wait, anything else of those alive.
            states = ("Queued",) if kind in ("JobHeld", "JobReleased") else ALIVE
            for task in self.tasks:
                if task.state in states and kind == "BlobsErased":
                    raise Wrong(at, f"{kind} cannot happen to an array of which a task is {task.state}")
                if task.state in states:
                    task.version, task.state = task.version + 1, after or task.state
            return
        if self.tasks or (self.state and self.state not in allowed):
            raise Wrong(
                at, f"{kind} cannot happen to {'an array' if self.tasks else f'a job that is {self.state}'}"
            )
        if self.attempt is not None and attempt is not None:
            expected = self.attempt + (kind == "JobScheduled")
            if attempt != expected:
                raise Wrong(at, f"{kind} is about attempt {attempt}, and not {expected}")
        if kind in ("JobScheduled", "AllocationReleased"):
            if self.holds is (kind == "JobScheduled"):
                raise Wrong(at, f"{kind} of a job that holds {'something' if self.holds else 'nothing'}")
            self.holds = kind == "JobScheduled"
        self.attempt = self.attempt if attempt is None else attempt
        self.state = after or self.state


class Audit:
    """Takes the lines of an export in their order. Raises ``Wrong`` at the first that does not hold."""

    def __init__(self, header: dict[str, Any], keys: list[Key], kept: list[Note]) -> None:
        self.before = self.position = header["from"] - 1
        self.last, self.origin = header["to"], "horizon/" + header["log_id"]
        self.tip = bytes.fromhex(header["tip"])
        self.frontier = [bytes.fromhex(one) for one in header["frontier"]]
        if len(self.frontier) != self.before.bit_count() or (not self.before and any(self.tip)):
            raise Wrong(self.before, "the header does not say what stands before the first event")
        self.recorded_at_us, self.epoch, self.numbers = -1, -1, 0
        self.versions: dict[str, int] = {}
        self.jobs: dict[str, Job] = {}
        self.named: list[Key] = []
        """The keys that the log named, the one in force last."""
        self.trusted = {key.text: key for key in keys}
        for note in kept:
            self.check_origin(note)
        kept = sorted(kept, key=lambda note: note.size)
        self.kept = [note for note in kept if note.size >= self.before]
        self.too_early = [note.size for note in kept if note.size < self.before]
        """The kept checkpoints still to be checked; the sizes of those that lie before the export."""
        self.checkpoints = self.signed = 0
        """How many held; the size of the newest that is vouched for."""
        self.matched = self.before
        """The size of the last one that held."""
        self.doubtful: Note | None = None
        """The first since that is not."""
        self.handed_over = True

    def line(self, line: dict[str, Any]) -> bool:
        """Check the next line; whether it was the last."""
        if "position" not in line:
            if "checkpoint" in line:
                self.checkpoint(Note(line["checkpoint"]))
                return False
            self.end(line)
            return True
        self.check_kept()
        at = self.position + 1
        if line["position"] != at:
            raise Wrong(at, f"it is missing: after {self.position} comes {line['position']}")
        hash = event_hash(line, self.tip)
        if hash.hex() != line["hash"]:
            raise Wrong(at, "it was changed, or the one before it: its hash does not match")
        self.event(at, line, json.loads(line["payload"]))
        self.position, self.tip = at, hash
        full = at - 1
        while full & 1:
            hash, full = inner(self.frontier.pop(), hash), full >> 1
        self.frontier.append(hash)
        return False

    def event(self, at: int, line: dict[str, Any], payload: dict[str, Any]) -> None:
        if payload["type"] != line["type"]:
            raise Wrong(at, f"it is filed as a {line['type']} and holds a {payload['type']}")
        version = line["schema_version"]
        if not 1 <= version <= VERSIONS.get(line["type"], 0):
            raise Wrong(at, f"it is a {line['type']} of version {version}: a newer auditor may know it")
        if line["recorded_at_us"] < self.recorded_at_us:
            raise Wrong(at, "time goes back")
        if not 0 <= line["causation"] < at:
            raise Wrong(at, "its cause comes after it")
        self.recorded_at_us = line["recorded_at_us"]
        self.check_epoch(at, line["epoch"], payload)
        stream, version = line["stream"], line["stream_version"]
        if stream.startswith("job/"):
            self.job_event(at, stream, version, payload)
        else:
            if version != self.versions.get(stream, 0) + 1 and (stream in self.versions or not self.before):
                raise Wrong(at, f"{stream} goes from version {self.versions.get(stream, 0)} to {version}")
            self.versions[stream] = version
        if payload["type"] == "SigningKeySet":
            self.named.append(Key(payload["key"]))
            self.handed_over = len(self.named) == 1

    def check_epoch(self, at: int, epoch: int, payload: dict[str, Any]) -> None:
        elected = payload["type"] == "LeaderElected"
        if epoch < self.epoch or (elected and (epoch == self.epoch or payload["epoch"] != epoch)):
            raise Wrong(at, f"epoch {epoch} comes after epoch {self.epoch}")
        if epoch > self.epoch and not elected and (at > self.before + 1 or not self.before):
            raise Wrong(at, f"epoch {epoch} begins without the election of its leader")
        self.epoch = epoch

    def job_event(self, at: int, stream: str, version: int, payload: dict[str, Any]) -> None:
        kind, job = payload["type"], self.jobs.get(stream)
        if stream != "job/" + payload["job_id"]:
            raise Wrong(at, f"it is about job {payload['job_id']} and filed under {stream}")
        if kind == "JobSubmitted" and job is None:
            job = self.submit(at, stream, payload)
        elif kind not in MOVES or (job is None and not self.before):
            raise Wrong(at, f"no {kind} can happen to {stream}")
        else:
            job = self.jobs.setdefault(stream, Job("", version - 1))
            job.move(at, payload)
        if version != job.version + 1 and (not job.begun or version <= job.version):
            raise Wrong(at, f"{stream} goes from version {job.version} to {version}")
        job.version = version

    def submit(self, at: int, stream: str, payload: dict[str, Any]) -> Job:
        if payload["number"] != self.numbers + 1 and (self.numbers or not self.before):
            raise Wrong(at, f"job {payload['number']} comes after job {self.numbers}")
        job = self.jobs[stream] = Job("Queued")
        ranges = (payload["spec"].get("array") or {"ranges": []})["ranges"]
        tasks = sum(len(range(one["first"], one["last"] + 1, one.get("step", 1))) for one in ranges)
        self.numbers = payload["number"] + tasks
        for place in range(1, tasks + 1):  # their ids count on from that of the array
            task = Job("Queued", 1)
            self.jobs[f"{stream[:-12]}{(int(stream[-12:], 16) + place) % 2**48:012x}"] = task
            job.tasks.append(task)
        return job

    def root(self) -> bytes:
        root = self.frontier[-1]
        for left in self.frontier[-2::-1]:
            root = inner(left, root)
        return root

    def check_kept(self) -> None:
        """The checkpoints that were kept elsewhere, as their places come by."""
        while self.kept and self.kept[0].size <= self.position:
            self.checkpoint(self.kept.pop(0))

    def checkpoint(self, note: Note) -> None:
        size, position = note.size, self.position
        self.check_origin(note)
        if size > position:
            raise Wrong(position + 1, f"events up to {size} were signed, and {position} is the last one here")
        if size < position:
            raise Wrong(size, f"its checkpoint comes too late to be checked, behind event {position}")
        self.check_signatures(note)
        if note.tip != self.tip or note.root != self.root():
            raise Wrong(size, self.differs(size))
        self.checkpoints += 1
        self.matched = size

    def differs(self, size: int) -> str:
        """Between which two checkpoints something is not what was signed: nobody can say more."""
        begin = self.matched + 1
        if begin > size:
            return "the events up to it are not those that were signed"
        which = f"one of the events {begin} to {size}" if begin < size else f"event {size}"
        header = ", or what the header says stands before them," if 1 < begin == self.before + 1 else ""
        return f"{which}{header} is not what was signed"

    def check_origin(self, note: Note) -> None:
        if note.origin != self.origin:
            raise Wrong(note.size, f"its checkpoint is of the log {note.origin}, and this is {self.origin}")

    def check_signatures(self, note: Note) -> None:
        """By the key in force, and by the one before when that hands over; a key given here is trusted, and
        so is one that a trusted key signs beside."""
        signers = [key for key in self.named[-1:] or self.trusted.values() if key.signed(note)]
        if not signers and self.named:
            raise Wrong(note.size, "its checkpoint is not signed by the key in force")
        if not signers:  # by a key that was named before the export begins
            self.doubtful = self.doubtful or note
            return
        key = signers[0]
        if not (self.handed_over or key.text in self.trusted or self.named[-2].signed(note)):
            raise Wrong(note.size, f"the key becomes {key.text} without a signature of the one before")
        self.handed_over = True
        if any(one.signed(note) for one in list(self.trusted.values())):
            self.trusted[key.text] = key
            self.signed, self.doubtful = note.size, None
        else:
            self.doubtful = self.doubtful or note

    def check_vouched(self) -> None:
        if self.doubtful is not None:
            raise Unvouched(self.doubtful)

    def end(self, line: dict[str, Any]) -> None:
        self.check_kept()
        if (line["events"], self.last) != (self.position - self.before, self.position):
            raise Wrong(
                self.position + 1, f"it is missing: {line['events']} events up to {self.last} were exported"
            )
        if self.kept:
            raise Wrong(self.position + 1, f"events up to {self.kept[0].size} were signed, and they end here")
        self.check_vouched()
        if not self.signed:
            raise Wrong(
                self.position,
                "nothing up to it is signed: all of this may have been made up. An export that goes on to "
                "the next checkpoint can be proven",
            )


def audit_export(path: str, keys: list[Key], kept: list[Note]) -> int:
    """The exit code; raises ``Wrong``."""
    audit: Audit | None = None
    ended = False
    number = 0
    try:
        with open(path, "rb") as raw:
            lines = gzip.GzipFile(fileobj=raw) if raw.peek(2)[:2] == GZIPPED else raw
            for number, text in enumerate(lines, 1):  # noqa: B007 - said below
                line = json.loads(text)
                if ended or (audit is None and line["horizon_export"] != 1):
                    raise ValueError("it is not of version 1 of exports, or comes after the last line")
                if audit is None:
                    audit = Audit(line, keys, kept)
                else:
                    ended = audit.line(line)
    except UNREADABLE as error:
        at = audit.position + 1 if audit else 0
        raise Wrong(at, f"line {number} cannot be read: {type(error).__name__}: {error}") from error
    if audit is None or not ended:
        raise Wrong(audit.position + 1 if audit else 0, "the export is cut off: its last line is missing")
    print(
        f"{audit.origin}: events {audit.before + 1} to {audit.position} hold: "
        "hashes, order, streams, moves of jobs"
    )
    held = f", {len(kept) - len(audit.too_early)} of them kept elsewhere" if kept else ""
    print(f"{audit.checkpoints} checkpoints hold{held}; what is signed ends at {audit.signed}")
    print(f"{audit.position - audit.signed} events behind it are linked and not signed")
    if audit.before:
        print(f"events 1 to {audit.before} are not in this export: it was to begin behind them")
    for size in audit.too_early:
        print(f"NOT CHECKED: the kept checkpoint at {size} lies before these events")
    return PARTIAL if audit.too_early else 0


# --- the proof of a job -------------------------------------------------------------------------------


class Story:
    """What a proof tells of a job, from its submission on, with nothing left out between two events.

    A task has its own stream, and that of its array, of which what is said of all tasks counts for it.
    """

    def __init__(self, name: str, streams: list[str]) -> None:
        if len(streams) not in (1, 2):
            raise ValueError("a job has one stream, a task two")
        self.name, self.own, self.root = name, streams[0], streams[-1]
        self.jobs = {stream: Job("Queued", int(stream != self.root)) for stream in streams}
        self.judged = False
        """Whether the moves are followed, too: not those of an array, without its tasks."""
        self.begun = False

    def event(self, at: int, event: dict[str, Any]) -> None:
        payload, stream = json.loads(event["payload"]), event["stream"]
        job = self.jobs.get(stream)
        if job is None or stream != "job/" + payload["job_id"] or payload["type"] != event["type"]:
            raise Wrong(at, "it does not belong here")
        if self.begun and self.judged:
            job.move(at, payload)
        elif not self.begun:
            self.submit(at, stream, payload)
        version = event["stream_version"]
        if version != job.version + 1:
            raise Wrong(at, f"{stream} goes from version {job.version} to {version}")
        job.version = version

    def submit(self, at: int, stream: str, payload: dict[str, Any]) -> None:
        if payload["type"] != "JobSubmitted" or stream != self.root:
            raise Wrong(at, f"the proof of {self.name} does not begin with its submission")
        if self.name.lower().removeprefix("job/") not in names(payload, self.own):
            raise Wrong(at, f"these are events of {self.own}, which is not {self.name}")
        self.begun, self.judged = True, self.own != self.root or not payload["spec"].get("array")
        self.jobs[self.root].tasks = [self.jobs[self.own]] if self.own != self.root else []


def names(submitted: dict[str, Any], stream: str) -> tuple[str, ...]:
    """The id of the job that has this stream, its number, and for a task its array and index."""
    id, first, number = stream.removeprefix("job/"), submitted["job_id"], submitted["number"]
    if id == first:
        return id, str(number)
    ranges = (submitted["spec"].get("array") or {"ranges": []})["ranges"]
    indices = [at for one in ranges for at in range(one["first"], one["last"] + 1, one.get("step", 1))]
    place = (int(id[-12:], 16) - int(first[-12:], 16) - 1) % 2**48
    if id[:-12] != first[:-12] or place >= len(indices):
        return ()
    return id, str(number + 1 + place), f"{number}_{indices[place]}"


def audit_proof(path: str, keys: list[Key]) -> int:
    """The exit code; raises ``Wrong``."""
    before = 0
    told = []
    try:
        with open(path, "rb") as file:
            proof = json.load(file)
        note, story = Note(proof["checkpoint"]), Story(proof["job"], proof["streams"])
        if note.origin != "horizon/" + proof["log_id"]:
            raise Wrong(note.size, f"the checkpoint is of the log {note.origin}, and the proof of another")
        if not any(key.signed(note) for key in keys):
            raise Unvouched(note)
        for event in proof["events"]:
            at = event["position"]
            leaf, path_up = event_hash(event, bytes.fromhex(event["previous"])), event["path"]
            if root_by(leaf, at - 1, note.size, [bytes.fromhex(one) for one in path_up]) != note.root:
                raise Wrong(at, "it is not in the log that was signed")
            if not before < at:
                raise Wrong(at, "it does not belong here")
            story.event(at, event)
            before = at
            told.append(f"{at} {event['type']} by {event['actor']}: {event['payload']}")
    except UNREADABLE as error:
        raise Wrong(before + 1, f"the proof cannot be read: {type(error).__name__}: {error}") from error
    if not told:
        raise Wrong(1, f"there is no event of {story.name} in the proof")
    print(*told, sep="\n")
    print(f"these {len(told)} events are in {note.origin}, under the checkpoint at {note.size}")
    print(
        f"none of {story.name} is left out before them, or between two of the same stream; that none follows,"
    )
    print("no proof of a job can show: for that check the whole log")
    return 0


def root_by(root: bytes, place: int, size: int, path: list[bytes]) -> bytes:
    """Where an inclusion path leads; RFC 9162, 2.1.3.2."""
    last = size - 1
    for sibling in path:
        if place & 1 or place == last:
            root = inner(sibling, root)
            while place and not place & 1:
                place, last = place >> 1, last >> 1
        else:
            root = inner(root, sibling)
        place, last = place >> 1, last >> 1
    return b"" if last else root


# --- asking -------------------------------------------------------------------------------------------


def text_of(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def kept_notes(path: str) -> list[Note]:
    """The checkpoints in a file that somebody kept, one behind the other; nothing in it is passed over."""
    text = text_of(path)
    notes = NOTE.findall(text)
    if not notes:
        raise ValueError(f"there is no checkpoint in {path}")
    if NOTE.sub("", text).strip("\n"):
        raise ValueError(f"{path} holds something else than checkpoints, or one that is cut short")
    return [Note(note) for note in notes]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="auditor.py", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("export", nargs="?", help="an export, gzipped or not")
    parser.add_argument("--proof", metavar="FILE", help="the proof of a job instead")
    parser.add_argument("--key", action="append", required=True, help="a public key, or a file with one")
    parser.add_argument(
        "--checkpoint", action="append", default=[], help="a file of checkpoints kept elsewhere"
    )
    asked = parser.parse_args(arguments)
    if bool(asked.export) is bool(asked.proof):
        parser.error("name an export, or a proof with --proof")
    if asked.proof and asked.checkpoint:
        parser.error("an export can be held to kept checkpoints, a proof cannot")
    try:
        keys = [Key(text_of(text) if os.path.exists(text) else text) for text in asked.key]
        kept = [note for path in asked.checkpoint for note in kept_notes(path)]
        open(asked.export or asked.proof, "rb").close()
    except (OSError, ValueError) as error:
        parser.error(str(error))
    try:
        return audit_proof(asked.proof, keys) if asked.proof else audit_export(asked.export, keys, kept)
    except Wrong as wrong:
        print(f"NOT PROVEN: {wrong}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
