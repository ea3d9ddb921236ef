"""What is said of the compiled modules, under the sanitizers; and their memory, which must not grow."""

from __future__ import annotations

import pytest

from tests.foundation.sanitized import grown_kib, plays_clean, reads_memory

A_QUEUE = """
from array import array
from horizon._queue import JobQueue

def once():
    queue = JobQueue(10**9, 10**6)
    users = [queue.add_share(queue.add_share(0)) for _ in range(20)]
    shapes = [queue.add_shape(rate) for rate in range(10)]
    numbers = range(1, 5001)
    columns = [array("b", [n % 4 for n in numbers]), array("i", [users[n % 20] for n in numbers]),
               array("i", [shapes[n % 10] for n in numbers])]
    queue.enqueue_many(array("q", numbers), *columns)
    try:
        queue.enqueue_many(array("q", [9_000_000, 9_000_000]), *(column[:2] for column in columns))
    except ValueError:
        pass
    queue.enqueue(2**40 - 1, 1, users[0], shapes[0])
    walk = queue.walk(5)
    while walk.next():
        walk.take()
    queue.order(100, 7)
    for number in numbers[::3]:
        queue.remove(number)
    while queue.dequeue():
        pass
    queue.enqueue(1, 1, users[0], shapes[0])
    queue.clear()
    queue.enqueue(2, 1, users[0], shapes[0])
"""

A_CLUSTER = """
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


@pytest.mark.parametrize(("module", "driven"), [("_queue", "JobQueue"), ("_placement", "Cluster")])
def test_sentences_and_random_calls_are_clean_under_the_sanitizers(
    tmp_path_factory: pytest.TempPathFactory, module: str, driven: str
) -> None:
    assert plays_clean(tmp_path_factory, module, driven)


@reads_memory
@pytest.mark.parametrize("once", [A_QUEUE, A_CLUSTER], ids=["queue", "cluster"])
def test_memory_does_not_grow_over_a_hundred_of_them(once: str) -> None:
    assert grown_kib(once) < 1024
