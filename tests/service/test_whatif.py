"""The log once more: under the recorded settings it gives the record; under others it keeps every rule, and
what came from outside is as it was."""

from __future__ import annotations

import random
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core.audit import fault
from horizon.core.evolve import evolve
from horizon.core.model import Exit, Priority
from horizon.core.policy import Order, Policy
from horizon.core.state import State, digest
from horizon.executors.inventory import simulated
from horizon.executors.local import LocalExecutor
from horizon.service import whatif
from horizon.service.clock import Ids, SystemClock
from horizon.service.course import Bounds, Course, End, course_of, fared, simulation_of
from horizon.service.engine import _WORTH_A_CYCLE, Engine
from horizon.service.simulator import Hardware
from horizon.service.supposition import BadSupposition, SupposedShare, Supposition, nodes_like
from horizon.service.whatif import WhatIf, what_if
from horizon.store.memory import Log, MemoryStore
from tests.core.spec import BAD, OK, SECOND, T0, World, given, node
from tests.core.worlds import Life, live
from tests.service.history import GPUS, NODES, History
from tests.service.test_engine import ask, submission, until

LIVES = 12
"""Random lives that are gone through once more here."""
HISTORIES = 25

NOTHING = Supposition()

known = cache(live)


@cache
def history(seed: int) -> World:
    return History(seed).run()


def again(world: World, supposition: Supposition = NOTHING, since_us: int = 0) -> WhatIf:
    return what_if(world.log, course_of(world.log), supposition, since_us)


def told(course: Course, names: dict[str, str] | None = None) -> dict[str, Any]:
    """When and where every attempt of every job was, with nodes under other names."""
    names = names or {}
    return {
        life.name: (
            life.state,
            life.ended_us,
            [
                (
                    one.scheduled_us,
                    one.started_us,
                    tuple(one.saved_us),
                    one.ended_us,
                    one.released_us,
                    one.end,
                    [(names.get(part.node, part.node), _slots(part.gpu_ids)) for part in one.allocation],
                )
                for one in life.attempts
            ],
        )
        for life in course.lives.values()
    }


def _slots(gpu_ids: tuple[str, ...]) -> list[str]:
    return [uuid.rpartition("-")[2] for uuid in gpu_ids]


# --- the recorded settings give the record ------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(LIVES))
def test_the_recorded_settings_give_the_recorded_schedule_of_random_lives(seed: int) -> None:
    world = known(seed).world
    for supposition in (
        NOTHING,
        Supposition(shares={path: SupposedShare() for path in course_of(world.log).accounts}),
    ):
        found = again(world, supposition)
        assert found.diverged == 0, f"seed {seed}: event {found.diverged} was not decided again"
        assert digest(found.state) == digest(world.state), f"seed {seed}"
        assert told(found.course) == told(course_of(world.log)), f"seed {seed}"


async def test_the_recorded_settings_give_the_recorded_schedule_of_a_real_engine(tmp_path: Path) -> None:
    """Real processes, group commits, and cycles whenever the engine came to it."""
    log, clock, chance = Log(), SystemClock(), random.Random(4)
    engine = Engine(MemoryStore(log), LocalExecutor(tmp_path, simulated("4xH100")), clock, Ids(clock))
    await engine.start()
    try:
        await ask(engine, cmd.SetPolicy(Policy(min_runtime_s=0)))
        for number in range(30):
            one = submission(
                engine,
                chance.choice(("true", "false", "sleep 0.05", "sleep 0.1")),
                user_id=chance.choice(("ann", "bob")),
                gpu_count=chance.choice((1, 1, 2, 4)),
                priority=Priority.URGENT if number % 10 == 9 else Priority.NORMAL,
                preemptible=chance.random() < 0.5,
                max_retries=number % 2,
                time_limit_s=60,
            )
            await ask(engine, one)
        await ask(engine, cmd.Cancel(engine.state.numbered[-1].id))
        await until(lambda: all(job.state.ended for job in engine.state.numbered))
        await until(lambda: not engine.state.holding)
    finally:
        await engine.stop()
    recorded = course_of(log.events)
    found = what_if(log.events, recorded, NOTHING)
    assert found.diverged == 0
    assert found.cycles > 10
    assert told(found.course) == told(recorded)
    assert digest(found.state) == digest(engine.state)


