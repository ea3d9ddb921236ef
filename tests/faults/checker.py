"""One checker for every fault: what must hold of a log and of what its clients, followers and nodes saw.

It is handed evidence and knows nothing of how that came about, so that a simulation, a crash of a real
process and a server that is stopped in the middle are all judged by the same rules:

    I1   every acknowledged command is in the log
    I2   no command is in the log twice
    I3   a refused command is not in the log
    I4   one of unknown outcome is there once or not at all; all answers to one key are the same, and true
    I5   positions have no gaps; hashes, tree and signed checkpoints hold
    I6   epochs never go back, and each has one leader
    I7   what was acknowledged before another command was sent stands before it
    I8   every follower saw a prefix of the log, in order, once
    I9   folding the log from the first event on gives the state that was lived in, wherever that began
    I10  every event may follow from the state before it; no GPU is held twice, by the log or by processes;
         what was started is in the log, was there before it started, and was started once
    I11  every checkpoint is of the log that the newer ones are of
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import astuple

from horizon.core import events as ev
from horizon.core.events import Recorded, Stored
from horizon.core.evolve import evolve
from horizon.core.state import State, digest
from horizon.service.notefile import NoteFile
from horizon.service.verify import Unsound, verify
from horizon.store.note import VerifyKey
from horizon.store.port import LogSource, StoreError


class Outcome(Enum):
    """What a client knows once it has stopped waiting."""

    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    """Whoever answered said that nothing was changed by this try."""
    UNKNOWN = "unknown"


class Kind(Enum):
    """What a command does, and so which events bear its mark."""

    SUBMIT = "submit"
    CANCEL = "cancel"
    REQUEUE = "requeue"


@dataclass(slots=True)
class Try:
    """One try of one command. Times are monotonic and of one machine, for wall clocks jump in these tests."""

    mark: str
    """The idempotency key, the same for every try of a command; its events bear it, too."""
    kind: Kind
    sent: float
    answered: float = 0.0
    outcome: Outcome = Outcome.UNKNOWN
    answer: bytes = b""
    """What was answered; of a submission, a JSON object with the job's ``id`` and ``number``."""


class Start(NamedTuple):
    """An attempt whose processes were started."""

    job_id: str
    attempt: int
    log_end: int
    """How many events were in the log then; 0 where nobody could look."""


class Lived(NamedTuple):
    """A state that a scheduler decided or answered from, as it was in its memory."""

    position: int
    digest: str


@dataclass
class Evidence:
    """What is left of a run."""

    log: LogSource
    tries: list[Try] = field(default_factory=list)
    notes: list[NoteFile] = field(default_factory=list)
    keys: list[VerifyKey] = field(default_factory=list)
    """Those that are trusted; without any, the first that the log names."""
    followed: list[list[tuple[int, bytes]]] = field(default_factory=list)
    """Of every follower, positions and hashes in the order in which it saw them."""
    leaders: list[tuple[int, str]] = field(default_factory=list)
    """Epochs, and who believed to lead in them."""
    starts: list[Start] = field(default_factory=list)
    clashes: list[str] = field(default_factory=list)
    """Processes that found another one on their GPU, in the words of whoever saw it."""
    lived: list[Lived] = field(default_factory=list)


@dataclass
class Findings:
    """What does not hold."""

    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    doubly_allocated: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    checks: int = 0
    events: int = 0
    epochs: int = 0
    signed: int = 0
    """Up to which position the log is signed."""
    states: int = 0
    """Of schedulers that were held against the fold."""

    @property
    def all(self) -> list[str]:
        return [*self.lost, *self.duplicated, *self.doubly_allocated, *self.other]


async def check(evidence: Evidence) -> Findings:
    """Apply every rule. O(events + tries log tries). What cannot be read at all is a finding, too."""
    findings = Findings()
    try:
        head = await evidence.log.head()
        log = [stored async for part in evidence.log.stored(0, head.position) for stored in part]
        events = [(stored, ev.decode(stored.payload)) for stored in log]
    except (StoreError, msgspec.MsgspecError) as error:
        findings.other.append(f"I5: the log cannot be read: {error}")
        return findings
    if await _verify(evidence, findings):
        _check_lived(events, evidence.lived, findings)
    _check_positions(log, findings)
    _check_commands(events, evidence.tries, findings)
    _check_order(events, evidence.tries, findings)
    _check_leaders(events, evidence.leaders, findings)
    _check_followers(log, evidence.followed, findings)
    _check_allocations(events, findings)
    _check_starts(events, evidence.starts, findings)
    findings.doubly_allocated += [f"I10: {clash}" for clash in evidence.clashes]
    return findings


