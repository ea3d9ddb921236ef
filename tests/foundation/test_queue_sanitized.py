"""The random calls again under the address and undefined-behaviour sanitizers, and memory that must not grow.

Both run in processes of their own: the sanitizer has to be there before Python starts, and memory is only
honest where nothing else has run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SEEDS, STEPS = 40, 150

DRIVER = """
import importlib.util, sys
built, seeds, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
spec = importlib.util.spec_from_file_location("horizon._queue", built)
module = importlib.util.module_from_spec(spec)
sys.modules["horizon._queue"] = module
spec.loader.exec_module(module)
import horizon
horizon._queue = module
from tests.foundation.test_queue_twins import play
for seed in range(seeds):
    play(module.JobQueue, seed, steps)
assert module.__file__ == built
print("clean")
"""

LEAKS = """
import gc, resource
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

def resident_kib():
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() // 1024

for _ in range(10):
    once()
before = resident_kib()
for _ in range(100):
    once()
print(resident_kib() - before)
"""


def run(*arguments: str, cwd: Path = ROOT, **environment: str) -> str:
    """What Python prints when it is run so; a failure shows the end of its errors."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-8000:]}"
    return done.stdout.strip()


def libasan() -> str:
    """Where gcc keeps the address sanitizer; gcc echoes a bare name when it has none."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("gcc is not installed")
    asked = [compiler, "-print-file-name=libasan.so"]
    path = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    if not Path(path).is_absolute():
        pytest.skip("gcc has no libasan")
    return path


def build_sanitized(directory: Path) -> Path:
    """A checked and sanitized build made beside the sources, which it leaves as they are."""
    source = directory / "source"
    (source / "horizon").mkdir(parents=True)
    for file in [ROOT / "setup.py", *ROOT.glob("horizon/_*.p[yx]?"), ROOT / "horizon/__init__.py"]:
        shutil.copy(file, source / file.relative_to(ROOT))
    build = ["setup.py", "-q", "build_ext", "--build-lib", str(directory / "built")]
    run(*build, cwd=source, HORIZON_SANITIZE="1")
    return next((directory / "built" / "horizon").glob("_queue.*.so"))


def test_random_calls_are_clean_under_the_sanitizers(tmp_path: Path) -> None:
    preload = libasan()
    built = build_sanitized(tmp_path)
    answer = run(
        "-c",
        DRIVER,
        str(built),
        str(SEEDS),
        str(STEPS),
        LD_PRELOAD=preload,
        PYTHONMALLOC="malloc",
        ASAN_OPTIONS="detect_leaks=0",
    )
    assert answer == "clean"


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc to read resident memory")
def test_memory_does_not_grow_over_a_hundred_queues() -> None:
    grown_kib = int(run("-c", LEAKS))
    assert grown_kib < 1024
