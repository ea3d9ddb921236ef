"""Starting and stopping ``horizon up``, and the bad days of whoever runs it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from horizon.cli.server import reachable
from horizon.store.postgres import PostgresStore
from tests.cli.house import HORIZON, Up, environment, eventually, run

SIMULATE = ("--simulate-gpus", "8xH100", "--port", "0")


def test_it_says_where_it_is_and_cleans_up(start_up: Callable[..., Up]) -> None:
    up = start_up()
    assert up.url.startswith("http://127.0.0.1:")
    assert "8 H100 (simulated)" in up.greeting
    assert json.loads((up.data_dir / "endpoint.json").read_text()) == {"url": up.url, "pid": up.process.pid}
    token = up.data_dir / "token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert (up.data_dir / "postgres" / "postmaster.pid").exists()
    code, said = up.stop()
    assert code == 0
    assert "on running" not in said
    assert not (up.data_dir / "endpoint.json").exists()
    assert not (up.data_dir / "postgres" / "postmaster.pid").exists()
    assert up.run("ps").returncode == 3
    logged = up.log.read_text().splitlines()
    assert all(isinstance(json.loads(line), dict) for line in logged), logged


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_stopping_leaves_jobs_running_and_says_so(start_up: Callable[..., Up], signal_number: int) -> None:
    up = start_up()
    jobs = [up.submit("--grace", "1", "--", "sleep 30; exit 5") for _ in range(2)]
    for job in jobs:
        up.until(job, "Running")
    code, said = up.stop(signal_number)
    assert code == 0
    assert "2 jobs go on running; the next `horizon up` adopts them" in said
    again = start_up()
    assert "2 jobs of an earlier run adopted" in again.greeting
    for job in jobs:
        assert again.json("show", job)["state"] == "Running"
        again.ok("cancel", job)


def test_a_second_one_on_the_same_directory_is_turned_away(start_up: Callable[..., Up]) -> None:
    up = start_up()
    second = run(up.data_dir, "up", *SIMULATE)
    assert second.returncode == 1
    assert str(up.process.pid) in second.stderr
    assert up.url in second.stderr
    assert up.run("ps").returncode == 0
    assert run(up.data_dir, "migrate").returncode == 1


def test_stale_files_of_a_killed_one_are_harmless(home: Path, start_up: Callable[..., Up]) -> None:
    data = home / "data"
    data.mkdir()
    (data / "lock").write_text(f"{os.getpid()}\n")
    (data / "endpoint.json").write_text(json.dumps({"url": "http://127.0.0.1:9", "pid": os.getpid()}))
    before = run(data, "ps")
    assert before.returncode == 3
    assert "Is it running?" in before.stderr
    assert start_up().run("ps").returncode == 0


def test_garbage_in_the_endpoint_file_is_no_server(home: Path) -> None:
    for garbage in ("", "[]", "{}", '{"url": 1, "pid": "x"}', "\x00"):
        (home / "endpoint.json").write_text(garbage)
        assert run(home, "ps").returncode == 3


def test_a_port_in_use(home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run(home / "data", "up", "--simulate-gpus", "8xH100", "--port", port)
    assert done.returncode == 1
    assert f"port {port} on 127.0.0.1 is in use" in done.stderr
    assert "--port" in done.stderr
    assert not (home / "data" / "postgres").exists()


def test_a_host_that_is_not_there(home: Path) -> None:
    done = run(home / "data", "up", *SIMULATE, "--host", "host.invalid")
    assert done.returncode == 1
    assert "--host" in done.stderr


def test_a_data_directory_that_is_a_file(home: Path) -> None:
    (home / "file").write_text("")
    done = run(home / "file" / "data", "up", *SIMULATE)
    assert done.returncode == 1
    assert "--data-dir" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_data_directory_without_rights(home: Path) -> None:
    data = home / "data"
    data.mkdir(mode=0o500)
    command = [*HORIZON, "up", "--data-dir", str(data / "mine"), *SIMULATE]
    if os.geteuid() == 0:  # who may do everything, unless told otherwise
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            pytest.skip("root may write everywhere, and there is no setpriv to take that away")
        command = [setpriv, "--bounding-set", "-dac_override", *command]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(data), timeout=60)
    assert done.returncode == 1
    assert f"{data / 'mine'} cannot be used: Permission denied" in done.stderr


def test_no_gpus_and_no_pretended_ones(home: Path) -> None:
    done = run(home / "data", "up", "--port", "0", CUDA_VISIBLE_DEVICES="")
    if "is ready" in done.stdout:
        pytest.skip("this machine has GPUs")
    assert done.returncode == 1
    assert "--simulate-gpus" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_no_gpus_are_written_like(home: Path) -> None:
    done = run(home / "data", "up", "--port", "0", "--simulate-gpus", "many")
    assert done.returncode == 2
    assert "8xH100" in done.stderr


def test_a_node_without_gpus_takes_cpu_jobs(start_up: Callable[..., Up]) -> None:
    up = start_up("--no-gpus")
    assert up.run("submit", "--cpus", "1", "--wait", "--", "true").returncode == 0


def test_a_node_has_the_labels_it_is_given(start_up: Callable[..., Up]) -> None:
    up = start_up("--no-gpus", "--label", "rack=r2", "--label", "zone=a")
    assert up.json("nodes")["nodes"][0]["labels"] == {"rack": "r2", "zone": "a"}
    options = ("submit", "--cpus", "1", "--wait", "--constraint", "rack=r2")
    assert up.run(*options, "--", "true").returncode == 0


def test_pretended_nodes_have_their_labels_in_their_description(home: Path) -> None:
    done = run(home / "data", "up", *SIMULATE, "--label", "rack=r2")
    assert done.returncode == 2
    assert "8xH100@K=V" in done.stderr


def test_a_postgres_that_is_not_there(home: Path) -> None:
    done = run(home / "data", "up", *SIMULATE, DATABASE_URL="postgresql://nobody@127.0.0.1:9/none")
    assert done.returncode == 1
    assert "Postgres" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_free_address_gets_a_warning(start_up: Callable[..., Up]) -> None:
    up = start_up("--simulate-gpus", "1xA100", "--host", "0.0.0.0")
    assert up.url.startswith("http://127.0.0.1:")
    assert "TLS" in up.log.read_text()


def test_others_are_told_this_machines_name_by_what_listens_on_all_addresses() -> None:
    url = "http://127.0.0.1:7420"
    assert reachable("127.0.0.1", url) == reachable("localhost", url) == url
    name = socket.gethostname()
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        assert reachable("0.0.0.0", url) == url
    else:
        assert reachable("0.0.0.0", url) == reachable("::", url) == f"http://{name}:7420"


def test_serve_wants_its_settings_from_the_environment(home: Path) -> None:
    without_database = run(home / "data", "serve", HORIZON_TOKEN="x")
    assert without_database.returncode == 2
    assert "DATABASE_URL" in without_database.stderr
    without_token = run(home / "data", "serve", DATABASE_URL="postgresql://h/db")
    assert without_token.returncode == 2
    assert "HORIZON_TOKEN" in without_token.stderr


def test_serve_on_a_given_postgres(database: str, home: Path) -> None:
    data, token = home / "data", "a-token-of-ours"
    assert "up to date" in run(data, "migrate", DATABASE_URL=database).stdout
    env = environment(data, DATABASE_URL=database, HORIZON_TOKEN=token, HORIZON_SIMULATE_GPUS="2xA100")
    process = subprocess.Popen(
        [*HORIZON, "serve", "--host", "127.0.0.1", "--port", "0"], env=env, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert "is ready" in process.stdout.readline()
        assert run(data, "submit", "--wait", "--", "true", HORIZON_TOKEN=token).returncode == 0
        assert run(data, "ps", HORIZON_TOKEN="another").returncode == 1
        assert not (data / "token").exists()
        assert not (data / "postgres").exists()
    finally:
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode == 0


async def test_a_scheduler_that_is_fenced_ends_with_the_reason(database: str, home: Path) -> None:
    """Somebody else is elected, whatever the lease says: the one that led stops at once and says why."""
    up = Up(home / "data", "--simulate-gpus", "1xA100", DATABASE_URL=database)
    try:
        store = PostgresStore(database)
        await store.open()
        await store.elect()
        assert up.process.wait(30) == 1, "it needs no request to find out"
        assert "another scheduler leads this log now" in up.log.read_text()
        await store.close()
    finally:
        up.kill()


def test_a_second_scheduler_on_the_same_log_is_turned_away(database: str, home: Path) -> None:
    up = Up(home / "first", "--simulate-gpus", "1xA100", DATABASE_URL=database, HORIZON_LEASE_TTL_S="1")
    try:
        second = run(home / "second", "up", *SIMULATE, DATABASE_URL=database)
        assert second.returncode == 5
        assert up.url in second.stderr
        assert f"/{up.process.pid}" in second.stderr
        assert "--standby" in second.stderr
        assert up.run("submit", "--wait", "--", "true").returncode == 0
    finally:
        up.clear()


def test_a_lease_is_waited_for_by_others_and_not_by_its_own_directory(database: str, home: Path) -> None:
    """Two are killed in turn: the first is started again at once, for nobody else has its directory."""
    env = {"DATABASE_URL": database, "HORIZON_LEASE_TTL_S": "600"}
    killed = Up(home / "first", "--simulate-gpus", "1xA100", **env)
    killed.kill()
    env["HORIZON_LEASE_TTL_S"] = "4"
    again = Up(home / "first", "--simulate-gpus", "1xA100", **env)
    assert "waiting" not in again.log.read_text(), "ten minutes would have been too long for this test"
    again.kill()
    other = Up(home / "second", "--simulate-gpus", "1xA100", **env)
    said = other.log.read_text()
    assert f"/{again.process.pid}" in said
    assert "s for its lease to end" in said
    other.clear()


def test_a_lease_that_was_given_back_at_stop_is_waited_for_by_nobody(database: str, home: Path) -> None:
    env = {"DATABASE_URL": database, "HORIZON_LEASE_TTL_S": "600"}
    assert Up(home / "first", "--simulate-gpus", "1xA100", **env).stop()[0] == 0
    other = Up(home / "second", "--simulate-gpus", "1xA100", **env)
    assert "waiting" not in other.log.read_text()
    other.clear()


def test_interrupted_while_it_starts(home: Path) -> None:
    data = home / "data"
    process = subprocess.Popen(
        [*HORIZON, "up", *SIMULATE],
        env=environment(data),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    eventually(lambda: (data / "postgres").exists(), "the beginning of a database")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert not (data / "postgres" / "postmaster.pid").exists()


def test_the_token_can_be_changed(start_up: Callable[..., Up]) -> None:
    up = start_up()
    old = up.ok("token").strip()
    new = up.ok("token", "--rotate").strip()
    assert new != old
    assert up.run("ps").returncode == 1, "the running server still goes by the old one"
    assert up.run("ps", HORIZON_TOKEN=old).returncode == 0
    up.stop()
    assert start_up().run("ps").returncode == 0


def test_there_is_no_token_before_the_first_start(home: Path) -> None:
    done = run(home / "data", "token")
    assert done.returncode == 4
    assert "horizon up" in done.stderr


@pytest.mark.parametrize("how", [signal.SIGQUIT, signal.SIGKILL])
def test_a_postgres_that_dies_is_started_again_and_nothing_is_lost(
    start_up: Callable[..., Up], how: signal.Signals
) -> None:
    up = start_up()
    ran = up.data_dir / "ran"
    assert up.run("submit", "--", f"sleep 2; echo ran >> {ran}").returncode == 0
    pid_file = up.data_dir / "postgres" / "postmaster.pid"
    os.kill(int(pid_file.read_text().split()[0]), how)
    eventually(lambda: up.run("submit", "--wait", "--", "true").returncode == 0, "a Postgres started again")
    eventually(lambda: '"Completed"' in up.run("show", "1", "--json").stdout, "the end of the first job")
    assert ran.read_text() == "ran\n"
    code, said = up.stop()
    assert code == 0, said
    assert "Traceback" not in up.log.read_text()
    assert start_up().run("submit", "--wait", "--", "true").returncode == 0


def test_waiting_goes_on_through_a_restart(start_up: Callable[..., Up]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    up = start_up("--simulate-gpus", "1xH100", "--port", port)
    command = [*HORIZON, "submit", "--follow", "--", "echo one; sleep 3; echo two; exit 6"]
    follower = subprocess.Popen(
        command, env=environment(up.data_dir), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert follower.stdout is not None
    assert follower.stdout.readline() == "one\n"
    up.kill()
    start_up("--simulate-gpus", "1xH100", "--port", port)
    rest, said = follower.communicate(timeout=60)
    assert rest == "two\n"
    assert follower.returncode == 6, said
