"""Random lives of a whole scheduler over HTTP, each answer held against a plain model (``tests.api.model``).

Store, processes and HTTP are real; time stands still but when a life says that it passes, and processes end
when a life tells them to, so the same steps are the same life. What fails is printed step by step, with the
``@reproduce_failure`` that makes ``Life`` lead it again. For so many other lives, each time others, and
of one that fails the shortest that does, which may take an hour:
``HORIZON_MODEL_LIVES=300 pytest tests/api/test_model.py``
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, urlencode

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from tests.api.client import UNKNOWN, Answer, Client
from tests.api.model import RANKS, SECOND, STATES, Event, Job, Model, No, indices, moment
from tests.conftest import drop, with_database
from tests.world import PATIENCE_S, start_scheduler

LIVES = int(os.environ.get("HORIZON_MODEL_LIVES", 0))
SUITE_LIVES = 12
STEPS = 40
CLUSTER = "4xH100,4xA100@rack=r2"
NODES = ("node-1", "node-2")
BEGIN_US = 2_000_000_000 * SECOND
"""In the future, so that the log and not this machine's clock says what time it is."""


class Clock:
    """One that stands still until it is told."""

    def __init__(self) -> None:
        self.at_us = BEGIN_US

    def now_us(self) -> int:
        return self.at_us


# --- what is asked for --------------------------------------------------------------------------------

reasons = st.sampled_from(["", "", "wrong data"])
places = st.integers(0, 40)
"""Counted from the newest; past the oldest it begins again."""
priorities = st.sampled_from(["Low", "Normal", "High", "Urgent"])
limits_s = st.sampled_from([30, 600, 7_200])
submissions = st.fixed_dictionaries(
    {"user_id": st.sampled_from(["alice", "bob"])},
    optional={
        "account": st.sampled_from(["lab/nlp", "lab"]),
        "gpu_count": st.sampled_from([1, 2, 3, 4, 4, 5, 8]),
        "gpu_type": st.sampled_from(["H100", "A100", "T4"]),
        "cpu_cores": st.sampled_from([1, 40, 64]),
        "memory_gb": st.sampled_from([1, 300]),
        "nodes": st.sampled_from([1, 2]),
        "constraints": st.just({"rack": "r2"}),
        "exclusive": st.booleans(),
        "priority": priorities,
        "time_limit_s": limits_s,
        "max_retries": st.sampled_from([1, 2]),
        "preemptible": st.booleans(),
        "grace_period_s": st.just(5),
        "hold": st.booleans(),
        "begin_at": st.sampled_from([moment(BEGIN_US - SECOND), moment(BEGIN_US + 100 * SECOND)]),
        "array": st.sampled_from(["0-2", "1,4,7%1", "0-3%2", "5"]),
        "labels": st.fixed_dictionaries({"team": st.sampled_from(["x", "y"])}),
        "environment": st.just({"SEED": "17"}),
        "job_name": st.sampled_from(["train", "eval"]),
        "comment": st.just("a word"),
    },
)
small = st.fixed_dictionaries(
    {"user_id": st.sampled_from(["alice", "bob"]), "gpu_count": st.sampled_from([1, 2, 4, 4])},
    optional={"priority": priorities, "preemptible": st.just(True), "array": st.just("0-3"),
              "time_limit_s": st.just(7_200), "max_retries": st.just(1)},
)  # fmt: skip
"""Most likely to run."""
kinds = st.sampled_from(["after_ok", "after_any", "after_not_ok", "after_start"])
dependencies = st.lists(st.tuples(kinds, places), max_size=2)
conditions = st.sampled_from([None, None, None, "now", "stale", "any"])
changes = st.fixed_dictionaries(
    {},
    optional={
        "priority": priorities,
        "time_limit_s": limits_s,
        "hold": st.booleans(),
        "reason": st.just("x"),
    },
).filter(lambda change: change.keys() - {"reason"})
shares = st.fixed_dictionaries(
    {},
    optional={
        "weight": st.integers(1, 3),
        "max_gpus": st.sampled_from([None, None, 2, 5]),
        "guaranteed_gpus": st.sampled_from([0, 1, 3]),
        "kind": st.sampled_from(["user", "account"]),
    },
)
paths = st.sampled_from(["default", "lab", "lab/nlp", "lab/alice", "default/bob", "new/one"])
policies = st.sampled_from(
    [{"order": "fifo"}, {"order": "fair"}, {"strict": True}, {"strict": False}, {"preemption": False},
     {"preemption": True}]
)  # fmt: skip
operations = st.one_of(
    st.tuples(st.just("set_share"), paths, shares),
    st.tuples(st.just("set_policy"), policies, conditions),
    st.tuples(st.just("resume"), st.sampled_from([*NODES, "node-9"])),
    st.tuples(st.just("cordon"), st.sampled_from([*NODES, "node-9"]), reasons),
    st.tuples(st.just("drain"), st.sampled_from(NODES), st.sampled_from([None, 0, 60]), reasons),
    st.tuples(st.just("fail_gpu"), st.integers(0, 4), reasons),
    st.tuples(st.just("recover_gpu"), st.integers(0, 4)),
    st.tuples(
        st.just("book"), st.lists(st.sampled_from([*NODES, *NODES, "node-9"]), min_size=1, max_size=2),
        st.sampled_from([-60, 0, 300, 90_000]), st.sampled_from([0, 60, 4_000]),
    ),
    st.tuples(st.just("end_booking"), places),
)  # fmt: skip
"""What operators ask for."""
filters = st.fixed_dictionaries(
    {},
    optional={
        "state": st.lists(
            st.sampled_from(["Queued", "Scheduled", "Running", "Completed", "Failed", "Cancelled"]),
            min_size=1,
        ),
        "priority": priorities,
        "user_id": st.sampled_from(["alice", "bob", "nobody"]),
        "account": st.sampled_from(["default", "lab", "lab/nlp"]),
        "label": st.sampled_from(["team=x", "team=y"]),
        "name": st.just("train"),
        "array": places,
        "tasks": st.booleans(),
    },
)


