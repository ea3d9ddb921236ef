"""How much an account may hold, and what it is sure to get. Reclaim itself is in ``test_preemption``."""

from __future__ import annotations

from typing import Any

import pytest

from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core.explain import explainer
from horizon.core.model import Exit, Priority
from tests.core.spec import World, given, job_id, node


def bound(world: World, path: str = "red", **fields: Any) -> World:
    return world.when(cmd.SetShare(path, **fields))


def held(world: World, path: str = "red") -> int:
    return world.state.accounts[path].gpus_held


def test_an_account_never_holds_more_gpus_than_it_may() -> None:
    world = bound(given(), max_gpus=3).submit("a", account="red", gpu_count=2)
    world.submit("b", account="red", gpu_count=2).submit("c", account="red")
    assert world.cycle().starts() == [1, 3]
    assert held(world) == 3
    world.check()


def test_a_bound_counts_for_all_accounts_below_it_together() -> None:
    world = bound(given(), "lab", max_gpus=4)
    world.submit(account="lab/nlp", gpu_count=3).submit(account="lab/vision", gpu_count=2)
    world.submit(account="lab", gpu_count=1).submit(account="shop", gpu_count=2)
    assert sorted(world.cycle().starts()) == [1, 3, 4]
    assert held(world, "lab") == 4
    world.check()


def test_the_tightest_bound_on_the_way_up_decides() -> None:
    world = bound(bound(given(), "lab", max_gpus=8), "lab/nlp", max_gpus=1)
    world.submit(account="lab/nlp").submit(account="lab/nlp").submit(account="lab")
    assert sorted(world.cycle().starts()) == [1, 3]
    world.check()


def test_who_waits_for_a_quota_holds_nobody_up_and_reserves_nothing() -> None:
    world = bound(given(), max_gpus=0).submit(account="red", gpu_count=8).submit(account="blue", gpu_count=8)
    assert world.cycle().starts() == [2]
    assert world.last_cycle.reservations == ()
    [scheduled] = world.happened
    assert isinstance(scheduled, ev.JobScheduled)
    assert scheduled.cause is ev.Cause.PRIORITY
    world.check()


def test_a_job_that_waits_for_a_quota_is_told_whose() -> None:
    world = bound(given(), "lab", max_gpus=2).submit(account="lab/nlp").cycle()
    world.submit(account="lab/nlp", gpu_count=2).cycle()
    assert explainer(world.state, world.last_cycle, world.now_us)(world.job(2)) == (
        "waits for the quota of lab: it holds 1 of at most 2 GPUs, and the job asks for 2"
    )
    world.check()


def test_what_is_still_being_released_is_still_held() -> None:
    world = bound(given(), max_gpus=1).submit(account="red").submit(account="red").cycle().started()
    world.ended(released=False).cycle().then_no_start()
    world.when(cmd.ReportReleased(job_id(1), 1))
    assert world.cycle().starts() == [2]
    world.check()


def test_a_bound_set_below_what_is_held_stops_nobody_and_lets_nothing_new_start() -> None:
    world = given().submit(account="red", gpu_count=4, preemptible=True).cycle().started().later(100)
    bound(world, max_gpus=2).submit(account="red").cycle().then_nothing()
    assert held(world) == 4
    world.ended()
    assert world.cycle().starts() == [2]
    world.check()


def test_a_bound_that_is_taken_away_binds_no_more() -> None:
    world = bound(given(), max_gpus=1).submit(account="red", gpu_count=2).cycle().then_nothing()
    bound(world, max_gpus=-1).then(ev.QuotaSet(path="red"))
    assert world.cycle().starts() == [1]
    world.check()


def test_a_cpu_job_counts_for_no_quota_of_gpus() -> None:
    world = bound(given(), max_gpus=0).submit(account="red", gpu_count=0, cpu_cores=4)
    assert world.cycle().starts() == [1]
    world.check()


def test_a_cpu_job_starts_though_its_account_holds_more_gpus_than_it_now_may() -> None:
    world = given().submit(account="red", gpu_count=4).cycle().started()
    bound(world, max_gpus=2).submit(account="red", gpu_count=0, cpu_cores=4)
    assert world.cycle().starts() == [2]
    world.check()


def test_a_job_larger_than_its_accounts_bound_is_taken_and_waits() -> None:
    world = bound(given(), max_gpus=2).submit(account="red", gpu_count=4).then(ev.JobSubmitted)
    world.cycle().then_nothing()
    bound(world, max_gpus=4)
    assert world.cycle().starts() == [1]
    world.check()


def test_idle_gpus_that_are_guaranteed_to_others_may_be_used_meanwhile() -> None:
    world = bound(given(), guaranteed_gpus=8).submit(account="blue", gpu_count=8)
    assert world.cycle().starts() == [1]
    world.check()


def test_a_job_that_its_quota_keeps_waiting_makes_nobody_stop() -> None:
    world = given(node(gpus=4)).submit(account="blue", gpu_count=4, preemptible=True).cycle().started()
    bound(world.later(100), max_gpus=2).submit(account="red", gpu_count=4, priority=Priority.URGENT)
    world.cycle().then_nothing()
    world.check()


# --- asking for it ------------------------------------------------------------------------------------


def test_a_field_left_out_stays_as_it_is() -> None:
    world = bound(given(), max_gpus=8, guaranteed_gpus=4)
    bound(world, max_gpus=6).then(ev.QuotaSet(path="red", max_gpus=6, guaranteed_gpus=4))
    bound(world, guaranteed_gpus=2).then(ev.QuotaSet(path="red", max_gpus=6, guaranteed_gpus=2))
    world.check()


def test_a_quota_that_changes_nothing_is_no_event() -> None:
    world = bound(given(), max_gpus=8).then(ev.QuotaSet)
    bound(world, max_gpus=8).then_nothing()
    bound(given(), max_gpus=-1, guaranteed_gpus=0).then_nothing()
    world.check()


@pytest.mark.parametrize("fields", [{"max_gpus": 2, "guaranteed_gpus": 3}, {"max_gpus": 1}])
def test_an_account_cannot_be_guaranteed_more_than_it_may_hold(fields: dict[str, int]) -> None:
    world = bound(given(), guaranteed_gpus=2)
    bound(world, **fields).then_refused("cannot be guaranteed")
    assert world.refused is not None
    assert world.refused.pointer == "/guaranteed_gpus"
    world.check()


def test_a_quota_is_for_accounts_and_not_for_users() -> None:
    world = given().submit("ann", account="red")
    bound(world, "red/ann", max_gpus=1).then_refused("quotas are for accounts")
    world.check()


def test_a_job_that_was_requeued_holds_nothing_of_its_quota() -> None:
    world = bound(given(), max_gpus=1).policy(retry_backoff_s=60)
    world.submit(account="red", max_retries=1).submit(account="red").cycle().started()
    world.ended(exit=Exit(exit_code=1)).then(ev.JobRequeued, ev.AllocationReleased)
    assert world.cycle().starts() == [2]
    world.check()
