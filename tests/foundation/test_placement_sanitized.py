"""What is said of placement once more under the sanitizers, and its memory, which must not grow."""

from __future__ import annotations

import pytest

from tests.foundation.sanitized import grown_kib, plays_clean, reads_memory

ONCE = """
from horizon._placement import OPEN, Cluster

def once():
    cluster = Cluster()
    for kind in range(3):
        cluster.add_kind(kind, 80)
    for node in range(300):
        cluster.add_node()
        for devices in (16, 8):
            groups = [(node % 3, slot // 4, slot // 4, slot // 2) for slot in range(devices)]
            cluster.set_node(node, 64, 1000, groups, range(node % 4), [node // 10, node // 100])
        cluster.set_state(node, OPEN)
        for number in range(1, 5):
            cluster.hold(node, number, [number], 1, 1, False, 10 * number)
        for booking in range(1, 4):
            cluster.book(node, booking, 100 * booking, 100 * booking + 50)
        try:
            cluster.hold(node, 9, [0, 1], 1, 1, False, 5)
        except ValueError:
            pass
    requests = [cluster.add_request(gpus, -1, 0, gpus, 5, gang, False, [0] * (gpus % 2))
                for gpus in (0, 1, 4, 5, 16) for gang in (0, 2, 3) if gpus >= gang or not gpus]
    for now_us in range(3):
        plan = cluster.plan(now_us)
        for request in requests:
            if plan.place(request, 60, avoid=[3, 4]):
                plan.take()
            if plan.fits(request, 60, only=range(100), gone=[1, 2]):
                plan.claim()
            if plan.earliest(request, 200):
                plan.reserve()
            plan.survey(request, 60)
    for node in range(300):
        cluster.release(node, 2)
        cluster.expect(node, 3, 500)
        cluster.unbook(node, 1)
    try:
        plan.take()
    except RuntimeError:
        pass
"""


def test_sentences_and_random_calls_are_clean_under_the_sanitizers(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    assert plays_clean(tmp_path_factory, "_placement", "Cluster")


@reads_memory
def test_memory_does_not_grow_over_a_hundred_clusters() -> None:
    assert grown_kib(ONCE) < 1024