class Life(RuleBasedStateMachine):
    """One life: a fresh database, a scheduler on it, and the model beside it."""

    postgres: ClassVar[str]
    template: ClassVar[str]
    numbers: ClassVar[Any] = itertools.count(1)

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.run = self.loop.run
        self.directory = tempfile.TemporaryDirectory(prefix="horizon-life-")
        self.fifos = Path(self.directory.name) / "fifos"
        self.fifos.mkdir()
        self.clock = Clock()
        self.database = f"horizon_life_{os.getpid()}_{next(self.numbers)}"
        self.tags, self.keys = itertools.count(1), itertools.count(1)
        self.answered: list[tuple[str, str, str, Any, Answer]] = []
        """Under a key: the key, what was asked, what was answered."""
        self.pictures: list[dict[str, Any]] = []
        self.run(self._begin())

    async def _begin(self) -> None:
        admin = await asyncpg.connect(self.postgres)
        await admin.execute(f'CREATE DATABASE "{self.database}" TEMPLATE "{self.template}"')
        await admin.close()
        await self._start()
        nodes, gpus = await self.client.get("/nodes"), await self.client.get("/gpus")
        self.well = gpus["gpus"][-1]["uuid"]
        """A GPU that never fails here."""
        self.model = Model(nodes["nodes"], gpus["gpus"], self.clock.at_us)
        await self._settle()

    async def _start(self) -> None:
        dsn = with_database(self.postgres, self.database)
        self.scheduler = await start_scheduler(dsn, Path(self.directory.name), CLUSTER, clock=self.clock)
        self.client = Client(self.scheduler)

    def teardown(self) -> None:
        try:
            self.run(self.scheduler.stop_checked())
        finally:
            self.run(drop(self.postgres, self.database))
            for fifo in self.fifos.iterdir():  # after a failure somebody may still wait to be told
                with suppress(OSError):
                    os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
            self.loop.close()
            self.directory.cleanup()

    # --- asking -----------------------------------------------------------------------------------------

    def ask(
        self,
        method: str,
        path: str,
        body: Any,
        wanted: Callable[[], list[Event]],
        done: Callable[[Any], None] = lambda answer: None,
        *,
        status: int = 200,
        refused: tuple[str, str, dict[str, Any], str] = ("", "", {}, ""),
        keyed: bool = False,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Ask for a change that must lead to the wanted events, or to that refusal; then ``done`` holds the
        answer against the model."""
        try:
            events, no = wanted(), None
        except No as refusal:
            events, no = self.model.refusal(refusal, *refused), refusal
        key = f"key-{next(self.keys)}" if keyed else None
        given = {**(headers or {}), **({"Idempotency-Key": key} if key else {})}
        answer = self.run(self.client.ask(method, path, body, headers=given))
        assert answer.status == (no.status if no else status), answer.body
        assert "Idempotency-Replayed" not in answer.headers
        if key and not no:
            self.answered.append((key, method, path, body, answer))
        self.run(self._settle(events, lambda: None if no else done(answer.json)))

    def ask_of_job(
        self, method: str, job: Job, what: str, command: str, body: Any, condition: str | None, reason: str,
        keyed: bool, wanted: Callable[[int | None], list[Event]],
    ) -> None:  # fmt: skip
        """A change of a job, perhaps on condition."""
        version = {"now": job.version, "stale": job.version + 1}.get(condition or "")
        tags = {"now": f'"{job.version}"', "stale": f'"{job.version + 1}"', "any": "*"}
        headers = {"If-Match": tags[condition]} if condition else {}
        name = (job.id, job.name)[job.number % 2]
        path = f"/jobs/{name}{what}" + (f"?reason={reason}" if reason and body is None else "")

        def done(answer: Any) -> None:
            self.compare(answer, job, live=False)

        asked = dict(body or {})
        self.ask(
            method, path, body, lambda: wanted(version), done,
            refused=(command, f"job/{job.id}", asked, asked.pop("reason", reason)), keyed=keyed,
            headers=headers,
        )  # fmt: skip

    async def _settle(self, own: list[Event] | None = None, done: Callable[[], None] = lambda: None) -> None:
        """Follow the log until nothing happens any more. What was asked for comes first in it, and once."""
        model = self.model
        waiting = list(own or ())
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while True:
            before = model.position
            for recorded in await self._events_after(model.position):
                if waiting:
                    expect(recorded, waiting.pop(0))
                else:
                    assert recorded["actor"] in ("scheduler", "executor"), recorded
                model.take(recorded)
                if not waiting:
                    done()
                    done = nothing
            assert not waiting, f"not in the log: {waiting}"
            done()
            done = nothing
            # What changes nothing goes through the engine, behind all that was on its way.
            await self.client.ask("POST", f"/gpus/{self.well}/recover", status=200)
            head = (await self.client.get("/state"))["position"]
            if head == model.position == before and not model.in_motion:
                break
            assert asyncio.get_running_loop().time() < deadline, f"no end of it: {model.jobs}"
            if model.in_motion:
                await asyncio.sleep(0.002)
        model.check_that_nothing_is_due()
        await self._look()

    async def _events_after(self, position: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.client.get(f"/events?after={position}"))["events"]
        return found

    # --- looking ----------------------------------------------------------------------------------------

    async def _look(self) -> None:
        """The whole picture, and who is in it."""
        model, get = self.model, self.client.get
        now = await get("/state")
        wanted = model.picture()
        assert pictured(now) == wanted
        self.pictures.append(wanted)
        assert await get("/queue") == now["queue"]
        assert (await get("/nodes"))["nodes"] == now["nodes"]
        assert (await get("/shares"))["shares"] == now["shares"]
        assert (await get("/bookings"))["bookings"] == now["bookings"]
        found = {gpu["uuid"]: gpu for gpu in (await get("/gpus"))["gpus"]}
        assert {
            uuid: (gpu["state"], gpu["job"]["number"] if gpu["job"] else None) for uuid, gpu in found.items()
        } == model.gpu_states()
        self._check_order((await get("/queue/order?limit=1000"))["jobs"])
        await self._list({"tasks": True}, 1_000)
        await self._list({"state": [STATES[len(self.pictures) % len(STATES)]]}, 3)

    def _check_order(self, order: list[dict[str, Any]]) -> None:
        """Who waits, by priority, and each owner's in the order of their coming."""
        jobs = [self.model.jobs[row["number"] - 1] for row in order]
        assert sorted(job.number for job in jobs) == self.model.picture()["waiting"]
        ranks = [RANKS[job.priority] for job in jobs]
        assert ranks == sorted(ranks, reverse=True)
        for one, other in itertools.combinations(jobs, 2):
            if (one.owner, one.priority) == (other.owner, other.priority):
                assert one.number < other.number

    async def _list(self, wanted: dict[str, Any], limit: int) -> None:
        """All pages of a list."""
        query = {**wanted, "limit": limit}
        if "array" in wanted:
            query["array"] = wanted["array"].number
        if "tasks" in wanted:
            query["tasks"] = str(wanted["tasks"]).lower()
        path = "/jobs?" + urlencode(query, doseq=True)
        listed = self.model.listed(wanted)
        found, cursor = [], ""
        while cursor is not None:
            page = await self.client.get(path + cursor)
            assert page["total"] == len(listed)
            assert len(page["jobs"]) == limit or page["next_cursor"] is None
            found += page["jobs"]
            cursor = page["next_cursor"] and f"&cursor={quote(page['next_cursor'])}"
        assert [row["number"] for row in found] == [job.number for job in listed]
        for row, job in zip(found, listed, strict=True):
            self.compare(row, job, live=True)

    def compare(self, answer: dict[str, Any], job: Job, live: bool) -> None:
        """All that is answered of a job; ``live`` answers say also why it waits."""
        wanted = self.model.answer(job)
        assert {name: answer[name] for name in wanted} == wanted
        assert set(answer) - set(wanted) == {"reason", "predicted_start"}
        if not live or job.state != "Queued":
            assert answer["reason"] == (job.reason or None)
        else:
            assert answer["reason"].startswith(self.model.why_it_waits(job) or ("waits for", "asks for"))

    # --- jobs -------------------------------------------------------------------------------------------

    def _runnable(self, body: dict[str, Any], depends_on: list[tuple[str, int]]) -> dict[str, Any]:
        """The body with something to run: processes that end when and as they are told through a pipe."""
        tag = f"{self.fifos}/{next(self.tags)}"
        for index in indices(body["array"]) if "array" in body else [""]:
            for rank in range(8):
                os.mkfifo(f"{tag}.{index}.{rank}")
        wait = f'read code < "{tag}.$HORIZON_ARRAY_INDEX.$HORIZON_NODE_RANK"; exit $code'
        chosen = [(kind, self._pick(place)) for kind, place in depends_on if self.model.jobs]
        more = {"depends_on": [f"{kind}:{job.name}" for kind, job in chosen]} if chosen else {}
        return {"command": wait, **body, **more}

    def _pick(self, place: int, among: list[Job] | None = None) -> Job:
        jobs = among or self.model.jobs
        return jobs[-1 - place % len(jobs)]

    @rule(body=submissions, depends_on=dependencies, keyed=st.booleans())
    def submit(self, body: dict[str, Any], depends_on: list[tuple[str, int]], keyed: bool) -> None:
        self._submit(body, depends_on, keyed)

    def _submit(self, body: dict[str, Any], depends_on: list[tuple[str, int]], keyed: bool) -> None:
        body = self._runnable(body, depends_on)

        def done(answer: Any) -> None:
            job = self.model.job(answer["id"])
            self.compare(answer, job, live=False)

        self.ask("POST", "/jobs", body, lambda: self.model.submit(body), done, status=201, keyed=keyed)

    @rule(body=small, keyed=st.booleans())
    def submit_small(self, body: dict[str, Any], keyed: bool) -> None:
        self._submit(body, [], keyed)

    @rule(bodies=st.lists(st.one_of(small, submissions), min_size=1, max_size=3), keyed=st.booleans())
    def submit_many(self, bodies: list[dict[str, Any]], keyed: bool) -> None:
        bodies = [self._runnable(body, []) for body in bodies]

        def done(answer: Any) -> None:
            assert answer["total"] == len(answer["jobs"]) == len(bodies)
            for one in answer["jobs"]:
                assert self.model.job(one["id"]).number == one["number"]

        self.ask(
            "POST", "/jobs/batch", {"jobs": bodies}, lambda: self.model.batch(bodies), done,
            status=201, keyed=keyed,
        )  # fmt: skip

    @precondition(lambda self: self.model.jobs)
    @rule(place=places, reason=reasons, condition=conditions, keyed=st.booleans())
    def cancel(self, place: int, reason: str, condition: str | None, keyed: bool) -> None:
        job = self._pick(place)
        self.ask_of_job(
            "DELETE", job, "", "Cancel", None, condition, reason, keyed,
            lambda version: self.model.cancel(job, version, reason),
        )  # fmt: skip

    @precondition(lambda self: self.model.jobs)
    @rule(place=places, change=changes, condition=conditions, keyed=st.booleans())
    def update(self, place: int, change: dict[str, Any], condition: str | None, keyed: bool) -> None:
        job = self._pick(place)
        self.ask_of_job(
            "PATCH", job, "", "Update", change, condition, "", keyed,
            lambda version: self.model.update(job, version, change),
        )  # fmt: skip

    @precondition(lambda self: self.model.jobs)
    @rule(place=places, reason=reasons, condition=conditions, keyed=st.booleans())
    def requeue(self, place: int, reason: str, condition: str | None, keyed: bool) -> None:
        job = self._pick(place, self._running() if place % 4 else None)
        self.ask_of_job(
            "POST", job, "/requeue", "Requeue", None, condition, reason, keyed,
            lambda version: self.model.requeue(job, version, reason),
        )  # fmt: skip

    @precondition(lambda self: self.model.jobs)
    @rule(place=places, condition=conditions, keyed=st.booleans())
    def erase(self, place: int, condition: str | None, keyed: bool) -> None:
        secret = [job for job in self.model.jobs if job.ended and job.asked["environment"]]
        job = self._pick(place, secret if place % 4 else None)
        self.ask_of_job(
            "POST", job, "/erase", "Erase", None, condition, "", keyed,
            lambda version: self.model.erase(job, version, ""),
        )  # fmt: skip

    @precondition(lambda self: self._running())
    @rule(place=places, attempt=st.sampled_from([None, 1, 2]))
    def checkpoint(self, place: int, attempt: int | None) -> None:
        job = self._pick(place, self._running() if place % 4 else None)
        query = f"?attempt={attempt}" if attempt else ""
        self.ask(
            "POST", f"/jobs/{job.id}/checkpoint{query}", None, lambda: self.model.checkpoint(job, attempt),
            lambda answer: self.compare(answer, job, live=False),
        )  # fmt: skip

    def _running(self) -> list[Job]:
        return [job for job in self.model.jobs if job.state == "Running" and not job.tasks]

    @precondition(lambda self: self._running())
    @rule(place=places, code=st.sampled_from([0, 0, 3]))
    def end(self, place: int, code: int) -> None:
        """The processes of a running job end; of a gang that fails it is the first that does."""
        self._end(place, code)

    @precondition(lambda self: self._running())
    @rule(place=places)
    def end_well(self, place: int) -> None:
        self._end(place, 0)

    def _end(self, place: int, code: int) -> None:
        job = self._pick(place, self._running())
        self.model.told = (job, code)
        tag = job.asked["command"].split('"')[1].partition(".")[0]
        for rank in range(len(job.placed) if code == 0 else 1):
            self.run(tell(f"{tag}.{job.index if job.array else ''}.{rank}", code))
        self.run(self._settle())

    # --- everything else --------------------------------------------------------------------------------

    @rule(what=operations, keyed=st.booleans())
    def operate(self, what: tuple[Any, ...], keyed: bool) -> None:
        self._operate(what, keyed)

    @rule(what=operations)
    def operate_again(self, what: tuple[Any, ...]) -> None:
        self._operate(what, False)

    def _operate(self, what: tuple[Any, ...], keyed: bool) -> None:
        name, *given = what
        getattr(self, f"_{name}")(*given, keyed)

    def _set_share(self, path: str, change: dict[str, Any], keyed: bool) -> None:
        plain = {**change, "max_gpus": -1} if change.get("max_gpus", 0) is None else change

        def done(answer: Any) -> None:
            share = self.model.shares.get((path, answer["kind"]))
            if share is not None:
                wanted = (share["weight"], share["max_gpus"], share["guaranteed_gpus"])
                most = -1 if answer["max_gpus"] is None else answer["max_gpus"]
                assert (answer["weight"], most, answer["guaranteed_gpus"]) == wanted

        self.ask(
            "PUT", f"/shares/{path}", change, lambda: self.model.set_share(path, plain), done, keyed=keyed
        )

    def _set_policy(self, change: dict[str, Any], condition: str | None, keyed: bool) -> None:
        at = self.model.policy_version
        version = {"now": at, "stale": at + 1}.get(condition or "")
        headers = {"If-Match": f'"{version}"'} if version else {}
        self.ask(
            "PUT", "/policy", change, lambda: self.model.set_policy(change, version),
            refused=("SetPolicy", "policy", self.model.news(change), ""), keyed=keyed, headers=headers,
        )  # fmt: skip

    def _resume(self, name: str, keyed: bool) -> None:
        self.ask("POST", f"/nodes/{name}/resume", None, lambda: self.model.resume(name), keyed=keyed)

    def _cordon(self, name: str, reason: str, keyed: bool) -> None:
        body = {"reason": reason}
        self.ask("POST", f"/nodes/{name}/cordon", body, lambda: self.model.cordon(name, reason), keyed=keyed)

    def _drain(self, name: str, deadline_s: int | None, reason: str, keyed: bool) -> None:
        deadline_us = 0 if deadline_s is None else self.model.now_us + deadline_s * SECOND
        body = {"reason": reason, "deadline_s": deadline_s}
        self.ask(
            "POST", f"/nodes/{name}/drain", body,
            lambda: self.model.cordon(name, reason, True, deadline_us), keyed=keyed,
        )  # fmt: skip

    def _fail_gpu(self, place: int, reason: str, keyed: bool) -> None:
        uuid, body = list(self.model.gpus)[place], {"reason": reason}
        self.ask("POST", f"/gpus/{uuid}/fail", body, lambda: self.model.fail_gpu(uuid, reason), keyed=keyed)

    def _recover_gpu(self, place: int, keyed: bool) -> None:
        uuid = list(self.model.gpus)[place]
        self.ask("POST", f"/gpus/{uuid}/recover", None, lambda: self.model.recover_gpu(uuid), keyed=keyed)

    def _book(self, nodes: list[str], begin_s: int, span_s: int, keyed: bool) -> None:
        start_us = self.model.now_us + begin_s * SECOND
        end_us = start_us + span_s * SECOND
        body = {"nodes": nodes, "start_at": moment(start_us), "end_at": moment(end_us)}

        def done(answer: Any) -> None:
            assert answer["id"] in self.model.bookings

        self.ask(
            "POST", "/bookings", body, lambda: self.model.book(nodes, start_us, end_us), done,
            status=201, keyed=keyed,
        )  # fmt: skip

    def _end_booking(self, place: int, keyed: bool) -> None:
        id = [*self.model.bookings, UNKNOWN][place % (len(self.model.bookings) + 1)]
        self.ask("DELETE", f"/bookings/{id}", None, lambda: self.model.end_booking(id), keyed=keyed)

    @precondition(lambda self: self.model.jobs)
    @rule(seconds=st.sampled_from([1, 70, 70, 70, 601, 7_300, 90_000]))
    def let_time_pass(self, seconds: int) -> None:
        """The next thing that is asked for makes the scheduler look at the clock."""
        self.clock.at_us += seconds * SECOND
        self.model.now_us = self.clock.at_us
        change = {"weight": 1, "kind": "account"}
        self.ask("PUT", "/shares/clock", change, lambda: self.model.set_share("clock", change))

    # --- again, and what was ------------------------------------------------------------------------------

    @precondition(lambda self: self.answered)
    @rule(place=places, same=st.booleans())
    def ask_again(self, place: int, same: bool) -> None:
        """Under a key that has been used: the same is answered as it was, anything else is refused."""
        key, method, path, body, first = self.answered[-1 - place % len(self.answered)]
        if not same and path == "/jobs":
            body = {**body, "comment": "another"}
        elif not same:
            method, path, body = "PUT", "/shares/clock", {"weight": 2, "kind": "account"}
        answer = self.run(self.client.ask(method, path, body, headers={"Idempotency-Key": key}))
        if not same:
            assert answer.status == 422, answer.body
            assert answer.json["type"].endswith("idempotency-key-reused")
        else:
            assert (answer.status, answer.headers["Idempotency-Replayed"]) == (first.status, "true")
            assert answer.json == self._as_erased(first.json, method, path)
            assert answer.headers.get("Location") == first.headers.get("Location")
            assert answer.headers.get("ETag") == first.headers.get("ETag")
        self.run(self._settle())

    def _as_erased(self, answer: Any, method: str, path: str) -> Any:
        """An earlier answer without what has been erased since; whoever submits it again still says it."""
        if path.startswith("/jobs/") and "environment" in answer:
            return {**answer, "environment": self.model.answer(self.model.job(answer["id"]))["environment"]}
        return answer

    @precondition(lambda self: self.model.jobs)
    @rule(place=places)
    def look_at_one(self, place: int) -> None:
        job = self._pick(place)
        for name in (job.id, job.name, str(job.number), job.id.upper()):
            answer = self.run(self.client.ask("GET", f"/jobs/{name}", status=200))
            assert answer.headers["ETag"] == f'"{job.version}"'
            self.compare(answer.json, job, live=True)
        events = self.run(self.client.get(f"/jobs/{job.id}/events"))["events"]
        assert [event["position"] for event in events] == job.positions
        why = self.run(self.client.get(f"/jobs/{job.id}/why"))
        assert why["state"] == job.state

    @precondition(lambda self: self.model.jobs)
    @rule(wanted=filters, limit=st.integers(1, 6))
    def look_through(self, wanted: dict[str, Any], limit: int) -> None:
        arrays = [job for job in self.model.jobs if job.tasks]
        place = wanted.get("array")
        if place is not None and not arrays:
            return
        if place is not None:
            wanted = {**wanted, "array": arrays[place % len(arrays)]}
        self.run(self._list(wanted, limit))

    @precondition(lambda self: self.model.jobs)
    @rule(place=st.integers(0, 1_000))
    def look_back(self, place: int) -> None:
        """What was answered of a moment is answered of it for ever; and nobody knows who is not there."""
        then = self.pictures[place % len(self.pictures)]
        assert pictured(self.run(self.client.get(f"/state?at={then['position']}"))) == then
        for name, status in (
            (UNKNOWN, 404),
            (len(self.model.jobs) + 1, 404),
            ("1_99", 404),
            ("no-such", 400),
        ):
            for method, tail in (("GET", ""), ("DELETE", ""), ("POST", "/requeue"), ("GET", "/why")):
                self.run(self.client.ask(method, f"/jobs/{name}{tail}", status=status))
        self.run(self._settle())

    @precondition(lambda self: self.model.jobs and self.model.epoch < 4)
    @rule()
    def restart(self) -> None:
        """It changes nothing of what is answered."""
        before = self.run(self._all_answers())
        self.run(self.scheduler.stop())
        self.run(self._start())
        self.run(self._settle())
        after = self.run(self._all_answers())
        assert after == before

    async def _all_answers(self) -> list[Any]:
        paths = ("/queue", "/queue/order", "/nodes", "/gpus", "/shares", "/bookings", "/policy")
        return [await self.client.get(path) for path in paths]


def expect(recorded: dict[str, Any], event: Event) -> None:
    """That what is in the log is this, as far as is said, and was asked for."""
    assert (recorded["type"], recorded["actor"]) == (event["type"], "owner"), (recorded, event)
    found = {name: recorded["payload"].get(name, LEFT_OUT.get(name)) for name in event if name != "type"}
    assert found == {name: value for name, value in event.items() if name != "type"}


LEFT_OUT = {
    "reason": "",
    "asked": {},
    "drain": False,
    "deadline_us": 0,
    "user": False,
    "max_gpus": -1,
    "guaranteed_gpus": 0,
}
"""What a field is that its event leaves out."""


def pictured(answer: dict[str, Any]) -> dict[str, Any]:
    """``GET /state`` as the model says it."""
    names = ("position", "epoch", "policy_version", "policy", "jobs", "queue")
    return {
        **{name: answer[name] for name in names},
        "waiting": sorted(one["number"] for one in answer["waiting"]),
        "holding": {
            one["number"]: (
                one["state"], one["attempt"], one["priority"], one["gpu_ids"], one["allocation_state"]
            )
            for one in answer["holding"]
        },
        "nodes": {
            one["name"]: (
                one["state"], one["reason"], one["by"], one["drain_by"], one["gpus"], one["cpu_cores_held"],
                one["memory_gb_held"], sorted(one["jobs"]), one["version"],
            )
            for one in answer["nodes"]
        },
        "shares": {
            (one["path"], one["kind"]): (
                one["weight"], one["parent"], -1 if one["max_gpus"] is None else one["max_gpus"],
                one["guaranteed_gpus"], one["gpus_held"], one["waiting"],
            )
            for one in answer["shares"]
        },
        "bookings": {one["id"]: (one["nodes"], one["start_at"], one["end_at"]) for one in answer["bookings"]},
    }  # fmt: skip


async def tell(fifo: str, code: int) -> None:
    """Give a process its exit code as soon as it asks for it."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while True:
        try:
            pipe = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
            break
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            assert asyncio.get_running_loop().time() < deadline, f"nobody asks at {fifo}"
            await asyncio.sleep(0.002)
    os.write(pipe, b"%d\n" % code)
    os.close(pipe)


def nothing() -> None:
    pass


def test_the_api_does_what_the_model_says(
    postgres: str, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Life, "postgres", postgres, raising=False)
    monkeypatch.setattr(Life, "template", template, raising=False)
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=LIVES or SUITE_LIVES,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=not LIVES,
            phases=[Phase.explicit, Phase.generate, *([Phase.shrink] if LIVES else [])],
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
