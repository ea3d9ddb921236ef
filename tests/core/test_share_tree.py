"""Whose turn it is: the tree of accounts and users, what they used and hold, and what an operator may set."""

from __future__ import annotations

import pytest

from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core.model import Priority
from tests.core.spec import World, given, job_id, node

HOUR = 3_600
DAY = 24 * HOUR


def used(world: World, user_id: str, account: str = "default", gpus: int = 1, seconds: float = HOUR) -> World:
    """The user held so many GPUs for so long, and let go."""
    number = world.state.next_number
    world.submit(user_id, account=account, gpu_count=gpus).cycle().started(number)
    return world.later(seconds).ended(number)


def usage(world: World, path: str) -> float:
    """GPU-hours on record, decayed to now."""
    account, _, user_id = path.rpartition("/")
    share = world.state.accounts.get(path) or world.state.users[account, user_id]
    return world.state.queue.usage(share.id, world.now_us) / 1_000 / HOUR


# --- the tree -----------------------------------------------------------------------------------------


def test_a_team_that_used_less_goes_first_as_a_whole_whoever_in_it_asks() -> None:
    world = given(node(gpus=1))
    used(world, "busy", "red", seconds=HOUR)
    used(world, "b", "blue", seconds=2 * HOUR)
    world.submit("newcomer", account="blue").submit("busy", account="red")
    assert world.cycle().starts() == [4]
    world.check()


def test_inside_a_team_whoever_used_less_goes_first() -> None:
    world = given(node(gpus=1))
    used(world, "busy", "red")
    world.submit("busy", account="red").submit("newcomer", account="red")
    assert world.cycle().starts() == [3]
    world.check()


def test_what_a_user_uses_counts_for_every_account_above() -> None:
    world = given()
    used(world, "ann", "lab/nlp/speech", gpus=4)
    for path in ("lab", "lab/nlp", "lab/nlp/speech", "lab/nlp/speech/ann"):
        assert usage(world, path) == pytest.approx(4, rel=0.01), path
    world.check()


def test_accounts_may_stand_in_accounts_as_deep_as_one_likes() -> None:
    deep = "a/b/c/d/e/f/g/h"
    world = given().submit("ann", account=deep, gpu_count=3).submit("bob", account="a/b").cycle()
    assert world.starts() == [1, 2]
    held = {path: share.gpus_held for path, share in world.state.accounts.items()}
    assert held == {deep[:length]: 4 if length < 4 else 3 for length in range(1, 16, 2)}
    world.started().ended().started(2).ended(2)
    assert not any(share.gpus_held for share in world.state.shares)
    world.check()


def test_an_account_deep_in_the_tree_waits_for_what_its_neighbours_use() -> None:
    world = given(node(gpus=1))
    used(world, "ann", "lab/nlp")
    world.submit("zoe", account="lab/vision/video").submit("solo", account="solo")
    assert world.cycle().starts() == [3]
    world.check()


def test_one_person_in_two_accounts_is_two_users() -> None:
    world = given(node(gpus=1))
    used(world, "ann", "red")
    world.submit("ann", account="red").submit("ann", account="blue")
    assert world.cycle().starts() == [3]
    world.check()


def test_the_tree_is_walked_only_inside_one_priority() -> None:
    world = given(node(gpus=1))
    used(world, "busy", "red")
    world.submit("newcomer", account="blue").submit("busy", account="red", priority=Priority.HIGH)
    assert world.cycle().starts() == [3]
    world.check()


# --- weights ------------------------------------------------------------------------------------------


def test_weights_hold_at_each_level_of_the_tree() -> None:
    """Lab and shop have weights 3 and 1; in the lab ann has weight 2 and bob 1: 4, 2 and 2 of eight GPUs."""
    world = given()
    world.when(cmd.SetShare("lab", 3, user=False)).when(cmd.SetShare("lab/ann", 2, user=True))
    for _ in range(8):
        world.submit("ann", account="lab").submit("bob", account="lab").submit("cyd", account="shop")
    world.cycle()
    held = {share.path: share.gpus_held for share in world.state.shares}
    assert (held["lab/ann"], held["lab/bob"], held["shop/cyd"]) == (4, 2, 2)
    assert (held["lab"], held["shop"]) == (6, 2)
    world.check()


def test_a_weight_that_is_changed_changes_whose_turn_it_is_from_the_next_cycle_on() -> None:
    world = given(node(gpus=1))
    used(world, "r", "red", seconds=3 * HOUR)
    used(world, "b", "blue", seconds=2 * HOUR)
    world.submit("r", account="red").submit("b", account="blue")
    world.when(cmd.SetShare("red", 2)).then(ev.ShareSet(path="red", weight=2))
    assert world.cycle().starts() == [3]
    world.check()


def test_the_weight_of_a_user_counts_among_the_users_of_the_account_alone() -> None:
    world = given(node(gpus=1))
    used(world, "r", "red", seconds=3 * HOUR)
    used(world, "b", "blue", seconds=2 * HOUR)
    world.when(cmd.SetShare("red/r", 1_000, user=True))
    world.submit("r", account="red").submit("b", account="blue")
    assert world.cycle().starts() == [4]
    world.check()


def test_a_weight_for_a_name_not_seen_before_must_say_whether_it_is_a_user() -> None:
    world = given().when(cmd.SetShare("red/ann", 2)).then_refused("a user or an account")
    world.when(cmd.SetShare("red/ann", 2, user=True)).then(ev.ShareSet)
    world.when(cmd.SetShare("red/ann", 3)).then(ev.ShareSet(path="red/ann", weight=3, user=True))
    world.when(cmd.SetShare("ann", 2, user=True)).then_refused("under an account")
    world.check()


