"""What Horizon says of jobs, nodes and shares, said again as plainly as can be, to hold the real one against.

The model knows the rules and not the scheduler's choices. A command (``cancel``, ``update``, ...) gives the
events that it must lead to, or raises ``No`` with the status of the refusal. ``take`` believes the log event
by event, and asserts of each that it may follow: who is given what is not foretold, but must be eligible, and
fit. All that is answered is then worked out anew from what is known, in one obvious way, however slow.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

Event = dict[str, Any]
"""A type, and those fields of the payload that are known."""
SECOND = 1_000_000
RANKS = {"Low": 0, "Normal": 1, "High": 2, "Urgent": 3}
ENDS = ("Cancelled", "Failed", "Completed")
SINGLY = ("Scheduled", "Running", "Preempted")
STATES = ("Queued", *SINGLY, *reversed(ENDS))
ALIKE_MAX = 10
"""Refusals of one command of one thing, and for one cause, until something happens to it."""
ASSUMED_TIME_LIMIT_S = 86_400
MIN_RUNTIME_S = 60
ASKED = {
    "account": "default", "job_name": "", "script": None, "working_dir": None, "environment": {},
    "gpu_count": 1, "gpu_type": None, "gpu_memory_gb": 0, "cpu_cores": 0, "memory_gb": 0, "nodes": None,
    "constraints": {}, "exclusive": False, "grace_period_s": 60, "stop_signal": "SIGTERM", "max_retries": 0,
    "preemptible": False, "array": None, "labels": {}, "comment": "",
}  # fmt: skip
"""What is answered of what was asked for and never changes, with what holds for whoever does not say."""


class No(Exception):
    """A command is refused with this status; ``kind`` is the log's word for it, if it is to be there."""

    def __init__(self, status: int, kind: str = "") -> None:
        super().__init__(status)
        self.status = status
        self.kind = kind


@dataclass
class Job:
    """A job; an array, which has tasks; or a task, which has an array."""

    id: str
    number: int
    asked: dict[str, Any]
    priority: str
    time_limit_s: int
    held: bool
    begin_us: int
    pending: bool
    depends_on: list[tuple[str, Job]]
    created_us: int
    array: Job | None = None
    index: int = 0
    tasks: list[Job] = field(default_factory=list)
    state: str = "Queued"
    version: int = 1
    reason: str = ""
    attempt: int = 0
    ran: bool = False
    placed: list[dict[str, Any]] = field(default_factory=list)
    holding: str | None = None
    stop: str = ""
    scheduled_us: int = 0
    started_us: int = 0
    completed_us: int = 0
    expected_us: int = 0
    saved_us: int = 0
    exit_code: int | None = None
    signal: int | None = None
    retries_used: int = 0
    attempts_lost: int = 0
    preempted: int = 0
    lost_us: int = 0
    erased: bool = False
    positions: list[int] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.array.number}_{self.index}" if self.array else str(self.number)

    @property
    def ended(self) -> bool:
        return self.state in ENDS

    @property
    def owner(self) -> tuple[str, str]:
        return self.asked["account"], self.asked["user_id"]

    @property
    def gpus(self) -> list[str]:
        return [uuid for part in self.placed for uuid in part.get("gpu_ids", ())]

    @property
    def dooms(self) -> list[str]:
        """What it depends on and can never be, in words."""
        return [
            f"{kind} of job {other.number} can never hold: it {BECAME[other.state]}"
            for kind, other in self.depends_on
            if holds(kind, other) is False
        ]

    @property
    def open(self) -> list[str]:
        """What it depends on and has yet to be, in words."""
        return [
            f"{kind} of job {other.number}, which is {other.state}"
            for kind, other in self.depends_on
            if holds(kind, other) is None
        ]

    @property
    def eligible(self) -> bool:
        """Whether nothing but its turn and room keeps it from starting."""
        kept = self.held or self.pending or self.open or self.dooms or self.holding or self.tasks
        return self.state == "Queued" and not kept


BECAME = {"Cancelled": "was cancelled", "Failed": "has failed", "Completed": "completed"}


def holds(kind: str, job: Job) -> bool | None:
    """Whether a condition on a job does; None while it may yet."""
    if kind == "after_start":
        return True if job.ran else False if job.ended else None
    if not job.ended:
        return None
    return kind == "after_any" or (job.state == "Completed") == (kind == "after_ok")


def moment(us: int) -> str | None:
    """As it is written on the wire; 0 is none."""
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ") if us else None


def microseconds(text: str | None) -> int:
    since = datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC) if text else timedelta()
    return since // timedelta(microseconds=1)


def indices(text: str) -> list[int]:
    """Of an array that is written as ``0-2`` or ``1,4,7``, with or without a ``%limit``."""
    parts = [part.split("-") for part in text.partition("%")[0].split(",")]
    return [index for part in parts for index in range(int(part[0]), int(part[-1]) + 1)]


