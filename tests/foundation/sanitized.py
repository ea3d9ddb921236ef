"""Compiled modules under the address and undefined-behaviour sanitizers, and memory that must not grow.

Both run in processes of their own: the sanitizer has to be there before Python starts, and memory is only
honest where nothing else has run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SEEDS, STEPS = 60, 40

DRIVER = """
import importlib, importlib.util, sys
name, built, sentences, plays, driven, seeds, steps = sys.argv[1:]
spec = importlib.util.spec_from_file_location(f"horizon.{name}", built)
module = importlib.util.module_from_spec(spec)
sys.modules[f"horizon.{name}"] = module
spec.loader.exec_module(module)
import horizon
setattr(horizon, name, module)
play = importlib.import_module(plays).play
for seed in range(int(seeds)):
    play(getattr(module, driven), seed, int(steps))
import pytest
assert not pytest.main(["-q", "-p", "no:cacheprovider", sentences])
assert module.__file__ == built
print("clean")
"""

LEAKS = """
import gc, resource

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

reads_memory = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="needs /proc to read resident memory"
)


def plays_clean(directories: pytest.TempPathFactory, name: str, driven: str) -> bool:
    """Whether sentences about ``horizon.name`` and random calls to a class of it trouble no sanitizer."""
    if not (ROOT / "setup.py").exists():
        pytest.skip("needs the sources")
    preload = libasan()
    built = next(build_sanitized(directories.getbasetemp() / "sanitized").glob(f"{name}.*.so"))
    sentences, plays = f"tests/foundation/test{name}.py", f"tests.foundation.test{name}_twins"
    answer = run(
        *("-c", DRIVER, name, str(built), sentences, plays, driven, str(SEEDS), str(STEPS)),
        LD_PRELOAD=preload,
        PYTHONMALLOC="malloc",
        ASAN_OPTIONS="detect_leaks=0",
    )
    return answer.endswith("clean")


def grown_kib(once: str) -> int:
    """By how much a process grows while it calls ``once``, which the text defines, a hundred times."""
    return int(run("-c", once + LEAKS))


def run(*arguments: str, cwd: Path = ROOT, **environment: str) -> str:
    """What Python prints when it is run so; a failure shows the end of its errors."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
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


@cache
def build_sanitized(directory: Path) -> Path:
    """A checked and sanitized build of all modules, made once and beside the sources."""
    source = directory / "source"
    (source / "horizon").mkdir(parents=True, exist_ok=True)
    for file in [ROOT / "setup.py", *ROOT.glob("horizon/_*.p[yx]?"), ROOT / "horizon/__init__.py"]:
        shutil.copy(file, source / file.relative_to(ROOT))
    build = ["setup.py", "-q", "build_ext", "--build-lib", str(directory / "built")]
    run(*build, cwd=source, HORIZON_SANITIZE="1")
    return directory / "built" / "horizon"
