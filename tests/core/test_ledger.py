"""The ledger: a share's numbers add up, ranks and comparisons agree with whose jobs go first."""

from __future__ import annotations

import random

import pytest

from horizon.core import commands as cmd
from horizon.core.ledger import account_of, compare, rank_of, ranks
from horizon.core.model import Priority
from horizon.core.policy import Order
from horizon.core.state import Share
from tests.core.spec import World, given, node

GPU_HOUR = 1_000 * 3_600


def account(world: World, path: str) -> Share:
    return world.state.accounts[path]


def used(world: World, path: str, hours: float, gpus: int = 1) -> World:
    """Have a job of this account's own user run so long."""
    world.submit(f"user of {path.replace('/', ' ')}", account=path, gpu_count=gpus, priority=Priority.URGENT)
    number = len(world.state.numbered)
    return world.cycle().started(number).later(hours * 3_600).ended(number)


def busy() -> World:
    """research/nlp has used 2 GPU-hours and holds 4 GPUs, research/vision has used 1, ads 3 at weight 2."""
    world = given(node(gpus=8)).policy(half_life_s=3_000 * 86_400, charge_ahead_s=1_800)
    world.when(cmd.SetShare("ads", 2, user=False))
    used(world, "research/nlp", 2)
    used(world, "research/vision", 1)
    used(world, "ads", 3)
    world.submit("alice", account="research/nlp", gpu_count=4).cycle()
    return world


def test_the_numbers_of_a_share_make_its_score() -> None:
    world = busy()
    found = account_of(world.state, account(world, "research/nlp"), world.now_us)
    assert found.usage == pytest.approx(2 * GPU_HOUR, rel=0.01)
    assert found.held == 4_000
    assert found.charged_ahead == 4_000 * 1_800
    assert found.effective == pytest.approx(found.usage + found.charged_ahead)
    found = account_of(world.state, account(world, "ads"), world.now_us)
    assert (found.weight, found.held, found.charged_ahead) == (2, 0, 0)
    assert found.score == pytest.approx(1.5 * GPU_HOUR, rel=0.01)


def test_what_is_held_is_counted_by_its_cost() -> None:
    world = given(node(gpus=4)).policy(gpu_cost={"h100": 2_500})
    world.submit("alice", account="research", gpu_count=2).cycle()
    assert account_of(world.state, account(world, "research"), world.now_us).held == 5_000


def test_the_usage_of_an_account_is_that_of_all_below_it() -> None:
    world = busy()
    numbers = [
        account_of(world.state, account(world, path), world.now_us)
        for path in ("research", "research/nlp", "research/vision")
    ]
    assert numbers[0].usage == pytest.approx(numbers[1].usage + numbers[2].usage)
    assert numbers[0].held == 4_000


def test_ranks_are_among_siblings() -> None:
    world = busy()
    found = ranks(world.state, world.now_us)
    by_path = {share.path: found[share.id] for share in world.state.shares if not share.user}
    assert by_path == {"": 0, "ads": 1, "research": 2, "research/vision": 1, "research/nlp": 2}
    for share in world.state.shares[1:]:
        score = world.state.queue.score(share.id, world.now_us)
        assert rank_of(world.state, share, score, world.now_us) == found[share.id]


def test_shares_of_one_score_have_one_rank() -> None:
    world = used(given(node()), "c", 1)
    world.submit(account="a").submit(account="b")
    found = ranks(world.state, world.now_us)
    assert [found[account(world, path).id] for path in "abc"] == [1, 1, 3]


def test_a_comparison_is_made_where_the_two_part() -> None:
    world = busy()
    found = compare(
        world.state, account(world, "research/nlp"), account(world, "research/vision"), world.now_us
    )
    assert found is not None
    assert (found.parent.path, found.first.share.path) == ("research", "research/nlp")
    assert found.ahead is found.second
    assert found.sentence == (
        "research/vision goes before research/nlp with jobs of one priority: 1.000 GPU-hours used, over a "
        "weight of 1, make a score of 1.000, against 2.000 GPU-hours used and 2.000 charged ahead, over a "
        "weight of 1, make a score of 4.000"
    )
    alice = world.state.users["research/nlp", "alice"]
    found = compare(world.state, alice, account(world, "ads"), world.now_us)
    assert found is not None
    assert (found.parent.path, found.first.share.path, found.second.share.path) == ("", "research", "ads")


def test_a_share_has_no_turn_against_what_it_is_part_of() -> None:
    world = busy()
    research, nlp = account(world, "research"), account(world, "research/nlp")
    for one, other in ((research, nlp), (nlp, research), (nlp, nlp)):
        assert compare(world.state, one, other, world.now_us) is None


def test_equal_scores_leave_it_to_the_jobs() -> None:
    world = given(node()).submit(account="a").submit(account="b")
    found = compare(world.state, account(world, "a"), account(world, "b"), world.now_us)
    assert found is not None
    assert found.ahead is None
    assert "same score" in found.sentence


def test_where_the_policy_knows_no_shares_nobody_is_ahead() -> None:
    world = busy().policy(order=Order.FIFO)
    found = compare(world.state, account(world, "ads"), account(world, "research"), world.now_us)
    assert found is not None
    assert found.ahead is None
    assert "when they came" in found.sentence


@pytest.mark.parametrize("seed", range(20))
def test_whoever_is_ahead_goes_first(seed: int) -> None:
    chance = random.Random(seed)
    world = given(node(gpus=16))
    paths = ["a", "b", "c/d", "c/e"]
    for path in paths:
        world.when(cmd.SetShare(path, chance.randint(1, 5), user=False))
    for _ in range(12):
        used(world, chance.choice(paths), chance.uniform(0.01, 5), chance.randint(1, 4))
    for path in paths:
        world.submit("alice", account=path)
    for one in paths:
        for other in paths:
            found = compare(world.state, account(world, one), account(world, other), world.now_us)
            if found is None or found.ahead is None:
                continue
            line = world.state.queue.order(len(paths), world.now_us)
            ours = found.ahead.share.path + "/"
            theirs = (found.second if found.ahead is found.first else found.first).share.path + "/"
            owners = [f"{world.job(number).spec.account}/" for number in line]
            first = next(owner for owner in owners if owner.startswith((ours, theirs)))
            assert first.startswith(ours), f"seed {seed}: {found.sentence}"
