"""The ledger is exact: what a share has used is the integral of what the log says it held.

The reference knows nothing of the share tree. It reads the log, takes rates and times as whole numbers and
fractions of them, and works out powers of two to fifty digits.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction

import pytest
from hypothesis import given as generated
from hypothesis import settings
from hypothesis import strategies as st

from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core.model import Placement
from horizon.core.policy import Policy
from horizon.core.state import State
from tests.core.checker import task_id
from tests.core.spec import SECOND, World, given, node
from tests.core.worlds import Life

RELATIVE = 1e-9
ABSOLUTE = 1e-3
"""Cost units x seconds: a microsecond of one GPU. A charge is the difference of two powers, so a short one
under a long half-life keeps fewer digits; this is far more than it ever loses."""
DIGITS = 50
DAY_S = 86_400
WEEK_S = 7 * DAY_S


@dataclass
class Charge:
    """An attempt held something at this rate, from start to end."""

    path: str
    rate: int
    start_us: int
    end_us: int | None = None


class Ledger:
    """Charges and half-lives, as the log tells them."""

    def __init__(self, log: list[ev.Recorded]) -> None:
        self.charges: list[Charge] = []
        self.half_lives: list[tuple[int, int]] = [(0, Policy().half_life_s)]
        """From when on, and how long, in seconds."""
        self._policy = Policy()
        self._types: dict[str, str] = {}
        self._paths: dict[str, str] = {}
        self._open: dict[str, Charge] = {}
        for recorded in log:
            self._read(recorded.event, recorded.recorded_at_us)

    def _read(self, event: ev.Event, at_us: int) -> None:
        match event:
            case ev.PolicySet():
                self._policy = event.policy
                self.half_lives.append((at_us, event.policy.half_life_s))
            case ev.NodeRegistered() | ev.NodeChanged():
                self._types |= {one.uuid: one.gpu_type.lower() for one in event.inventory.devices}
            case ev.JobSubmitted():
                array = event.spec.array
                tasks = sum(len(one.indices) for one in array.ranges) if array is not None else 0
                for id in (event.job_id, *(task_id(event.job_id, place) for place in range(tasks))):
                    self._paths[id] = f"{event.spec.account}/{event.spec.user_id}"
            case ev.JobScheduled():
                charge = Charge(self._paths[event.job_id], self._rate(event.allocation), at_us)
                self._open[event.job_id] = charge
                self.charges.append(charge)
            case ev.AllocationReleased():
                self._open.pop(event.job_id).end_us = at_us

    def _rate(self, allocation: tuple[Placement, ...]) -> int:
        """Cost units a second: the resource of which it holds the most, measured in GPUs."""
        policy = self._policy
        costs = {name.lower(): cost for name, cost in policy.gpu_cost.items()}
        gpus = sum(costs.get(self._types[gpu], 1_000) for one in allocation for gpu in one.gpu_ids)
        cores = sum(one.cpu_cores for one in allocation) * 1_000 // policy.cores_per_gpu
        memory = sum(one.memory_mib for one in allocation) * 1_000 // (policy.memory_gb_per_gpu * 1_024)
        return max(gpus, cores, memory)

    def usage(self, path: str, now_us: int) -> Decimal:
        """Cost units x seconds of a share and all below it, decayed up to now."""
        with localcontext(prec=DIGITS):
            return sum(
                (
                    self._worth(charge, now_us)
                    for charge in self.charges
                    if not path or charge.path == path or charge.path.startswith(path + "/")
                ),
                Decimal(0),
            )

    def _worth(self, charge: Charge, now_us: int) -> Decimal:
        end_us = now_us if charge.end_us is None else charge.end_us
        worth = Decimal(0)
        for (since_us, half_life_s), until_us in self._eras(now_us):
            start, end = max(charge.start_us, since_us), min(end_us, until_us)
            if start < end:
                left = self._left(end, now_us) - self._left(start, now_us)
                worth += charge.rate * Decimal(half_life_s) / Decimal(2).ln() * left
        return worth

    def _eras(self, now_us: int) -> list[tuple[tuple[int, int], int]]:
        return list(zip(self.half_lives, [since for since, _ in self.half_lives[1:]] + [now_us], strict=True))

    def _left(self, then_us: int, now_us: int) -> Decimal:
        """What a unit used then counts now: half of it for every half-life since."""
        halvings = sum(
            (
                Fraction(max(0, until_us - max(since_us, then_us)), half_life_s * SECOND)
                for (since_us, half_life_s), until_us in self._eras(now_us)
            ),
            Fraction(0),
        )
        return Decimal(2) ** -(Decimal(halvings.numerator) / Decimal(halvings.denominator))


def check_ledger(log: list[ev.Recorded], state: State, now_us: int) -> None:
    """Every share has used what the log says."""
    ledger = Ledger(log)
    for share in state.shares:
        expected = float(ledger.usage(share.path, now_us))
        used = state.queue.usage(share.id, now_us)
        assert used == pytest.approx(expected, rel=RELATIVE, abs=ABSOLUTE), share.path


# --- what is charged ----------------------------------------------------------------------------------


def used(world: World) -> float:
    return world.state.queue.usage(0, world.now_us)


def test_a_gpu_held_for_an_hour_costs_3600_gpu_seconds_less_its_decay() -> None:
    world = given().policy(half_life_s=3_600).submit().cycle().later(3_600)
    with localcontext(prec=DIGITS):
        expected = float(1_000 * 3_600 / Decimal(2).ln() / 2)
    assert used(world) == pytest.approx(expected, rel=RELATIVE)
    world.started().ended().later(3_600)
    assert used(world) == pytest.approx(expected / 2, rel=RELATIVE)


@pytest.mark.parametrize(
    ("fields", "rate"),
    [
        ({"gpu_count": 3, "gpu_type": "H100"}, 3_000),
        ({"gpu_count": 2, "gpu_type": "A100"}, 1_000),
        ({"gpu_count": 1, "gpu_type": "H100", "cpu_cores": 40}, 2_500),
        ({"gpu_count": 0, "cpu_cores": 1}, 62),
        ({"gpu_count": 1, "memory_mib": 300 * 1_024}, 2_343),
    ],
)
def test_what_is_charged_is_the_resource_of_which_a_job_holds_the_most(
    fields: dict[str, object], rate: int
) -> None:
    world = given(node("a", 8), node("b", 8, "A100")).policy(gpu_cost={"a100": 500})
    world.submit(**fields).cycle()  # type: ignore[arg-type]
    assert world.state.queue.rate(0) == rate


def test_an_attempt_is_charged_from_its_place_in_the_log_until_its_devices_are_free_again() -> None:
    world = given().policy(half_life_s=DAY_S).submit().cycle().later(5).started().later(20)
    world.ended(released=False).later(30)
    check_ledger(world.log, world.state, world.now_us)
    world.when(cmd.ReportReleased(world.job().id, 1))
    before = used(world)
    check_ledger(world.log, world.state, world.later(1_000).now_us)
    assert used(world) < before


def test_an_attempt_costs_what_the_policy_said_when_it_was_placed() -> None:
    world = given().policy(gpu_cost={"h100": 4_000}).submit().cycle().later(100)
    world.policy(gpu_cost={"h100": 1_000}).submit("bob").cycle().later(100)
    check_ledger(world.log, world.state, world.now_us)


# --- to many digits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("half_life_s", [1, 60, 3_600, DAY_S, WEEK_S, 365 * DAY_S])
def test_usage_is_the_integral_of_the_log_whatever_the_half_life(half_life_s: int) -> None:
    rng = random.Random(half_life_s)
    world = given(node(gpus=8), node("b", 4, "A100")).policy(half_life_s=half_life_s)
    for _ in range(30):
        world.submit(rng.choice("abc"), account=rng.choice(["x", "x/y", "z"]), gpu_count=rng.choice([1, 2]))
        world.cycle().later(rng.choice([0.000_001, 1, 100, half_life_s / 3]))
        for job in list(world.state.holding.values()):
            if rng.random() < 0.3:
                world.started(job.number).ended(job.number)
    for later_s in (0, 1, half_life_s, 10 * half_life_s):
        check_ledger(world.log, world.state, world.now_us + later_s * SECOND)


def test_what_was_used_before_a_change_of_the_half_life_decays_by_the_old_one_until_then() -> None:
    world = given().policy(half_life_s=100).submit("alice").cycle().later(100)
    for half_life_s in (10, 1_000, WEEK_S, 1, 50):
        world.policy(half_life_s=half_life_s)
        check_ledger(world.log, world.state, world.now_us)
        world.submit("bob", account="x/y").cycle().later(40)
        check_ledger(world.log, world.state, world.now_us)
    world.check()


@pytest.mark.parametrize("seed", range(20))
def test_usage_is_the_integral_of_the_log_in_random_worlds(seed: int) -> None:
    life = Life(seed).run()
    check_ledger(life.world.log, life.world.state, life.world.now_us)


# --- what it is for -----------------------------------------------------------------------------------

TEAMS = {"red": ("r1", "r2"), "blue": ("b1", "b2"), "blue/deep": ("d1",)}
OWNERS = [(account, user) for account, users in TEAMS.items() for user in users]


def history(uses: list[tuple[int, int, int]], weights: list[int]) -> World:
    """A world in which owners have held GPUs for seconds, one after the other, and hold nothing now."""
    world = given(node(gpus=8)).policy(half_life_s=3_600, charge_ahead_s=0)
    for account, weight in zip(("red", "blue"), weights, strict=True):
        world.when(cmd.SetShare(account, weight, user=False))
    for owner, gpus, seconds in uses:
        account, user = OWNERS[owner]
        world.submit(user, account=account, gpu_count=gpus).cycle()
        number = world.state.next_number - 1
        world.started(number).later(seconds).ended(number)
    return world


USES = st.lists(
    st.tuples(st.integers(0, len(OWNERS) - 1), st.integers(1, 8), st.integers(1, 5_000)), max_size=12
)
WEIGHTS = st.lists(st.integers(1, 10), min_size=2, max_size=2)


@settings(max_examples=60, deadline=None)
@generated(USES, WEIGHTS, st.permutations(OWNERS * 2))
def test_the_team_that_used_less_for_its_weight_goes_first_as_a_whole(
    uses: list[tuple[int, int, int]], weights: list[int], waiting: list[tuple[str, str]]
) -> None:
    world = history(uses, weights)
    ledger = Ledger(world.log)
    red, blue = (ledger.usage(team, world.now_us) for team in ("red", "blue"))
    red, blue = red / weights[0], blue / weights[1]
    if abs(red - blue) <= Decimal(RELATIVE) * max(red, blue):
        return  # a tie goes to whoever came first
    for account, user in waiting:
        world.submit(user, account=account, gpu_count=0, cpu_cores=1)
    order = [world.job(number).spec.account.split("/")[0] for number in world.cycle().starts()]
    first = "red" if red < blue else "blue"
    assert order == sorted(order, key=lambda team: team != first)


@settings(max_examples=60, deadline=None)
@generated(USES, WEIGHTS, st.lists(st.integers(1, 2 * 10**11), min_size=1, max_size=5))
def test_those_who_hold_nothing_never_change_order_with_time(
    uses: list[tuple[int, int, int]], weights: list[int], pauses_us: list[int]
) -> None:
    """Not in 277 half-lives: after 400 what little is left of a usage is forgotten."""
    world = history(uses, weights)
    for account, user in OWNERS:
        world.submit(user, account=account)
    queue = world.state.queue
    order = queue.order(len(queue), world.now_us)
    for pause_us in pauses_us:
        world.now_us += pause_us
        assert queue.order(len(queue), world.now_us) == order