# --- decay and the charge ahead -----------------------------------------------------------------------


def once_heavy(half_life_s: int) -> World:
    """Ann used 10 GPU-hours four days ago, bob 3 just now; both ask for the one GPU that is free."""
    world = given(node(gpus=10)).policy(half_life_s=half_life_s)
    used(world, "ann", gpus=10)
    world.later(4 * DAY)
    used(world, "bob", gpus=3)
    world.submit("filler", gpu_count=9).cycle()
    return world.submit("bob").submit("ann").cycle()


def test_what_was_used_long_ago_weighs_less_by_half_each_half_life() -> None:
    assert once_heavy(half_life_s=DAY).starts() == [5]
    assert once_heavy(half_life_s=365 * DAY).starts() == [4]
    once_heavy(half_life_s=DAY).check()


def test_a_half_life_changed_by_policy_holds_from_then_on() -> None:
    world = given()
    used(world, "ann", gpus=8)
    before = usage(world, "default/ann")
    world.later(7 * DAY)
    assert usage(world, "default/ann") == pytest.approx(before / 2)
    world.policy(half_life_s=DAY)
    assert usage(world, "default/ann") == pytest.approx(before / 2)
    world.later(DAY)
    assert usage(world, "default/ann") == pytest.approx(before / 4)
    world.check()


def test_those_who_hold_nothing_keep_their_order_as_time_passes() -> None:
    world = given(node(gpus=1)).policy(patience_s=0)
    used(world, "ann", seconds=HOUR)
    used(world, "bob", seconds=HOUR + 60)
    world.submit("bob").submit("ann").later(100 * DAY)
    assert world.cycle().starts() == [4]
    world.check()


def test_what_is_held_now_counts_before_it_is_used() -> None:
    world = given(node(gpus=3)).submit("ann").cycle().submit("ann").submit("bob").submit("bob")
    assert world.cycle().starts() == [3, 2]
    world.check()


def test_without_a_charge_ahead_one_users_jobs_all_start_before_the_next_users() -> None:
    world = given(node(gpus=4)).policy(charge_ahead_s=0)
    world.submit("ann").submit("ann").submit("ann").submit("bob")
    assert world.cycle().starts() == [1, 2, 3, 4]
    world.check()


# --- what holding costs -------------------------------------------------------------------------------


def test_a_gpu_of_a_dear_type_costs_its_owner_more() -> None:
    world = given(node("a", 4), node("b", 4, "A100")).policy(gpu_cost={"h100": 3_000})
    for _ in range(4):
        world.submit("ann", gpu_type="H100").submit("bob", gpu_type="A100")
    assert world.cycle().starts() == [1, 2, 4, 6, 3, 8, 5, 7]
    assert (world.job(1).rate, world.job(2).rate) == (3_000, 1_000)
    world.check()


def test_a_job_that_takes_any_gpu_is_charged_for_the_one_it_gets() -> None:
    world = given(node("a", 1)).policy(gpu_cost={"H100": 3_000}).submit("ann").submit("bob").cycle()
    assert world.job(1).rate == 3_000
    assert world.state.queue.rate(world.job(1).share) == 3_000
    world.started().ended()
    assert world.state.queue.rate(world.job(1).share) == 0
    world.check()


@pytest.mark.parametrize(
    ("fields", "rate"),
    [
        ({"gpu_count": 2}, 2_000),
        ({"gpu_count": 1, "cpu_cores": 48}, 3_000),
        ({"gpu_count": 1, "memory_mib": 512 * 1024}, 4_000),
        ({"gpu_count": 4, "cpu_cores": 48, "memory_mib": 128 * 1024}, 4_000),
        ({"gpu_count": 0, "cpu_cores": 8}, 500),
    ],
)
def test_a_job_costs_by_the_most_that_it_holds_of_gpus_cores_and_memory(
    fields: dict[str, int], rate: int
) -> None:
    world = given().submit(**fields).cycle()
    assert world.job().rate == rate
    world.check()


def test_new_prices_hold_for_what_starts_from_then_on() -> None:
    world = given().submit("ann").cycle().started().policy(gpu_cost={"H100": 5_000}).submit("bob").cycle()
    assert (world.job(1).rate, world.job(2).rate) == (1_000, 5_000)
    world.ended().started(2).ended(2)
    assert world.state.queue.rate(0) == 0
    world.check()


def test_new_prices_are_what_is_charged_ahead_for_the_jobs_that_wait_already() -> None:
    world = given(node("a", 4), node("b", 4, "A100"))
    for _ in range(3):
        world.submit("ann", gpu_type="H100").submit("bob", gpu_type="A100")
    assert world.state.queue.order(6, world.now_us) == [1, 2, 3, 4, 5, 6]
    world.policy(gpu_cost={"H100": 10_000})
    assert world.state.queue.order(6, world.now_us) == [1, 2, 4, 6, 3, 5]
    world.check()


def test_usage_is_the_integral_of_what_was_held_until_every_process_was_gone() -> None:
    world = given().submit("ann", gpu_count=2).cycle().later(10).started().later(1_790)
    world.ended(released=False).later(1_800).when(cmd.ReportReleased(job_id(1), 1))
    assert usage(world, "default/ann") == pytest.approx(2.0, rel=0.01)
    world.check()
