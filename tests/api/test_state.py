"""The system as it was: what is answered of a past moment is what was answered then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from horizon.api import past
from horizon.api import state as api_state
from horizon.api.app import CONTEXT
from horizon.core import state as core_state
from horizon.core.events import Recorded
from horizon.core.evolve import evolve
from horizon.core.state import State, digest, digested
from horizon.service.recovery import GivenUp, fold_until
from horizon.store.port import EventStore
from tests.api.client import Client
from tests.core.spec import given, node

LOOKS = (
    "/state", "/queue", "/queue/order?limit=2", "/nodes", "/gpus?node=node-1", "/shares",
    "/shares/research?kind=account", "/shares/compare?first=research&second=default",
)  # fmt: skip


def asked(path: str, at: object) -> str:
    return f"{path}{'&' if '?' in path else '?'}at={quote(str(at))}"


async def look(client: Client, at: object = None) -> dict[str, Any]:
    """All that does not change with time alone."""
    return {path: await client.get(path if at is None else asked(path, at)) for path in LOOKS[1:5]}


async def test_what_was_answered_at_a_moment_is_answered_of_it_for_ever(client: Client) -> None:
    gate = await client.gate()
    for user, account in (("bob", "default"), ("bob", "research"), ("carol", "research")):
        await client.submit(user_id=user, account=account, gpu_count=4, time_limit_s=60)
    jobs = client.scheduler.engine.state.numbered
    await client.scheduler.eventually(lambda: all(job.predicted_us for job in jobs[1:]), "a plan for each")
    changes: list[tuple[str, str, dict[str, Any] | None]] = [
        ("PUT", "/shares/research", {"weight": 3, "guaranteed_gpus": 2}),
        ("PUT", "/policy", {"order": "fifo"}),
        ("POST", "/bookings", {"nodes": ["node-1"], "start_at": "2999-01-01T00:00:00Z",
                               "end_at": "2999-01-02T00:00:00Z"}),
        ("POST", "/nodes/node-1/cordon", {"reason": "fans"}),
        ("POST", "/nodes/node-1/resume", None),
    ]  # fmt: skip
    live = []
    for method, path, body in changes:
        assert (await client.ask(method, path, body)).status < 300
        told, looked = await client.get("/state"), await look(client)
        state = client.scheduler.engine.state
        assert state.position == told["position"], "nothing has happened meanwhile"
        live.append((told, looked, digest(state)))
    await client.ask("DELETE", f"/jobs/{gate['id']}", status=200)
    for job in jobs[1:]:
        await client.scheduler.until(job.id, "Completed")
    for told, looked, its_digest in live:
        assert told["digest"] is None, "of what is changing there is none"
        assert await look(client, told["at"]) == looked
        assert await client.get(asked("/state", told["at"])) == told | {"digest": its_digest}
        assert await look(client, told["position"]) == looked
    orders = [[one["number"] for one in told["waiting"]] for told, _, _ in live]
    assert orders == [[3, 4, 2], *[[2, 3, 4]] * 4], "the policy changed the order"
    assert [len(told["bookings"]) for told, _, _ in live] == [0, 0, 1, 1, 1]
    assert [told["nodes"][0]["state"] for told, _, _ in live] == ["up"] * 3 + ["cordoned", "up"]
    assert [len(told["holding"][0]["gpu_ids"]) for told, _, _ in live] == [8] * 5


async def test_every_position_is_as_a_fold_up_to_it(client: Client) -> None:
    job = await client.submit()
    await client.scheduler.until(job["id"], "Completed")
    await client.scheduler.quiet()
    state, store = State(), client.scheduler.engine.store
    async for recorded in store.read(0):
        evolve(state, recorded)
        told = await client.get(f"/state?at={recorded.position}")
        assert (told["position"], told["digest"]) == (recorded.position, digest(state))
    before = await client.get("/state?at=1971-01-01T00:00:00Z")
    assert (before["position"], before["recorded_at"], before["digest"]) == (0, None, digest(State()))


async def test_what_is_in_memory_has_the_digest_of_the_log_or_none(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_state, "DIGEST_SLICE_S", 0.0)
    monkeypatch.setattr(core_state, "_DIGESTED_AT_ONCE", 1)  # so that it takes long, and others get a turn
    statuses: list[int] = []

    async def busy() -> None:
        while 503 not in statuses:
            await client.submit(hold=True)

    submitting = asyncio.gather(*(busy() for _ in range(4)))
    while 503 not in statuses or 200 not in statuses:
        told = await client.ask("GET", "/state?digest=true")
        statuses.append(told.status)
        if told.status == 200:
            then = await client.get(f"/state?at={told.json['position']}")
            assert told.json["digest"] == then["digest"]
    await submitting


async def test_a_digest_of_the_present_state_is_of_what_is_in_memory(client: Client) -> None:
    live = client.scheduler.engine.state
    live.policy_version += 1  # by no event
    told = await client.get("/state?digest=true")
    live.policy_version -= 1
    assert told["digest"] != (await client.get(f"/state?at={told['position']}"))["digest"]


async def test_when_cannot_be_asked_about_is_refused_everywhere(client: Client) -> None:
    for path in LOOKS:
        for at in ("0", "99999", "yesterday", "2030-01-01", "9999-12-31T23:00:00-14:00"):
            refused = await client.ask("GET", asked(path, at), status=422)
            assert [fault["parameter"] for fault in refused.json["errors"]] == ["at"]


async def test_one_fold_answers_all_who_ask_about_one_position(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.submit(hold=True)
    store, reads = client.scheduler.engine.store, list[int]()
    read = store.read

    def counted(
        after: int, limit: int | None = None, previous: bytes | None = None
    ) -> AsyncIterator[Recorded]:
        reads.append(after)
        return read(after, limit, previous)

    head = client.scheduler.engine.state.position
    (event,) = (await client.get(f"/events?after={head - 1}"))["events"]
    monkeypatch.setattr(store, "read", counted)
    paths = [asked(path, head) for path in LOOKS[:6]] + [asked("/shares", event["recorded_at"])]
    await asyncio.gather(*(client.get(path) for path in paths))
    assert reads == [0]
    await client.get(f"/state?at={head - 1}")
    assert reads == [0, 0]


class Folds:
    """Stands before the folding of the past: each waits to be let go on, or to be given up."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.given_up: list[int] = []
        self.goes_on = asyncio.Event()

    async def fold(
        self, store: EventStore, head: int, at: int, snapshots: object, wanted: Callable[[], bool]
    ) -> State:
        self.begun.append(at)
        while not self.goes_on.is_set():
            if not wanted():
                self.given_up.append(at)
                raise GivenUp
            await asyncio.sleep(0.001)
        return await fold_until(store, head, at)


