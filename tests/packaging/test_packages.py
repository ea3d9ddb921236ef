"""What is built can be installed and used by someone who has no checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import horizon
from tests.cli.conftest import home as home  # a fixture
from tests.cli.house import Up, environment

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
COMPILED = ("_queue", "_placement")
BUILD_S_MAX = 300


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is in version control, so that building leaves nothing in the real one."""
    copy = tmp_path_factory.mktemp("checkout") / "horizon"
    unwanted = shutil.ignore_patterns(
        ".*", "__pycache__", "*.so", "_*.c", "build", "dist", "*.egg-info", "target", "results"
    )
    shutil.copytree(ROOT, copy, ignore=unwanted)
    return copy


@pytest.fixture(scope="session")
def packages(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sdist, and the wheel built from that sdist. Uses the tools of this environment."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(checkout)]
    # Optimising the compiled queue takes most of the time, and it is not what is looked at here.
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=BUILD_S_MAX, env={**os.environ, "CFLAGS": "-O0"}
    )
    assert done.returncode == 0, done.stdout[-4_000:] + done.stderr[-4_000:]
    return out


@pytest.fixture(scope="session")
def wheel(packages: Path) -> Path:
    (found,) = packages.glob("*.whl")
    return found


@pytest.fixture(scope="session")
def sdist(packages: Path) -> Path:
    (found,) = packages.glob("*.tar.gz")
    return found


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel in it; its dependencies are those of this environment."""
    home = tmp_path_factory.mktemp("installed") / "env"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(pip, check=True, timeout=BUILD_S_MAX)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(home)}))
    # Behind the wheel's own directory, so that this environment lends everything but Horizon.
    (site / "dependencies.pth").write_text("import sys; sys.path += " + repr(_without_horizon()) + "\n")
    return home


def _without_horizon() -> list[str]:
    return [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]


def test_the_wheel_has_what_it_needs_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert not [name for name in names if name.endswith((".c", ".pyx", ".pyc"))]
    for module in COMPILED:
        assert [name for name in names if name.startswith(f"horizon/{module}.") and name.endswith(".so")]
        assert {f"horizon/{module}.pyi", f"horizon/{module}.pxd", "horizon/py.typed"} <= set(names)
    tops = {name.split("/")[0] for name in names}
    assert tops == {"horizon", f"horizon_gpu_scheduler-{horizon.__version__}.dist-info"}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "horizon").rglob("*.py")}
    assert {name for name in names if name.endswith(".py") and "/migrations/" not in name} == sources


def test_both_have_every_migration(wheel: Path, sdist: Path) -> None:
    migrations = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "migrations").rglob("*")
        if path.suffix in (".py", ".sql", ".mako")
    }
    assert any(name.endswith(".sql") for name in migrations)
    with zipfile.ZipFile(wheel) as archive:
        assert {f"horizon/{name}" for name in migrations} <= set(archive.namelist())
    assert migrations <= set(_names_in(sdist))


def test_the_sdist_can_be_built_and_tested_from(sdist: Path) -> None:
    names = set(_names_in(sdist))
    assert not [name for name in names if name.endswith((".c", ".so", ".pyc"))]
    wanted = {"setup.py", "pyproject.toml", "LICENSE", "README.md", "Makefile", "tests/conftest.py"}
    sources = {f"horizon/{module}{ending}" for module in COMPILED for ending in (".pyx", ".pxd", ".pyi")}
    assert wanted | sources <= names


def _names_in(sdist: Path) -> Iterator[str]:
    with tarfile.open(sdist) as archive:
        for name in archive.getnames():
            yield name.partition("/")[2]


def test_the_license_is_in_both(wheel: Path, sdist: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/LICENSE"))
        text = archive.read(name).decode()
        (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        assert "License-Expression: Apache-2.0" in archive.read(metadata).decode()
    assert "Apache License" in text
    assert "LICENSE" in set(_names_in(sdist))


def test_the_installed_wheel_runs(installed: Path, home: Path) -> None:
    """Outside the checkout: the version, then a whole Horizon with its own database, and a job."""
    command = [str(installed / "bin" / "horizon")]
    env = environment(home / "data")
    env.pop("PYTHONPATH", None)
    where = [str(installed / "bin" / "python"), "-c", "import horizon._queue as q; print(q.__file__)"]
    done = subprocess.run(where, cwd=home, env=env, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).is_relative_to(installed)
    done = subprocess.run(
        [*command, "--version"], cwd=home, env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"horizon, version {horizon.__version__}\n"
    up = Up(home / "data", "--simulate-gpus", "2xH100", horizon=command)
    try:
        job = [*command, "submit", "--wait", "--gpus", "2", "--", "true"]
        assert subprocess.run(job, cwd=home, env=env, timeout=60).returncode == 0
    finally:
        up.clear()


def test_an_editable_install_finds_its_migrations(checkout: Path) -> None:
    """In a checkout they stand beside the package, and that is where they are looked for."""
    code = "from horizon.store.migrate import migrations_dir; print(migrations_dir())"
    compiled = next((ROOT / "horizon").glob("_queue*.so"), None)
    if compiled is not None:
        shutil.copy(compiled, checkout / "horizon")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(checkout)},
    )  # fmt: skip
    assert Path(done.stdout.strip()) == checkout / "migrations"