def parent_of(path: str) -> str | None:
    return path.rpartition("/")[0] or None


class Model:
    """All that there is, by the log so far."""

    def __init__(self, nodes: list[dict[str, Any]], gpus: list[dict[str, Any]], now_us: int) -> None:
        self.now_us = now_us
        self.position = self.epoch = 0
        self.versions: dict[str, int] = {}
        self.jobs: list[Job] = []
        """By number, from 1."""
        self.nodes = {
            node["name"]: {"cordoned": False, "draining": False, "drain_us": 0, "reason": "", "by": "",
                           "cpu_cores": node["cpu_cores"], "memory_gb": node["memory_gb"],
                           "labels": node["labels"], "version": 0}
            for node in nodes
        }  # fmt: skip
        self.gpus = {gpu["uuid"]: (gpu["node"], gpu["gpu_type"], gpu["memory_gb"]) for gpu in gpus}
        self.failed: dict[str, str] = {}
        self.bookings: dict[str, dict[str, Any]] = {}
        self.shares: dict[tuple[str, str], dict[str, int]] = {}
        """By path and kind, in the order of their coming."""
        self.policy: dict[str, Any] = {}
        self.policy_version = 0
        self.refused: dict[tuple[str, str, str], tuple[int, list[Any]]] = {}
        """At which version of what it was of, and what was asked for, with which reason."""
        self.told: tuple[Job, int] | None = None
        """A job whose processes have been told to end, and with which exit code."""
        self.sent: list[dict[str, Any]] = []
        """The submissions that have yet to be in the log."""

    def job(self, id: str) -> Job:
        return next(job for job in self.jobs if job.id == id)

    def _named(self, name: str) -> Job:
        return next(job for job in self.jobs if job.name == name)

    # --- commands: the events that follow, or a refusal -------------------------------------------------

    def submit(self, body: dict[str, Any], at: int | None = None) -> list[Event]:
        asked = {**ASKED, **body}
        for one in body.get("depends_on", ()):
            kind, _, name = one.partition(":")
            if holds(kind, self._named(name)) is False:
                raise No(422)
        if not asked["gpu_count"] and (not asked["cpu_cores"] or asked["gpu_type"]):
            raise No(422)
        if (asked["nodes"] or 1) > (asked["gpu_count"] or asked["cpu_cores"]):
            raise No(422)
        self.sent.append(body)
        number = at or len(self.jobs) + 1
        return [{"type": "JobSubmitted", "number": number}]

    def batch(self, bodies: list[dict[str, Any]]) -> list[Event]:
        events, number = [], len(self.jobs) + 1
        for body in bodies:
            try:
                events += self.submit(body, number)
            except No:
                self.sent.clear()
                raise
            number += 1 + len(indices(body["array"]) if "array" in body else ())
        return events

    def _checked(self, job: Job, version: int | None) -> None:
        if version not in (None, job.version):
            raise No(412, "stale")

    def cancel(self, job: Job, version: int | None, reason: str) -> list[Event]:
        self._checked(job, version)
        if job.ended:
            raise No(409, "conflict")
        return [{"type": "JobCancelled", "job_id": job.id, "by": "owner", "reason": reason}]

    def update(self, job: Job, version: int | None, change: dict[str, Any]) -> list[Event]:
        self._checked(job, version)
        if job.ended:
            raise No(409, "conflict")
        alive = [job, *(task for task in job.tasks if not task.ended)]
        fields: Event = {}
        if "priority" in change and any(one.priority != change["priority"] for one in alive):
            fields["priority"] = change["priority"]
        if "time_limit_s" in change and any(one.time_limit_s != change["time_limit_s"] for one in alive):
            fields["time_limit_s"] = change["time_limit_s"]
            if any(self._runs_into_a_booking(one, change["time_limit_s"]) for one in alive):
                raise No(409, "conflict")
        reason = {"job_id": job.id, "reason": change.get("reason", "")}
        events: list[Event] = [{"type": "JobUpdated", **reason, **fields}] if fields else []
        waiting = [job, *(task for task in job.tasks if task.state == "Queued")]
        if "hold" in change and any(one.held != change["hold"] for one in waiting):
            if job.state != "Queued" and not job.tasks:
                raise No(409, "conflict")
            events.append({"type": "JobHeld" if change["hold"] else "JobReleased", **reason})
        return events

    def _runs_into_a_booking(self, job: Job, limit_s: int) -> bool:
        end_us = (job.started_us or job.scheduled_us) + (limit_s or ASSUMED_TIME_LIMIT_S) * SECOND
        return job.holding == "held" and any(
            part["node"] in one["nodes"] and job.expected_us <= one["start_us"] < end_us
            for one in self.bookings.values()
            for part in job.placed
        )

    def requeue(self, job: Job, version: int | None, reason: str) -> list[Event]:
        self._checked(job, version)
        if job.tasks or job.state not in ("Scheduled", "Running"):
            raise No(409, "conflict")
        return [{"type": "RequeueRequested", "job_id": job.id, "attempt": job.attempt, "reason": reason}]

    def checkpoint(self, job: Job, attempt: int | None) -> list[Event]:
        if job.tasks or job.state != "Running" or attempt not in (None, job.attempt):
            raise No(409)
        return [{"type": "CheckpointRecorded", "job_id": job.id, "attempt": job.attempt}]

    def erase(self, job: Job, version: int | None, reason: str) -> list[Event]:
        self._checked(job, version)
        if job.array or not job.ended or (not job.asked["environment"] and not job.erased):
            raise No(409, "conflict")
        return [] if job.erased else [{"type": "BlobsErased", "job_id": job.id, "reason": reason}]

    def set_share(self, path: str, change: dict[str, Any]) -> list[Event]:
        kind = change.get("kind") or next(
            (one for one in ("account", "user") if (path, one) in self.shares), None
        )
        bounds = {name: change[name] for name in ("max_gpus", "guaranteed_gpus") if name in change}
        if "weight" not in change and not bounds:
            raise No(422)
        if kind is None:
            raise No(404)
        if kind == "user" and (bounds or not parent_of(path)):
            raise No(422)
        before = self.shares.get((path, kind), NEW_SHARE)
        after = {**before, **bounds}
        if 0 <= after["max_gpus"] < after["guaranteed_gpus"]:
            raise No(422)
        events: list[Event] = []
        if "weight" in change:
            events.append({"type": "ShareSet", "path": path, "weight": change["weight"]})
            events[0]["user"] = kind == "user"
        if after != before:
            events.append({"type": "QuotaSet", "path": path})
            events[-1].update((name, after[name]) for name in ("max_gpus", "guaranteed_gpus"))
        return events

    def cordon(self, name: str, reason: str, drain: bool = False, deadline_us: int = 0) -> list[Event]:
        node = self._node(name)
        asked = (True, drain, deadline_us, reason or node["reason"])  # no reason takes none back
        if (node["cordoned"], node["draining"], node["drain_us"], node["reason"]) == asked:
            return []
        event = {"type": "NodeCordoned", "node": name, "by": "owner", "reason": reason, "drain": drain}
        return [{**event, "deadline_us": deadline_us}]

    def resume(self, name: str) -> list[Event]:
        return [{"type": "NodeResumed", "node": name}] if self._node(name)["cordoned"] else []

    def _node(self, name: str) -> dict[str, Any]:
        if name not in self.nodes:
            raise No(404)
        return self.nodes[name]

    def fail_gpu(self, uuid: str, reason: str) -> list[Event]:
        if uuid not in self.gpus:
            raise No(404)
        said = uuid in self.failed and reason in ("", self.failed[uuid])
        return [] if said else [{"type": "DeviceFailed", "device": uuid, "reason": reason}]

    def recover_gpu(self, uuid: str) -> list[Event]:
        if uuid not in self.gpus:
            raise No(404)
        return [{"type": "DeviceRecovered", "device": uuid}] if uuid in self.failed else []

    def book(self, nodes: list[str], start_us: int, end_us: int) -> list[Event]:
        if not set(nodes) <= self.nodes.keys() or len(set(nodes)) < len(nodes):
            raise No(422)
        if end_us <= max(start_us, self.now_us):
            raise No(422)
        return [{"type": "BookingMade", "nodes": nodes, "start_us": start_us, "end_us": end_us}]

    def end_booking(self, id: str) -> list[Event]:
        if id not in self.bookings:
            raise No(404)
        return [{"type": "BookingEnded", "booking": id, "by": "owner"}]

    def set_policy(self, change: dict[str, Any], version: int | None) -> list[Event]:
        if version not in (None, self.policy_version):
            raise No(412, "stale")
        return [{"type": "PolicySet", "version": self.policy_version + 1}] if self.news(change) else []

    def news(self, change: dict[str, Any]) -> dict[str, Any]:
        """What of a policy would be otherwise than it is."""
        return {name: value for name, value in change.items() if value != self.policy[name]}

    def refusal(
        self,
        no: No,
        command: str = "",
        target: str = "",
        asked: dict[str, Any] | None = None,
        reason: str = "",
    ) -> list[Event]:
        """What the log says of a refusal: the same of the same once, and not many that are alike, until
        something happens to it."""
        if not no.kind:
            return []
        asked = asked or {}
        version, said = self.refused.get((command, target, no.kind), (0, []))
        if version == self._version_of(target) and ((asked, reason) in said or len(said) >= ALIKE_MAX):
            return []
        return [
            {
                "type": "CommandRefused",
                "command": command,
                "target": target,
                "kind": no.kind,
                "asked": asked,
                "reason": reason,
            }
        ]

    def _version_of(self, stream: str) -> int:
        """A task has the events of its array, too."""
        kind, _, id = stream.partition("/")
        return self.job(id).version if kind == "job" else self.versions.get(stream, 0)

    # --- the log ----------------------------------------------------------------------------------------

    def take(self, recorded: dict[str, Any]) -> None:
        """Believe an event of the log, which must be one that may come next."""
        event: Event = recorded["payload"]
        kind, stream = recorded["type"], recorded["stream"]
        self.position += 1
        self.versions[stream] = self.versions.get(stream, 0) + 1
        assert recorded["position"] == self.position, "the log has a gap"
        assert microseconds(recorded["recorded_at"]) == self.now_us, "recorded at another time than now"
        if not stream.startswith("job/"):
            assert recorded["stream_version"] == self.versions[stream]
            getattr(self, f"_{kind}")(event, recorded)
            return
        if kind == "JobSubmitted":
            self._JobSubmitted(event, recorded)
            return
        job = self.job(event["job_id"])
        on = [job]
        if kind in ("JobHeld", "JobReleased"):
            on += [task for task in job.tasks if task.state == "Queued"]
        elif kind != "BlobsErased":
            on += [task for task in job.tasks if not task.ended]
        for one in on:
            getattr(self, f"_{kind}")(one, event)
            one.version += 1
            one.positions.append(self.position)
        assert recorded["stream_version"] == job.version
        for one in {id(task.array): task.array for task in on if task.array}.values():
            self._sum_up(one)
        if job.tasks:
            self._sum_up(job)

    def _JobSubmitted(self, event: Event, recorded: dict[str, Any]) -> None:
        body = self.sent.pop(0)
        self._be_there(body.get("account", "default"), body["user_id"])
        begin_us = microseconds(body.get("begin_at"))
        named = [one.split(":") for one in dict.fromkeys(body.get("depends_on", ()))]  # each once
        depends_on = [(kind, self._named(name)) for kind, name in named]
        job = Job(
            event["job_id"], event["number"], {**ASKED, **body}, body.get("priority", "Normal"),
            body.get("time_limit_s", 0), body.get("hold", False), begin_us, begin_us > self.now_us,
            depends_on, self.now_us, positions=[self.position],
        )  # fmt: skip
        assert job.number == len(self.jobs) + 1 == event["number"]
        self.jobs.append(job)
        low = int(job.id[24:], 16)
        for place, index in enumerate(indices(body["array"]) if "array" in body else ()):
            task = Job(**{**vars(job), "positions": [self.position], "tasks": []})
            task.id = f"{job.id[:24]}{(low + 1 + place) % (1 << 48):012x}"
            task.number, task.array, task.index = len(self.jobs) + 1, job, index
            job.tasks.append(task)
            self.jobs.append(task)

    def _sum_up(self, array: Job) -> None:
        """An array is what became of its tasks."""
        states = {task.state for task in array.tasks}
        array.scheduled_us = array.scheduled_us or max(task.scheduled_us for task in array.tasks)
        if not array.ran and any(task.ran for task in array.tasks):
            array.ran, array.started_us = True, self.now_us
        if states <= set(ENDS):
            array.state = next(end for end in ENDS if end in states)
            array.completed_us = array.completed_us or self.now_us
            array.held = array.pending = False
        else:
            array.state = "Running" if states & set(SINGLY) else "Queued"

    def _JobHeld(self, job: Job, event: Event) -> None:
        job.held = True

    def _JobReleased(self, job: Job, event: Event) -> None:
        if not event.get("begin_reached"):
            job.held = False
            return
        assert job.pending
        assert job.begin_us <= self.now_us, "its time has not come"
        job.pending = False

    def _JobUpdated(self, job: Job, event: Event) -> None:
        job.priority = event.get("priority", job.priority)
        if "time_limit_s" in event:
            job.time_limit_s = event["time_limit_s"]
            if job.holding == "held" and not job.stop:
                self._expect_end(job)

    def _expect_end(self, job: Job) -> None:
        limit_s = job.time_limit_s or ASSUMED_TIME_LIMIT_S
        job.expected_us = (job.started_us or job.scheduled_us) + limit_s * SECOND

    def _JobReserved(self, job: Job, event: Event) -> None:
        assert job.eligible
        assert event["start_us"] >= self.now_us

    def _JobScheduled(self, job: Job, event: Event) -> None:
        assert job.eligible, f"job {job.name} may not start: {job}"
        assert event["attempt"] == job.attempt + 1
        job.state, job.holding, job.attempt, job.reason = "Scheduled", "held", event["attempt"], ""
        job.placed = event["allocation"]
        job.scheduled_us, job.started_us, job.exit_code, job.signal = self.now_us, 0, None, None
        self._expect_end(job)
        self._check_what_it_got(job)

    def _check_what_it_got(self, job: Job) -> None:
        asked = job.asked
        assert len(job.gpus) == len(set(job.gpus)) == asked["gpu_count"]
        assert sum(part.get("cpu_cores", 0) for part in job.placed) == asked["cpu_cores"]
        assert sum(part.get("memory_mib", 0) for part in job.placed) == asked["memory_gb"] * 1024
        names = [part["node"] for part in job.placed]
        assert len(names) == len(set(names)) == (asked["nodes"] or len(names))
        for part in job.placed:
            name = part["node"]
            node, here = self.nodes[name], self._who_holds(name)
            assert not node["cordoned"], f"{name} takes no work"
            assert node["labels"].items() >= asked["constraints"].items()
            assert not any(one.asked["exclusive"] for one in (here if len(here) > 1 else [])), here
            assert self._sum_held(name, "cpu_cores") <= node["cpu_cores"], f"{name} has not so many cores"
            assert self._sum_held(name, "memory_mib") <= node["memory_gb"] * 1024
            for uuid in part.get("gpu_ids", ()):
                where, gpu_type, memory_gb = self.gpus[uuid]
                assert where == name
                assert uuid not in self.failed
                assert asked["gpu_type"] in (None, gpu_type)
                assert asked["gpu_memory_gb"] <= memory_gb
                assert [one for one in here if uuid in one.gpus] == [job], f"{uuid} is held twice"
            for one in self.bookings.values():
                clear = one["end_us"] <= self.now_us or job.expected_us <= one["start_us"]
                assert clear or name not in one["nodes"], "it would run into a booking"
        assert len({self.gpus[uuid][1] for uuid in job.gpus}) <= 1, "GPUs of two types"
        for (path, kind), share in self.shares.items():
            if kind == "account" and share["max_gpus"] >= 0 and f"{job.owner[0]}/".startswith(path + "/"):
                assert self._gpus_held(path, kind) <= share["max_gpus"], f"over the quota of {path}"
        if job.array and "%" in job.array.asked["array"]:
            limit = int(job.array.asked["array"].partition("%")[2])
            assert sum(task.holding is not None for task in job.array.tasks) <= limit

    def _JobStarted(self, job: Job, event: Event) -> None:
        assert (job.state, job.attempt) == ("Scheduled", event["attempt"])
        job.state, job.ran = "Running", True
        job.started_us = job.saved_us = self.now_us
        if not job.stop:
            self._expect_end(job)

    def _CheckpointRecorded(self, job: Job, event: Event) -> None:
        job.saved_us = self.now_us

    def _AllocationOverdue(self, job: Job, event: Event) -> None:
        assert job.holding
        assert job.expected_us + 60 * SECOND <= self.now_us < event["until_us"]
        job.expected_us = event["until_us"]

    def _stop(self, job: Job, event: Event, why: str) -> None:
        assert job.state in ("Scheduled", "Running")
        assert not job.stop
        assert job.attempt == event["attempt"]
        job.stop = why

    def _TimeLimitReached(self, job: Job, event: Event) -> None:
        self._stop(job, event, f"its time limit of {job.time_limit_s} s was reached")
        assert job.time_limit_s
        assert job.started_us + job.time_limit_s * SECOND <= self.now_us

    def _PreemptionRequested(self, job: Job, event: Event) -> None:
        by = self.job(event["by"])
        self._stop(job, event, f"preempted by job {by.number} of {by.asked['user_id']} ({by.priority})")
        assert by.eligible
        assert job.asked["preemptible"]
        assert job.state == "Running"
        assert self.policy["preemption"]
        assert self.now_us - job.started_us >= MIN_RUNTIME_S * SECOND
        guaranteed = any(
            share["guaranteed_gpus"] and f"{by.owner[0]}/".startswith(path + "/")
            for (path, kind), share in self.shares.items()
            if kind == "account"
        )
        assert RANKS[by.priority] > RANKS[job.priority] - guaranteed

    def _RequeueRequested(self, job: Job, event: Event) -> None:
        self._stop(job, event, f"requeued by {event['by']}")
        if event["by"] != "owner":
            name = event["by"].removeprefix("drain of node ")
            node = self.nodes[name]
            assert node["draining"]
            assert 0 < node["drain_us"] <= self.now_us
            assert name in [part["node"] for part in job.placed]

    def _attempt_over(self, job: Job, event: Event, outcome: str) -> None:
        """An attempt ended: by itself with the code it was told to, or because it was stopped."""
        exit = event.get("exit")
        if job.stop:
            wanted = ("failed" if "limit" in job.stop else "requeued", job.stop)
        else:
            assert self.told is not None, f"nobody ended job {job.name}: {event}"
            (whose, code), self.told = self.told, None
            assert whose is job
            assert exit == {"exit_code": code}
            wanted = self._outcome(job, code)
        assert (outcome, event.get("reason", "")) == wanted
        if exit is not None:
            job.exit_code, job.signal = exit.get("exit_code"), exit.get("signal")
        job.reason, job.holding, job.stop = wanted[1], "releasing", ""

    def _outcome(self, job: Job, code: int) -> tuple[str, str]:
        if code == 0:
            return "completed", ""
        if self.failed.keys() & set(job.gpus) and job.attempts_lost < 5:
            return "requeued", f"a GPU that it held has failed: exit code {code}"
        again = job.retries_used < job.asked["max_retries"]
        return "requeued" if again else "failed", f"exit code {code}"

    def _end(self, job: Job, state: str) -> None:
        job.state, job.completed_us = state, self.now_us
        job.held = job.pending = False

    def _JobCompleted(self, job: Job, event: Event) -> None:
        self._attempt_over(job, event, "completed")
        self._end(job, "Completed")

    def _JobFailed(self, job: Job, event: Event) -> None:
        if job.holding == "held":
            self._attempt_over(job, event, "failed")
        else:
            assert job.state == "Queued"
            assert event["reason"] in job.dooms
            job.reason = event["reason"]
        self._end(job, "Failed")

    def _JobPreempted(self, job: Job, event: Event) -> None:
        assert job.stop.startswith("preempted by")
        assert job.state == "Running"
        job.state, job.preempted = "Preempted", job.preempted + 1
        job.lost_us += event["lost_gpu_us"]
        assert event["lost_gpu_us"] == (self.now_us - job.saved_us) * job.asked["gpu_count"]

    def _JobRequeued(self, job: Job, event: Event) -> None:
        assert (job.state == "Preempted") == job.stop.startswith("preempted by")
        self._attempt_over(job, event, "requeued")
        job.state = "Queued"
        job.attempts_lost += event["cause"] == "device"
        if event["cause"] == "retry":
            wait_s = min(1 << job.retries_used, 300)
            job.retries_used += 1
            job.begin_us, job.pending = self.now_us + wait_s * SECOND, True
        assert event.get("not_before_us", 0) == (job.begin_us if event["cause"] == "retry" else 0)
        if job.array:
            job.held = job.array.held

    def _JobCancelled(self, job: Job, event: Event) -> None:
        job.reason = "cancelled by owner" + (f": {event['reason']}" if event.get("reason") else "")
        if job.holding:
            job.holding, job.stop = "releasing", ""
        self._end(job, "Cancelled")

    def _AllocationReleased(self, job: Job, event: Event) -> None:
        assert job.holding == "releasing"
        assert job.attempt == event["attempt"]
        job.holding = None
        if event.get("exit"):
            job.exit_code, job.signal = event["exit"].get("exit_code"), event["exit"].get("signal")

    def _BlobsErased(self, job: Job, event: Event) -> None:
        job.erased = True

    def _NodeRegistered(self, event: Event, recorded: dict[str, Any]) -> None:
        self.nodes[event["node"]]["version"] += 1

    def _NodeCordoned(self, event: Event, recorded: dict[str, Any]) -> None:
        node = self.nodes[event["node"]]
        node.update(cordoned=True, by=event["by"], reason=event.get("reason", ""))
        node.update(draining=event.get("drain", False), drain_us=event.get("deadline_us", 0))
        node["version"] += 1

    def _NodeResumed(self, event: Event, recorded: dict[str, Any]) -> None:
        node = self.nodes[event["node"]]
        node.update(cordoned=False, draining=False, drain_us=0, by="", reason="")
        node["version"] += 1

    def _DeviceFailed(self, event: Event, recorded: dict[str, Any]) -> None:
        self.failed[event["device"]] = event.get("reason", "")

    def _DeviceRecovered(self, event: Event, recorded: dict[str, Any]) -> None:
        del self.failed[event["device"]]

    def _BookingMade(self, event: Event, recorded: dict[str, Any]) -> None:
        self.bookings[event["booking"]] = event

    def _BookingEnded(self, event: Event, recorded: dict[str, Any]) -> None:
        ended = self.bookings.pop(event["booking"])
        assert event["by"] == "owner" or ended["end_us"] <= self.now_us

    def _be_there(self, account: str, user_id: str = "") -> dict[str, int]:
        """A share comes into being with those above it."""
        if above := parent_of(account):
            self._be_there(above)
        share = self.shares.setdefault((account, "account"), dict(NEW_SHARE))
        return self.shares.setdefault((f"{account}/{user_id}", "user"), dict(NEW_SHARE)) if user_id else share

    def _ShareSet(self, event: Event, recorded: dict[str, Any]) -> None:
        account, _, user_id = event["path"].rpartition("/")
        share = self._be_there(account, user_id) if event.get("user") else self._be_there(event["path"])
        share["weight"] = event["weight"]

    def _QuotaSet(self, event: Event, recorded: dict[str, Any]) -> None:
        share = self._be_there(event["path"])
        share.update(max_gpus=event.get("max_gpus", -1), guaranteed_gpus=event.get("guaranteed_gpus", 0))

    def _PolicySet(self, event: Event, recorded: dict[str, Any]) -> None:
        self.policy_version, self.policy = event["version"], event["policy"]

    def _LeaderElected(self, event: Event, recorded: dict[str, Any]) -> None:
        self.epoch += 1
        assert event["epoch"] == recorded["epoch"] == self.epoch

    def _CommandRefused(self, event: Event, recorded: dict[str, Any]) -> None:
        key, at = (event["command"], event["target"], event["kind"]), self._version_of(event["target"])
        version, said = self.refused.get(key, (0, []))
        one = (event.get("asked", {}), event.get("reason", ""))
        self.refused[key] = at, [*said, one] if version == at else [one]

    # --- what must come by itself -----------------------------------------------------------------------

    @property
    def in_motion(self) -> bool:
        """Whether processes are on their way in or out."""
        return self.told is not None or any(
            job.state == "Scheduled" or job.stop or job.holding == "releasing" for job in self.jobs
        )

    def check_that_nothing_is_due(self) -> None:
        """All that time, or what became of others, brings has come; and where all is free nobody waits for
        what would fit."""
        for job in self.jobs:
            over = job.started_us + job.time_limit_s * SECOND <= self.now_us
            assert not (job.state == "Running" and not job.tasks and job.time_limit_s and over), job
            assert not (job.state == "Queued" and job.pending and job.begin_us <= self.now_us), job
            assert not (job.state == "Queued" and job.dooms), job
            assert not (job.state == "Queued" and job.eligible and self._could_start(job)), job
        for name, node in self.nodes.items():
            assert not (0 < node["drain_us"] <= self.now_us and self._who_holds(name)), node
        assert not any(one["end_us"] <= self.now_us for one in self.bookings.values())

    def _could_start(self, job: Job) -> bool:
        """Whether nothing at all could keep it: nobody holds anything, and nothing is out of the ordinary."""
        quotas = any(share["max_gpus"] >= 0 for share in self.shares.values())
        if quotas or self.bookings or self.failed or any(node["cordoned"] for node in self.nodes.values()):
            return False
        if any(other.holding for other in self.jobs) or (job.asked["nodes"] or 1) > 1:
            return False
        asked = job.asked
        return any(
            node["labels"].items() >= asked["constraints"].items()
            and node["cpu_cores"] >= asked["cpu_cores"]
            and node["memory_gb"] >= asked["memory_gb"]
            and asked["gpu_count"]
            <= sum(
                where == name and asked["gpu_type"] in (None, gpu_type) and memory >= asked["gpu_memory_gb"]
                for where, gpu_type, memory in self.gpus.values()
            )
            for name, node in self.nodes.items()
        )

    # --- what is answered -------------------------------------------------------------------------------

    def answer(self, job: Job) -> dict[str, Any]:
        """All of a job's fields but why it waits and for when it is planned."""
        asked = job.asked
        erased = job.erased or (job.array is not None and job.array.erased)
        resources = {name: asked[name] for name in ("gpu_count", "gpu_type", "cpu_cores", "memory_gb")}
        return {
            **{name: asked[name] for name in (*ASKED, "user_id", "command")},
            "id": job.id, "number": job.number, "state": job.state, "priority": job.priority,
            "environment": None if erased and asked["environment"] else asked["environment"],
            "array": None if job.array else asked["array"], "resources": resources, "erased": erased,
            "array_number": job.array.number if job.array else None,
            "array_index": job.index if job.array else None, "tasks": self._counts(job.tasks),
            "depends_on": [
                {"job": one.id, "number": one.number, "kind": kind} for kind, one in job.depends_on
            ],
            "time_limit_s": job.time_limit_s or None, "hold": job.held, "version": job.version,
            "begin_at": moment(microseconds(asked.get("begin_at"))), "created_at": moment(job.created_us),
            "scheduled_at": moment(job.scheduled_us), "started_at": moment(job.started_us),
            "completed_at": moment(job.completed_us), "exit_code": job.exit_code, "signal": job.signal,
            "attempt": job.attempt, "retries_used": job.retries_used, "preempted": job.preempted,
            "lost_gpu_s": job.lost_us / 1e6, "allocation_state": job.holding,
            "node_ids": [part["node"] for part in job.placed], "gpu_ids": job.gpus,
        }  # fmt: skip

    def _counts(self, tasks: list[Job]) -> dict[str, int] | None:
        counts = {state.lower(): sum(task.state == state for task in tasks) for state in STATES}
        return {"total": len(tasks), **counts} if tasks else None

    def why_it_waits(self, job: Job) -> str | None:
        """How the reason begins of a job that does not stand in the queue; None for one that does."""
        job = next((task for task in job.tasks if task.state == "Queued"), job)
        if job.held:
            return "held: it starts only after a release"
        if job.pending:
            return "waits for its begin time "
        return "waits for what it depends on: " + ", ".join(job.open) if job.open else None

    def listed(self, wanted: dict[str, Any]) -> list[Job]:
        """Newest first. Unless tasks are asked for, an array stands for those that wait or have ended."""
        array, states = wanted.get("array"), wanted.get("state")
        every_task = wanted.get("tasks", array is not None)
        found = []
        for job in reversed(self.jobs):
            if array is not None and job.array is not array:
                continue
            if (job.tasks and every_task) or (job.array and not every_task and job.state not in SINGLY):
                continue
            shown = (
                [task.state for task in job.tasks if task.state not in SINGLY] if job.tasks else [job.state]
            )
            label, _, value = wanted.get("label", "").partition("=")
            if (
                (not states or set(shown) & set(states))
                and wanted.get("priority") in (None, job.priority)
                and wanted.get("user_id") in (None, job.asked["user_id"])
                and f"{job.asked['account']}/".startswith(f"{wanted.get('account', job.asked['account'])}/")
                and (not label or job.asked["labels"].get(label) == value)
                and wanted.get("name") in (None, job.asked["job_name"])
            ):
                found.append(job)
        return found

    def _runnable(self) -> list[Job]:
        return [job for job in self.jobs if not job.tasks]

    def _who_holds(self, node: str) -> list[Job]:
        return [job for job in self.jobs if job.holding and node in [part["node"] for part in job.placed]]

    def _sum_held(self, node: str, what: str) -> int:
        parts = [part for job in self._who_holds(node) for part in job.placed if part["node"] == node]
        return sum(part.get(what, 0) for part in parts)

    def _of_share(self, path: str, kind: str) -> list[Job]:
        if kind == "user":
            return [job for job in self._runnable() if "/".join(job.owner) == path]
        return [job for job in self._runnable() if f"{job.owner[0]}/".startswith(path + "/")]

    def _gpus_held(self, path: str, kind: str) -> int:
        return sum(job.asked["gpu_count"] for job in self._of_share(path, kind) if job.holding)

    def gpu_states(self) -> dict[str, tuple[str, int | None]]:
        holders = {uuid: job for job in self.jobs if job.holding for uuid in job.gpus}
        return {
            uuid: (
                "failed"
                if uuid in self.failed
                else holders[uuid].holding or ""
                if uuid in holders
                else "free",
                holders[uuid].number if uuid in holders else None,
            )
            for uuid in self.gpus
        }

    def picture(self) -> dict[str, Any]:
        """What ``GET /state`` says that does not depend on who used how much."""
        runnable = self._runnable()
        waiting = [job for job in runnable if job.eligible]
        queued = sum(job.state == "Queued" for job in runnable)
        by_state = {state: sum(job.state == state for job in runnable) for state in STATES}
        return deepcopy({
            "position": self.position, "epoch": self.epoch, "policy_version": self.policy_version,
            "policy": self.policy, "jobs": by_state, "queue": {
                "total": len(waiting), "held": queued - len(waiting),
                **{
                    f"{name.lower()}_priority": sum(job.priority == name for job in waiting)
                    for name in RANKS
                },
                **{state.lower(): by_state[state] for state in SINGLY},
            },
            "waiting": sorted(job.number for job in waiting),
            "holding": {
                job.number: (job.state, job.attempt, job.priority, job.gpus, job.holding)
                for job in runnable if job.holding
            },
            "nodes": {name: self._node_answer(name) for name in self.nodes},
            "shares": {
                (path, kind): (share["weight"], parent_of(path), share["max_gpus"], share["guaranteed_gpus"],
                               self._gpus_held(path, kind),
                               sum(job.eligible for job in self._of_share(path, kind)))
                for (path, kind), share in self.shares.items()
            },
            "bookings": {
                id: (list(one["nodes"]), moment(one["start_us"]), moment(one["end_us"]))
                for id, one in self.bookings.items()
            },
        })  # fmt: skip

    def _node_answer(self, name: str) -> tuple[Any, ...]:
        node, here = self.nodes[name], self._who_holds(name)
        state = "cordoned" if node["cordoned"] else "up"
        if node["draining"]:
            state = "draining" if here else "drained"
        states = [state for uuid, (state, _) in self.gpu_states().items() if self.gpus[uuid][0] == name]
        counts = {word: states.count(word) for word in ("free", "held", "releasing", "failed")}
        held = (self._sum_held(name, "cpu_cores"), self._sum_held(name, "memory_mib") / 1024)
        said = (node["reason"] or None, node["by"] or None, moment(node["drain_us"]))
        return (
            state,
            *said,
            {"total": len(states), **counts},
            *held,
            sorted(job.number for job in here),
            (node["version"]),
        )


NEW_SHARE = {"weight": 1, "max_gpus": -1, "guaranteed_gpus": 0}
