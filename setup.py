"""Builds the compiled foundation; all metadata is in pyproject.toml.

Directives live here and not in the files, so that one switch changes all of them:

* ``HORIZON_CHECKED=1``: bounds, None and overflow checks, assertions, line tracing.
* ``HORIZON_SANITIZE=1``: the same and the address and undefined-behaviour sanitizers; run Python with
  ``LD_PRELOAD=$(gcc -print-file-name=libasan.so) PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0``.
"""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

SANITIZE = os.environ.get("HORIZON_SANITIZE") == "1"
CHECKED = SANITIZE or os.environ.get("HORIZON_CHECKED") == "1"

# -ffp-contract=off: a fused multiply-add rounds once where two operations round twice, so a build that
# fuses would order jobs differently from one that does not.
FLAGS = ["-ffp-contract=off", "-Wall", "-Wno-unused-function", "-O1" if SANITIZE else "-O3"]
LINK: list[str] = []
if SANITIZE:
    FLAGS += [
        "-g",
        "-fsanitize=address,undefined",
        "-fno-omit-frame-pointer",
        "-fno-sanitize-recover=undefined",
    ]
    LINK += ["-fsanitize=address,undefined"]

setup(
    ext_modules=cythonize(
        [
            Extension(
                f"horizon.{name}",
                [f"horizon/{name}.pyx"],
                extra_compile_args=FLAGS,
                extra_link_args=LINK,
                define_macros=[] if CHECKED else [("CYTHON_WITHOUT_ASSERTIONS", "1")],
            )
            for name in ("_queue", "_placement")
        ],
        force=SANITIZE or CHECKED,
        compiler_directives={
            "language_level": 3,
            "boundscheck": CHECKED,
            "wraparound": False,
            "initializedcheck": CHECKED,
            "nonecheck": CHECKED,
            "overflowcheck": CHECKED,
            "cdivision": not CHECKED,
            "embedsignature": True,
        },
    )
)