async def _verify(evidence: Evidence, findings: Findings) -> bool:
    """What Horizon's own verifier says; everything else here is told from the events alone."""
    try:
        report = await verify(evidence.log, evidence.notes, evidence.keys, lambda done, total: None)
    except (Unsound, StoreError) as error:
        findings.other.append(f"I5, I6, I10 or I11: the log does not hold: {error}")
        return False
    findings.events, findings.epochs, findings.signed = report.events, report.epoch, report.signed
    findings.checks += 4 * report.events + report.in_table + report.in_files
    return True


Events = list[tuple[Stored, Any]]


def _check_positions(log: list[Stored], findings: Findings) -> None:
    """I5 once more, by nobody's code but this; and time."""
    before = 0
    for place, stored in enumerate(log, start=1):
        if stored.position != place:
            findings.other.append(f"I5: event {place} of the log is at position {stored.position}")
        if stored.recorded_at_us < before:
            findings.other.append(f"I5: time goes back at {stored.position}")
        before = stored.recorded_at_us
    findings.checks += 2 * len(log)


# --- commands: I1 to I4, I7 ----------------------------------------------------------------------------


def _marks(events: Events) -> Iterator[tuple[tuple[Kind, str], Stored, Any]]:
    """The events that a command of ours leads to, by its mark."""
    for stored, event in events:
        match event:
            case ev.JobSubmitted():
                yield (Kind.SUBMIT, event.spec.comment or ""), stored, event
            case ev.JobCancelled():
                yield (Kind.CANCEL, event.reason), stored, event
            case ev.RequeueRequested():
                yield (Kind.REQUEUE, event.reason), stored, event


def _by_command(tries: Iterable[Try]) -> dict[tuple[Kind, str], list[Try]]:
    commands: dict[tuple[Kind, str], list[Try]] = defaultdict(list)
    for one in tries:
        commands[one.kind, one.mark].append(one)
    return commands


def _check_commands(events: Events, tries: list[Try], findings: Findings) -> None:
    found: dict[tuple[Kind, str], list[Any]] = defaultdict(list)
    for command, _, event in _marks(events):
        found[command].append(event)
    for (kind, mark), all_tries in _by_command(tries).items():
        effects, name = found[kind, mark], f"{kind.value} {mark}"
        outcomes = {one.outcome for one in all_tries}
        findings.checks += 2
        if len(effects) > 1:
            findings.duplicated.append(f"I2: {name} took effect {len(effects)} times")
        if Outcome.ACKNOWLEDGED in outcomes:
            if not effects:
                findings.lost.append(f"I1: {name} was acknowledged and is not in the log")
        elif outcomes == {Outcome.REFUSED} and effects:
            findings.other.append(f"I3: {name} was refused and is in the log")
        answers = {one.answer for one in all_tries if one.outcome is Outcome.ACKNOWLEDGED}
        if len(answers) > 1:
            findings.other.append(f"I4: {name} was answered in {len(answers)} ways")
        if kind is Kind.SUBMIT and effects and answers:
            _check_answer(name, effects[0], min(answers), findings)


def _check_answer(name: str, event: ev.JobSubmitted, answer: bytes, findings: Findings) -> None:
    said = msgspec.json.decode(answer)
    findings.checks += 1
    if (said["id"], said["number"]) != (event.job_id, event.number):
        findings.other.append(
            f"I4: {name} was answered with job {said['number']} ({said['id']}), and is job {event.number} "
            f"({event.job_id})"
        )