@pytest.mark.parametrize("fives", range(HISTORIES // 5))
def test_the_same_cluster_under_other_names_gives_the_recorded_schedule(fives: int) -> None:
    """Nothing is followed here: every attempt goes as its job's script says, and every decision is new."""
    names = {f"what-if-{number}": f"node-{number}" for number in range(1, NODES + 1)}
    for seed in range(5 * fives, 5 * fives + 5):
        world = history(seed)
        found = again(world, Supposition(cluster=Hardware(NODES, GPUS)))
        assert found.diverged == 1
        assert (found.refused, found.guessed, found.impossible) == (0, (), ())
        assert told(found.course, names) == told(course_of(world.log)), f"seed {seed}"


def test_the_histories_have_everything_in_them_that_is_modelled() -> None:
    kinds = {one.type for seed in range(HISTORIES) for one in history(seed).log}
    assert kinds >= {
        "JobPreempted", "CheckpointRecorded", "JobRequeued", "TimeLimitReached", "JobCancelled", "JobUpdated",
        "JobFailed", "JobReleased",
    }  # fmt: skip


def test_what_was_in_force_gives_the_record_however_it_is_said() -> None:
    """Settings are compared by what they decide: another half-life that changes nothing is no difference."""
    world = two_orders()
    found = again(world, Supposition({"order": Order.FAIR, "half_life_s": 60}, {"default": SupposedShare(3)}))
    assert found.diverged == 0
    assert told(found.course) == told(course_of(world.log))


def test_a_cycle_follows_what_it_follows_in_the_engine() -> None:
    assert not whatif._QUIET & _WORTH_A_CYCLE
    assert whatif._QUIET | _WORTH_A_CYCLE | {ev.JobSubmitted} == set(ev.EVENT_TYPES)


# --- whatever is otherwise, no rule is broken ---------------------------------------------------------------


@pytest.mark.parametrize("seed", range(LIVES))
def test_every_event_of_what_might_have_been_is_legal(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    life = known(seed)
    log, chance = life.world.log, random.Random(seed)
    course = course_of(log)
    watched: list[State] = []

    def evolve_audited(state: State, recorded: ev.Recorded) -> None:
        if not watched:
            watched.append(state)
        wrong = fault(state, recorded) if state is watched[0] else None
        expected = wrong is None or "election of its leader" in wrong or "the policy goes" in wrong
        assert expected, f"seed {seed}: {wrong}"
        evolve(state, recorded)

    monkeypatch.setattr(whatif, "evolve", evolve_audited)
    for since_us in (0, log[len(log) // 2].recorded_at_us):
        watched.clear()
        supposition = _some_supposition(life, course, chance)
        try:
            found = what_if(log, course, supposition, since_us)
        except BadSupposition:
            continue
        _no_gpu_is_held_twice(found.course)
        assert [(life.name, life.submitted_us) for life in found.course.lives.values()] == [
            (life.name, life.submitted_us) for life in course.lives.values()
        ]


def _some_supposition(life: Life, course: Course, chance: random.Random) -> Supposition:
    policy = life._policy()
    fields = chance.sample(Policy.__struct_fields__, 4)
    paths = chance.sample(sorted(course.accounts), min(2, len(course.accounts)))
    cluster = Hardware(2, 4, "H100") if course.inventories and chance.random() < 0.3 else None
    shares = {
        path: SupposedShare(
            chance.randint(1, 9), chance.choice((None, -1, 4, 8)), chance.choice((None, 0, 2))
        )
        for path in paths
    }
    return Supposition({field: getattr(policy, field) for field in fields}, shares, cluster)


def _no_gpu_is_held_twice(course: Course) -> None:
    held: dict[str, list[tuple[int, int]]] = {}
    for life in course.lives.values():
        for attempt in life.attempts:
            for part in attempt.allocation:
                for uuid in part.gpu_ids:
                    span = (attempt.scheduled_us, attempt.released_us or course.last_us + 1)
                    held.setdefault(uuid, []).append(span)
    for uuid, spans in held.items():
        spans.sort()
        for (_, end_us), (begin_us, _) in pairwise(spans):
            assert end_us <= begin_us, f"{uuid} is given out twice"


# --- by hand ------------------------------------------------------------------------------------------------


def at(world: World, second: float) -> World:
    world.now_us = T0 + int(second * SECOND)
    return world


def run_now(world: World, *numbers: int) -> World:
    """A cycle, and the processes of these jobs run at once."""
    world.cycle()
    for number in numbers:
        world.started(number)
    return world


def starts(found: WhatIf | Course) -> dict[str, list[float]]:
    """When each job's attempts were placed, in seconds."""
    course = found.course if isinstance(found, WhatIf) else found
    return {
        life.name: [(attempt.scheduled_us - T0) / SECOND for attempt in life.attempts]
        for life in course.lives.values()
    }


def ends(found: WhatIf) -> dict[str, tuple[str, float]]:
    return {
        life.name: (life.state.value, (life.ended_us - T0) / SECOND if life.ended_us else 0.0)
        for life in found.course.lives.values()
    }


FIFO = Supposition({"order": Order.FIFO})


def two_orders() -> World:
    """On one GPU: alice's job 1 runs from 0 to 100, her job 2 comes at 10, bob's job 3 at 20. The fair order
    takes bob's first, for 50 s. Beside them job 4, on a GPU of its own, from 5 to 400."""
    world = given(node(gpus=1, gpu_type="A"), node("node-2", 1, "B"))
    run_now(world.submit(gpu_type="A"), 1)
    at(world, 5).submit("carl", gpu_type="B")
    run_now(world, 2)
    run_now(at(world, 10).submit(gpu_type="A"))
    run_now(at(world, 20).submit("bob", gpu_type="A"))
    at(world, 100).ended(1)
    run_now(world, 4)
    at(world, 150).ended(4)
    run_now(world, 3)
    at(world, 180).ended(3, BAD)
    at(world, 400).ended(2)
    return world


def test_another_order_swaps_two_jobs_and_leaves_the_rest_as_it_was() -> None:
    world = two_orders()
    recorded = course_of(world.log)
    assert starts(recorded) == {"1": [0], "2": [5], "3": [150], "4": [100]}
    found = again(world, FIFO)
    assert starts(found) == {"1": [0], "2": [5], "3": [100], "4": [130]}
    assert ends(found) == {
        "1": ("Completed", 100), "2": ("Completed", 400), "3": ("Failed", 130), "4": ("Completed", 180)
    }  # fmt: skip
    assert found.diverged_us == T0 + 100 * SECOND
    assert world.log[found.diverged - 1].type == "JobScheduled"
    assert (found.refused, found.guessed) == (0, ())


def test_from_a_moment_on_things_are_otherwise_and_before_it_they_were_as_recorded() -> None:
    world = two_orders()
    assert starts(again(world, FIFO, T0 + 101 * SECOND)) == starts(course_of(world.log))
    assert starts(again(world, FIFO, T0 + 30 * SECOND)) == starts(again(world, FIFO))


def test_what_the_record_never_tried_is_tried_where_nothing_was_recorded() -> None:
    """A strict order keeps job 3 waiting though there is room, and no cycle says anything for 90 s."""
    world = given(node(gpus=2)).policy(strict=True)
    run_now(world.submit(), 1)
    at(world, 5).submit("bob", gpu_count=2).cycle()
    at(world, 10).submit("carl").cycle()
    at(world, 100).ended(1)
    run_now(world, 2)
    at(world, 200).ended(2)
    run_now(world, 3)
    at(world, 300).ended(3)
    found = again(world, Supposition({"strict": False, "reservation_depth": 0}))
    assert starts(found) == {"1": [0], "2": [110], "3": [10]}
    assert found.diverged_us == T0 + 10 * SECOND


def test_time_alone_may_make_the_difference() -> None:
    """A strict order keeps ann's job 2 behind bob's, which needs both GPUs. With 60 s of patience the eldest
    goes first; nothing at all is recorded at that moment."""
    world = given(node(gpus=2)).policy(strict=True, patience_s=0)
    run_now(world.submit("ann"), 1)
    at(world, 1).submit("ann").submit("bob", gpu_count=2).cycle()
    at(world, 200).ended(1)
    run_now(world, 3)
    at(world, 210).ended(3)
    run_now(world, 2)
    at(world, 220).ended(2)
    assert starts(course_of(world.log)) == {"1": [0], "2": [210], "3": [200]}
    found = again(world, Supposition({"patience_s": 60}))
    assert starts(found) == {"1": [0], "2": [61], "3": [200]}
    assert found.diverged_us == T0 + 61 * SECOND


def test_a_weight_and_a_quota_hold_whatever_is_set_meanwhile() -> None:
    world = given(node(gpus=2)).when(cmd.SetShare("a", 5, user=False))
    for number in (1, 2):
        run_now(world.submit("ann", account="a"), number)
    world.when(cmd.SetShare("a", 7, max_gpus=2))
    for number in (1, 2):
        at(world, 10 * number).ended(number).cycle()
    found = again(world, Supposition(shares={"a": SupposedShare(weight=2, max_gpus=1)}))
    assert starts(found) == {"1": [0], "2": [10]}
    share = found.state.accounts["a"]
    assert (found.state.queue.weight(share.id), share.max_gpus) == (2, 1)


def test_the_fields_of_a_policy_hold_whatever_else_is_set_meanwhile() -> None:
    world = two_orders().policy(patience_s=5)
    found = again(world, FIFO)
    assert (found.state.policy.order, found.state.policy.patience_s) == (Order.FIFO, 5)
    assert found.state.policy_version == world.state.policy_version


def test_from_a_moment_on_another_cluster_takes_all_that_comes_and_what_runs_stays_where_it_is() -> None:
    world = given(node(gpus=2))
    run_now(world.submit("ann"), 1)
    run_now(at(world, 50).submit("bob"), 2)
    at(world, 60).ended(2)
    at(world, 100).ended(1)
    found = again(world, Supposition(cluster=Hardware(1, 1)), T0 + 20 * SECOND)
    where = {
        life.spec.user_id: [(one.allocation[0].node, (one.ended_us - T0) / SECOND) for one in life.attempts]
        for life in found.course.lives.values()
    }
    assert where == {"ann": [("node-1", 100)], "bob": [("what-if-1", 60)]}


# --- how long attempts run ----------------------------------------------------------------------------------


ROOM = Supposition(cluster=Hardware(1, 2))
"""A second GPU, where the record has one."""


def test_a_failure_comes_again_after_the_same_work_and_so_does_the_retry() -> None:
    world = given(node(gpus=1)).policy(retry_backoff_s=1)
    run_now(world.submit("zoe"), 1)
    at(world, 5).submit("ann", max_retries=1).cycle()
    at(world, 50).ended(1)
    run_now(world, 2)
    at(world, 60).ended(2, BAD)
    at(world, 61).cycle()
    run_now(at(world, 70), 2)
    at(world, 101).ended(2)
    found = again(world, ROOM)
    assert starts(found) == {"1": [0], "2": [5, 16]}
    life = list(found.course.lives.values())[1]
    assert [attempt.exit for attempt in life.attempts] == [BAD, OK]
    assert ends(found)["2"][0] == "Completed"


def test_a_cancel_comes_when_it_came_and_until_then_the_job_runs() -> None:
    world = given(node(gpus=1))
    run_now(world.submit("zoe"), 1)
    at(world, 5).submit("ann").cycle()
    at(world, 50).ended(1)
    run_now(world, 2)
    at(world, 60).when(cmd.Cancel(world.job(2).id))
    at(world, 62).ended(2, Exit(signal=15))
    found = again(world, ROOM)
    assert ends(found)["2"] == ("Cancelled", 60)
    assert starts(found)["2"] == [5]
    assert found.course.lives[world.job(2).id].attempts[0].released_us == T0 + 62 * SECOND


def test_what_ran_when_the_log_ended_runs_on_and_what_never_ran_is_guessed() -> None:
    """Job 3 never ran: bob's other job took 20 s. Job 4 is dan's, of whom nothing is known but its limit."""
    world = given(node(gpus=1))
    run_now(world.submit("bob"), 1)
    at(world, 20).ended(1)
    run_now(world.submit("ann"), 2)
    at(world, 21).submit("bob").submit("dan", time_limit_s=30).cycle()
    at(world, 100).when(cmd.CordonNode("node-1"))
    found = again(world, Supposition(cluster=Hardware(1, 3)))
    assert starts(found) == {"1": [0], "2": [20], "3": [21], "4": [21]}
    assert ends(found) == {
        "1": ("Completed", 20), "2": ("Running", 0), "3": ("Completed", 41), "4": ("Completed", 51)
    }  # fmt: skip
    assert found.guessed == ("3", "4")


def test_an_interrupted_job_runs_its_whole_work_when_nobody_interrupts_it() -> None:
    """Saved after 30 s, preempted after 40, done 60 s into its second attempt: 90 s of work."""
    world = given(node(gpus=1)).policy(min_runtime_s=0)
    run_now(world.submit("ann", preemptible=True), 1)
    at(world, 30).when(cmd.Checkpoint(world.job(1).id))
    at(world, 40).submit("bob", priority=Priority.URGENT).cycle()
    world.ended(1, Exit(signal=15))
    run_now(world, 2)
    at(world, 50).ended(2)
    run_now(world, 1)
    at(world, 110).ended(1)
    assert [attempt.end for attempt in course_of(world.log).lives[world.job(1).id].attempts] == [
        End.STOPPED, End.OWN
    ]  # fmt: skip
    found = again(world, Supposition({"preemption": False}))
    assert starts(found) == {"1": [0], "2": [90]}
    assert ends(found) == {"1": ("Completed", 90), "2": ("Completed", 100)}


def test_a_job_that_is_interrupted_only_in_what_might_have_been_goes_on_from_what_it_had_saved() -> None:
    world = given(node(gpus=1)).policy(preemption=False, min_runtime_s=0)
    run_now(world.submit("ann", preemptible=True, grace_period_s=0), 1)
    at(world, 30).when(cmd.Checkpoint(world.job(1).id))
    at(world, 40).submit("bob", priority=Priority.URGENT).cycle()
    at(world, 90).ended(1)
    run_now(world, 2)
    at(world, 100).ended(2)
    at(world, 200).when(cmd.CordonNode("node-1"))
    found = again(world, Supposition({"preemption": True}))
    assert starts(found) == {"1": [0, 50], "2": [40]}
    assert ends(found) == {"1": ("Completed", 110), "2": ("Completed", 50)}
    assert found.course.lives[world.job(1).id].lost_gpu_us == 10 * SECOND


def test_who_is_being_stopped_when_the_courses_part_is_gone_when_it_was() -> None:
    """Job 1 is asked to make way at 40 and gone at 45; at 42 the next on the other GPU is another."""
    world = given(node(gpus=1, gpu_type="A"), node("node-2", 1, "B")).policy(min_runtime_s=0)
    world.submit("ann", gpu_type="A", preemptible=True).submit("carl", gpu_type="B")
    run_now(world, 1, 2)
    at(world, 10).submit("carl", gpu_type="B").cycle()
    at(world, 20).submit("dan", gpu_type="B").cycle()
    at(world, 40).submit("bob", gpu_type="A", priority=Priority.URGENT).cycle()
    assert world.stops() == [(1, 5)]
    at(world, 42).ended(2)
    run_now(world, 4)
    at(world, 45).ended(1, Exit(signal=15))
    run_now(world, 5)
    at(world, 50).ended(5)
    run_now(world, 1)
    at(world, 60).when(cmd.SetShare("default", 2))
    found = again(world, FIFO)
    assert found.diverged_us == T0 + 42 * SECOND
    assert starts(found) == {"1": [0, 50], "2": [0], "3": [42], "4": [], "5": [45]}


def test_who_was_stopped_at_its_time_limit_would_have_gone_on() -> None:
    world = given(node(gpus=1))
    run_now(world.submit("zoe"), 1)
    at(world, 5).submit("ann", time_limit_s=20).cycle()
    at(world, 50).ended(1)
    run_now(world, 2)
    at(world, 70).cycle()
    at(world, 71).ended(2, Exit(signal=15))
    assert ends(again(world, ROOM))["2"] == ("Failed", 26)


def test_an_accident_befalls_whoever_has_those_gpus() -> None:
    world = two_orders_until_lost()
    found = again(world, FIFO)
    [bob] = [life for life in found.course.lives.values() if life.spec.user_id == "bob"]
    [_, second] = [life for life in found.course.lives.values() if life.spec.user_id == "alice"]
    assert [attempt.end for attempt in second.attempts] == [End.ACCIDENT]
    assert [attempt.scheduled_us for attempt in bob.attempts] == [T0 + 120 * SECOND]


def two_orders_until_lost() -> World:
    """As above; but the attempt of bob's job vanishes at 120, and its place is there again."""
    world = given(node(gpus=1))
    run_now(world.submit(), 1)
    at(world, 10).submit().cycle()
    at(world, 20).submit("bob").cycle()
    at(world, 100).ended(1)
    run_now(world, 3)
    at(world, 120).ended(3, Exit(error="vanished"), lost=True)
    at(world, 121).cycle()
    at(world, 125).when(cmd.SetShare("default", 2))
    return world


def test_what_people_asked_for_and_cannot_be_is_counted() -> None:
    """Job 2 was held while it waited; what if it had run by then?"""
    world = given(node(gpus=1))
    run_now(world.submit("zoe"), 1)
    at(world, 5).submit("ann").cycle()
    at(world, 10).when(cmd.Update(world.job(2).id, hold=True))
    at(world, 20).when(cmd.Update(world.job(2).id, hold=False))
    at(world, 50).ended(1)
    run_now(world, 2)
    at(world, 60).ended(2)
    found = again(world, ROOM)
    assert starts(found)["2"] == [5]
    assert found.refused == 2  # it had started, and when it was to be released it had ended


# --- what cannot be -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"nowhere": SupposedShare(2)}, "nobody in this log has run under nowhere"),
        ({"default/alice": SupposedShare(max_gpus=2)}, "default/alice is a user: quotas are for accounts"),
        ({"default": SupposedShare(max_gpus=1)}, "cannot be guaranteed 2 GPUs and hold 1 at most"),
    ],
)
def test_what_no_share_of_this_log_can_be_is_told(shares: dict[str, SupposedShare], message: str) -> None:
    world = two_orders().when(cmd.SetShare("default", guaranteed_gpus=2))
    with pytest.raises(BadSupposition, match=message):
        again(world, Supposition(shares=shares))


def test_another_cluster_is_made_like_the_recorded_nodes() -> None:
    small = node("small", 2, "A100", cpu_cores=16, memory_mib=2_048, labels={"disk": "ssd", "rack": "r1"})
    large = node("large", 8, labels={"disk": "ssd", "rack": "r2"})
    [one, _] = nodes_like(Hardware(2, 4), [small, large])
    assert (one.cpu_cores, one.memory_mib, one.labels) == (64, 1 << 19, {"disk": "ssd"})
    assert {(device.gpu_type, device.memory_mib) for device in one.devices} == {("H100", 81_559)}
    [other] = nodes_like(Hardware(1, 4, "a100"), [small, large])
    assert (other.cpu_cores, other.memory_mib) == (32, 4_096)
    with pytest.raises(BadSupposition, match="no node in this log has a GPU"):
        list(nodes_like(Hardware(1, 1), [node(gpus=0)]))


def test_jobs_that_another_cluster_can_never_hold_are_named() -> None:
    found = again(two_orders(), Supposition(cluster=Hardware(1, 1, "A")))
    assert found.impossible == ("2",)


# --- the numbers --------------------------------------------------------------------------------------------


def test_the_numbers_of_a_course_by_hand() -> None:
    """Two nodes of a GPU each, from 0 to 400: jobs 1, 4 and 3 hold one for 180 s, job 2 the other for 395."""
    course = course_of(two_orders().log)
    found = fared(course, Bounds(T0, T0 + 401 * SECOND, course.last_us))
    assert (found.counted, found.jobs, found.preemptions) == (4, 4, 0)
    assert (found.wait_s.mean, found.wait_s.max) == ((0 + 0 + 140 + 80) / 4, 140)
    assert found.utilisation == (180 + 395) / (2 * 400)
    assert found.gpu_h == (180 + 395) / 3_600
    assert [(one.user, one.jobs, one.gpu_s) for one in found.fairness.users] == [
        ("carl", 1, 395), ("alice", 2, 130), ("bob", 1, 50)
    ]  # fmt: skip
    drawn = simulation_of(course, Bounds(T0, T0 + 401 * SECOND, course.last_us))
    assert [(one.wait_s, one.job.run_s) for one in drawn.ran] == [(0, 100), (0, 395), (140, 30), (80, 50)]


def test_only_jobs_of_the_time_asked_for_count_and_who_waits_in_the_end_has_waited_until_then() -> None:
    world = two_orders()
    at(world, 450).submit("dan", gpu_type="C").cycle()
    at(world, 500).policy(patience_s=1)
    course = course_of(world.log)
    late = fared(course, Bounds(T0 + 20 * SECOND, T0 + 501 * SECOND, course.last_us))
    assert (late.counted, late.jobs, late.wait_s.max) == (2, 1, 80)
    assert fared(course, Bounds(T0, T0 + 10 * SECOND, course.last_us)).counted == 2


def test_progress_is_told_along_the_log() -> None:
    said: list[int] = []
    world = two_orders()
    what_if(world.log, course_of(world.log), FIFO, progress=said.append)
    assert said == [len(world.log)]
