"""What is said of the queue once more under the sanitizers, and its memory, which must not grow."""

from __future__ import annotations

import pytest

from tests.foundation.sanitized import grown_kib, plays_clean, reads_memory

ONCE = """
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


def test_sentences_and_random_calls_are_clean_under_the_sanitizers(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    assert plays_clean(tmp_path_factory, "_queue", "JobQueue")


@reads_memory
def test_memory_does_not_grow_over_a_hundred_queues() -> None:
    assert grown_kib(ONCE) < 1024