@pytest.fixture
def folds(monkeypatch: pytest.MonkeyPatch) -> Folds:
    folds = Folds()
    monkeypatch.setattr(past, "fold_until", folds.fold)
    return folds


async def test_a_fold_that_nobody_waits_for_any_more_is_given_up(client: Client, folds: Folds) -> None:
    await client.submit(hold=True)
    http = client.scheduler.http
    impatient = [asyncio.ensure_future(http.get(f"/api/v1/state?at={at}")) for at in (1, 2, 3)]
    await client.scheduler.eventually(lambda: folds.begun == [1], "the first is folded")
    patient = asyncio.ensure_future(client.get("/queue?at=3"))
    asking = client.scheduler.runner.app[CONTEXT].past._asking
    await client.scheduler.eventually(lambda: len(asking) == 4, "all ask")
    for one in impatient:
        one.cancel()
    await client.scheduler.eventually(lambda: folds.begun == [1, 3], "for 2 nobody waits")
    assert folds.given_up == [1], "of those who ask about 3 one is still there"
    folds.goes_on.set()
    assert (await patient)["total"] == 0
    assert not asking


async def test_only_so_many_wait_for_the_past(
    client: Client, folds: Folds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(past, "ASKING_MAX", 2)
    asking = [asyncio.ensure_future(client.get(f"/queue?at={at}")) for at in (1, 2)]
    await client.scheduler.eventually(lambda: folds.begun == [1], "the first is folded")
    refused = await client.ask("GET", "/queue?at=1", status=503)
    assert refused.headers["Retry-After"] == "5"
    assert "too many ask about the past" in refused.json["detail"]
    folds.goes_on.set()
    await asyncio.gather(*asking)
    await client.get("/queue?at=1")


async def test_a_past_state_is_not_kept_for_ever(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(past, "KEPT_S", 0.0)
    kept = client.scheduler.runner.app[CONTEXT].past
    await client.get("/state?at=1")
    await client.scheduler.eventually(lambda: kept._state is None, "it is forgotten")
    assert (await client.get("/state?at=1"))["position"] == 1


def test_the_pieces_of_a_digest_are_one_array_of_msgpack() -> None:
    world = given(node())
    for _ in range(1_100):
        world.submit()
    whole = b"".join(digested(world.state))
    decoded = msgspec.msgpack.decode(whole)
    assert 1_100 in [len(part) for part in decoded if isinstance(part, list)]
    assert msgspec.msgpack.encode(decoded, order="sorted") == whole