def _check_order(events: Events, tries: list[Try], findings: Findings) -> None:
    """I7: of two commands, the second sent when the first had been acknowledged, the first stands before."""
    at = {mark: stored.position for mark, stored, _ in _marks(events)}
    acknowledged, sent = [], []
    for command, all_tries in _by_command(tries).items():
        if command not in at:
            continue
        sent.append((min(one.sent for one in all_tries), at[command], command[1]))
        answered = [one.answered for one in all_tries if one.outcome is Outcome.ACKNOWLEDGED]
        if answered:
            acknowledged.append((min(answered), at[command], command[1]))
    acknowledged.sort()
    next_one, last, last_mark = 0, 0, ""
    for moment, position, mark in sorted(sent):
        while next_one < len(acknowledged) and acknowledged[next_one][0] < moment:
            if acknowledged[next_one][1] > last:
                _, last, last_mark = acknowledged[next_one]
            next_one += 1
        findings.checks += 1
        if position < last:
            findings.other.append(
                f"I7: {mark} is at {position} and was sent when {last_mark} had been acknowledged at {last}"
            )


# --- leaders and followers: I6, I8 ---------------------------------------------------------------------


def _check_leaders(events: Events, leaders: list[tuple[int, str]], findings: Findings) -> None:
    epoch = 0
    for stored, event in events:
        if isinstance(event, ev.LeaderElected):
            if not event.epoch == stored.epoch > epoch:
                findings.other.append(f"I6: epoch {epoch} is followed by {stored.epoch} at {stored.position}")
            epoch = stored.epoch
        elif stored.epoch != epoch:
            findings.other.append(f"I6: {stored.position} is of epoch {stored.epoch}, which has no leader")
    for number, count in Counter(number for number, _ in set(leaders)).items():
        if count > 1:
            findings.other.append(f"I6: {count} schedulers led in epoch {number}")
    findings.checks += len(events) + len(leaders)


def _check_followers(log: list[Stored], followed: list[list[tuple[int, bytes]]], findings: Findings) -> None:
    for number, seen in enumerate(followed):
        first = seen[0][0] if seen else 1
        for place, (position, hash) in enumerate(seen, start=first):
            if position != place or position > len(log) or log[position - 1].hash != hash:
                findings.other.append(f"I8: follower {number} saw {position} where {place} of the log is due")
                break
        findings.checks += len(seen)


# --- states that were lived in: I9 ---------------------------------------------------------------------


def _check_lived(events: Events, lived: list[Lived], findings: Findings) -> None:
    """Each is what all events up to its position fold to, from the first on and by no way of a snapshot."""
    state = State()
    for position, said in sorted(lived):
        for stored, event in events[state.position : position]:
            evolve(state, Recorded(*astuple(stored), event))
        findings.checks += 1
        findings.states += 1
        if state.position != position:
            findings.other.append(
                f"I9: a scheduler lived at {position}, and the log ends at {state.position}"
            )
        elif digest(state) != said:
            findings.other.append(f"I9: the log does not fold to what a scheduler lived in at {position}")


# --- what is held and what runs: I10 -------------------------------------------------------------------


def _check_allocations(events: Events, findings: Findings) -> None:
    """No GPU is given out while another attempt has it: told from the events alone, not from the fold."""
    holders: dict[str, str] = {}
    holds: dict[str, list[str]] = {}
    for stored, event in events:
        if isinstance(event, ev.JobScheduled):
            findings.checks += 1
            mine = [uuid for placement in event.allocation for uuid in placement.gpu_ids]
            for uuid in mine:
                if uuid in holders:
                    both = f"{event.job_id} at {stored.position} and held by {holders[uuid]}"
                    findings.doubly_allocated.append(f"I10: {uuid} is given to {both}")
                holders[uuid] = event.job_id
            holds[event.job_id] = mine
        elif isinstance(event, ev.AllocationReleased):
            for uuid in holds.pop(event.job_id, []):
                holders.pop(uuid, None)


def _check_starts(events: Events, starts: list[Start], findings: Findings) -> None:
    scheduled = {
        (event.job_id, event.attempt): stored.position
        for stored, event in events
        if isinstance(event, ev.JobScheduled)
    }
    for start in starts:
        findings.checks += 1
        position = scheduled.get((start.job_id, start.attempt))
        if position is None:
            findings.other.append(f"I10: {start.job_id}.{start.attempt} ran and was never scheduled")
        elif start.log_end and position > start.log_end:
            findings.other.append(f"I10: {start.job_id}.{start.attempt} ran before {position} was durable")
    for (job_id, attempt), count in Counter((one.job_id, one.attempt) for one in starts).items():
        if count > 1:
            findings.duplicated.append(f"I10: {job_id}.{attempt} was started {count} times")
