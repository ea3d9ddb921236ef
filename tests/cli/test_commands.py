"""The commands, as a user types them, against a real server."""

from __future__ import annotations

import getpass
import json
import os
import signal
import subprocess
import time
from pathlib import Path

from tests.cli.house import HORIZON, Up, environment, eventually


def test_a_command_is_run_as_it_is(up: Up) -> None:
    job = up.submit("--gpus", "2", "--", "printf", "%s|", "a b", "$HOME", "--gpus")
    shown = up.until(job, "Completed")
    assert shown["command"] == ["printf", "%s|", "a b", "$HOME", "--gpus"]
    assert shown["user_id"] == getpass.getuser()
    assert shown["working_dir"] == "/tmp"
    assert shown["resources"]["gpu_count"] == 2
    assert up.ok("logs", job) == "a b|$HOME|--gpus|"


def test_one_argument_with_a_space_is_a_line_of_shell(up: Up) -> None:
    job = up.submit("--", "echo out; echo err >&2; exit 3")
    assert up.until(job, "Failed")["exit_code"] == 3
    assert up.ok("logs", job) == "out\n"
    assert up.ok("logs", job, "--stderr") == "err\n"


def test_a_script_is_recorded_at_submission(up: Up, tmp_path: Path) -> None:
    script = tmp_path / "train.sh"
    script.write_text("#!/bin/sh\necho first version\n")
    job = up.submit("--hold", str(script))
    script.write_text("#!/bin/sh\necho second version\n")
    up.ok("release", job)
    up.until(job, "Completed")
    assert up.ok("logs", job) == "first version\n"


def test_a_script_from_standard_input(up: Up) -> None:
    done = up.run("submit", "--wait", "-", stdin="#!/bin/sh\nexit 9\n")
    assert done.returncode == 9


def test_every_option_reaches_the_job(up: Up) -> None:
    os.environ["FROM_HERE"] = "yes"
    job = up.submit(
        "--gpus", "2", "--gpu-type", "H100", "--gpu-memory", "40", "--cpus", "4", "--memory", "1.5T",
        "--nodes", "1",
        "--priority", "high", "--name", "all [bold]of it", "--account", "research/nlp", "--user", "zoe",
        "--env", "A=b=c", "--env", "FROM_HERE", "--time-limit", "1h30m", "--grace", "5s", "--retries", "2",
        "--constraint", "zone=a", "--label", "team=x", "--label", "run=1", "--comment", "why not", "--hold",
        "--begin", "2099-01-01T00:00Z", "--exclusive", "--preemptible", "--signal", "usr1", "--", "true",
    )  # fmt: skip
    shown = up.json("show", job)
    expected = {
        "gpu_type": "H100", "gpu_memory_gb": 40, "cpu_cores": 4, "memory_gb": 1_536, "nodes": 1,
        "priority": "High",
        "job_name": "all [bold]of it", "account": "research/nlp", "user_id": "zoe", "time_limit_s": 5_400,
        "environment": {"A": "b=c", "FROM_HERE": "yes"}, "grace_period_s": 5, "max_retries": 2,
        "constraints": {"zone": "a"}, "labels": {"team": "x", "run": "1"}, "comment": "why not", "hold": True,
        "exclusive": True, "preemptible": True, "stop_signal": "SIGUSR1", "state": "Queued",
    }  # fmt: skip
    assert {name: shown[name] for name in expected} == expected
    assert shown["begin_at"].startswith("2099-01-01T00:00:00")
    text = up.ok("show", job)
    assert "all [bold]of it" in text
    assert "2 H100 of 40 GB or more" in text
    assert up.ok("cancel", job, "--reason", "only a test") == f"job {job} cancelled\n"
    assert "only a test" in json.dumps(up.json("events", "--job", job))


def test_only_cores_make_a_cpu_job(up: Up) -> None:
    job = up.submit("--cpus", "2", "--", "true")
    assert up.until(job, "Completed")["resources"]["gpu_count"] == 0


def test_follow_passes_output_on_and_ends_like_the_job(up: Up) -> None:
    done = up.run("submit", "--follow", "--", "echo one; sleep 0.3; echo two; echo oops >&2; exit 7")
    assert done.returncode == 7
    assert done.stdout == "one\ntwo\n"
    assert "oops" in done.stderr
    assert "exit code 7" in done.stderr


def test_follow_shows_every_attempt(up: Up) -> None:
    done = up.run("submit", "--follow", "--retries", "1", "--", "echo try; exit 4")
    assert done.returncode == 4
    assert done.stdout == "try\ntry\n"


def test_wait_ends_with_the_signal_as_a_shell_would(up: Up) -> None:
    assert up.run("submit", "--wait", "--", "kill -KILL $$ ; true").returncode == 128 + signal.SIGKILL
    assert up.run("submit", "--wait", "--", "/no/such/program").returncode == 1
    done = up.run("submit", "--wait", "--json", "--", "true")
    assert done.returncode == 0
    assert json.loads(done.stdout)["state"] == "Completed"


def test_interrupting_a_follower_leaves_the_job_running(up: Up) -> None:
    command = [*HORIZON, "submit", "--follow", "--name", "goes-on", "--", "echo here; sleep 60"]
    follower = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(up.data_dir),
        # As a terminal would start it: tests that run in the background may have been told to ignore ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "here\n"
        follower.send_signal(signal.SIGINT)
        _, said = follower.communicate(timeout=20)
    assert follower.returncode == 130
    (job,) = up.json("ps", "--name", "goes-on")["jobs"]
    assert job["state"] == "Running"
    assert f"job {job['number']} goes on" in said
    assert "Traceback" not in said
    up.ok("cancel", str(job["number"]))


def test_logs_follow_until_the_end(up: Up) -> None:
    job = up.submit("--", "for i in 1 2 3; do echo $i; sleep 0.2; done")
    assert up.ok("logs", "-f", job) == "1\n2\n3\n"


def test_output_of_many_megabytes_arrives_whole(up: Up) -> None:
    job = up.submit("--", "head -c 20000000 /dev/zero")
    up.until(job, "Completed")
    done = subprocess.run(
        [*HORIZON, "logs", job], capture_output=True, env=environment(up.data_dir), timeout=60
    )
    assert len(done.stdout) == 20_000_000


def test_listing_by_what_jobs_are(up: Up) -> None:
    names = {"--user": "lister", "--account": "lists/deep", "--label": "kind=listed", "--priority": "Low"}
    options = [part for pair in names.items() for part in pair]
    jobs = [up.submit("--hold", *options, "--", "true") for _ in range(3)]
    for option, value in names.items():
        found = [str(job["number"]) for job in up.json("ps", option, value)["jobs"]]
        assert set(jobs) <= set(found)
    assert len(up.json("ps", "--user", "lister", "--limit", "2")["jobs"]) == 2
    table = up.ok("ps", "--user", "lister").splitlines()
    assert table[0].split() == ["JOB", "NAME", "USER", "STATE", "PRIORITY", "GPUS", "TIME", "WHERE", "REASON"]
    assert len(table) == 4
    assert "\x1b" not in "".join(table)
    up.ok("cancel", *jobs)
    assert "no jobs" in up.run("ps", "--user", "lister").stderr
    assert len(up.json("ps", "--user", "lister", "--all")["jobs"]) == 3
    assert len(up.json("ps", "--user", "lister", "--state", "cancelled")["jobs"]) == 3


def test_changing_the_priority_and_the_time_limit(up: Up) -> None:
    job = up.submit("--hold", "--", "true")
    assert up.ok("update", job, "--priority", "high", "--time-limit", "1h30m") == f"job {job} changed\n"
    shown = up.json("show", job)
    assert (shown["priority"], shown["time_limit_s"]) == ("High", 5_400)
    up.ok("update", job, "--time-limit", "0")
    assert up.json("show", job)["time_limit_s"] is None
    done = up.run("update", job)
    assert done.returncode == 2
    assert "give --priority or --time-limit" in done.stderr


def test_holding_and_releasing(up: Up) -> None:
    job = up.submit("--hold", "--", "true")
    assert "held" in up.json("show", job)["reason"]
    assert up.ok("release", job) == f"job {job} released\n"
    up.until(job, "Completed")
    assert up.run("hold", job).returncode == 5


def test_an_array_is_one_line_until_its_tasks_are_asked_for(up: Up) -> None:
    command = "echo task $HORIZON_ARRAY_INDEX; test $HORIZON_ARRAY_INDEX = 0 || sleep 60"
    array = up.submit("--array", "0-8:2%2", "--name", "sweep", "--grace", "0", "--", command)
    up.until(f"{array}_0", "Completed")
    for index in (2, 4):
        up.until(f"{array}_{index}", "Running")
    listed = [line.split() for line in up.ok("ps", "--name", "sweep").splitlines()[1:]]
    assert [line[0] for line in listed] == [f"{array}_4", f"{array}_2", f"{array}_[0-8:2%2]"]
    assert "5 tasks, 2 queued, 2 running, 1 completed" in up.ok("ps", "--name", "sweep")
    singly = [line.split()[0] for line in up.ok("ps", "--array", array).splitlines()[1:]]
    assert singly == [f"{array}_{index}" for index in (8, 6, 4, 2)]
    assert len(up.json("ps", "--name", "sweep", "--tasks", "--all")["jobs"]) == 5
    assert up.ok("logs", f"{array}_0") == "task 0\n"
    done = up.run("logs", array)
    assert done.returncode == 4
    assert f"name a task, such as {array}_0" in done.stderr
    shown = up.ok("show", array)
    assert "0-8:2%2" in shown
    assert "5 tasks" in shown
    assert f"{array}_4" in up.ok("show", f"{array}_4")
    assert f"{array}_6" in up.ok("queue")
    assert f"{array}_2" in up.ok("gpus")
    assert up.ok("cancel", f"{array}_8") == f"job {array}_8 cancelled\n"
    assert up.ok("cancel", array) == f"job {array} cancelled\n"
    assert up.run("ps", "--array", "999999").returncode == 1


def test_waiting_for_an_array_is_waiting_for_all_its_tasks(up: Up) -> None:
    assert up.run("submit", "--array", "1-3", "--wait", "--", "true").returncode == 0
    command = "test $HORIZON_ARRAY_INDEX != 2"
    failed = up.run("submit", "--array", "1-3", "--wait", "--", command)
    assert failed.returncode == 1
    assert "failed" in failed.stderr
    assert up.run("submit", "--array", "1-3", "--follow", "--", "true").returncode == 2


def test_a_job_waits_for_others(up: Up) -> None:
    first = up.submit("--hold", "--", "true")
    options = [("--after-ok", "after_ok"), ("--after-any", "after_any"), ("--after-start", "after_start")]
    job = up.submit(*(word for option, _ in options for word in (option, first)), "--", "true")
    assert sorted(one["kind"] for one in up.json("show", job)["depends_on"]) == sorted(
        kind for _, kind in options
    )
    assert f"after_ok of job {first}" in up.ok("show", job)
    failing = up.submit("--after-not-ok", first, "--", "true")
    up.ok("release", first)
    up.until(job, "Completed")
    up.until(failing, "Failed")
    refused = up.run("submit", "--after-ok", first, "--after-any", "999999", "--", "true")
    assert refused.returncode == 1
    assert "--after-any: there is no job 999999" in refused.stderr
    refused = up.run("submit", "--array", "9-1", "--", "true")
    assert "--array: at character 1" in refused.stderr


def test_a_running_job_goes_back_to_the_queue(up: Up) -> None:
    job = up.submit("--grace", "0", "--", "sleep", "60")
    up.until(job, "Running")
    assert up.ok("checkpoint", job) == f"job {job} has saved its work\n"
    assert up.ok("requeue", job, "--reason", "new driver") == f"job {job} goes back to the queue\n"
    eventually(lambda: up.json("show", job)["attempt"] == 2, "another attempt")
    assert "new driver" in up.ok("events", "--job", job)
    up.ok("cancel", job)
    assert up.run("requeue", job).returncode == 5
    assert up.run("checkpoint", job).returncode == 5


def test_what_a_job_was_given_is_erased(up: Up, tmp_path: Path) -> None:
    script = tmp_path / "job.sh"
    script.write_text("#!/bin/sh\n: a script to erase\n")
    first, other = up.submit("--env", "A=b", str(script)), up.submit("--hold", str(script))
    assert up.run("erase", other).returncode == 5
    up.until(first, "Completed")
    said = up.ok("erase", first, "--reason", "asked to")
    assert said == f"job {first} erased, but for what a job needs that has not ended\n"
    assert "erased, as is any script" in up.ok("show", first)
    assert "asked to" in up.ok("events", "--job", first, "--json")
    up.ok("cancel", other)
    assert up.ok("erase", other) == f"job {other} erased\n"


def test_the_cluster(up: Up) -> None:
    gate = up.submit("--gpus", "8", "--", "sleep", "60")
    up.until(gate, "Running")
    waiting = up.submit("--gpus", "8", "--user", "waiter", "--", "true")
    order = up.run("queue")
    assert waiting in order.stdout.split()
    assert "1 waiting" in order.stderr
    assert up.json("queue")["total"] == 1
    assert up.ok("gpus").count("held") == 8
    assert len(up.json("gpus")["gpus"]) == 8
    assert "0/8" in up.ok("nodes")
    assert up.json("nodes")["nodes"][0]["name"] == "node-1"
    assert "waiter" in up.ok("shares")
    assert "waits for 8" in up.ok("ps")
    state = up.look("/state")
    up.ok("cancel", gate, waiting)
    head = str(state["position"])
    assert (up.json("queue")["total"], up.json("queue", "--at", head)["total"]) == (0, 1)
    order = up.ok("queue", "--at", state["at"]).splitlines()
    assert order[0].endswith("SUBMITTED")
    assert waiting in order[1].split()
    assert up.ok("gpus", "--at", head).count("held") == 8
    assert "0/8" in up.ok("nodes", "--at", head)
    (then,) = [one for one in up.json("shares", "--at", head)["shares"] if one["path"] == "default"]
    assert (then["gpus_held"], then["waiting"]) == (8, 1)
    wrong = up.run("queue", "--at", "yesterday")
    assert wrong.returncode == 2
    assert "or a position of the log" in wrong.stderr


def test_setting_a_share(up: Up) -> None:
    done = up.run("shares", "set", "fresh/team", "3")
    assert done.returncode == 4
    assert "--user or --account" in up.ok("shares", "set", "--help")
    up.ok("shares", "set", "--account", "fresh/team", "3")
    up.ok("shares", "set", "--user", "fresh/team/ann lee", "2", "--reason", "a deadline")
    weights = {share["path"]: share["weight"] for share in up.json("shares")["shares"]}
    assert weights["fresh/team"] == 3
    assert weights["fresh/team/ann lee"] == 2
    assert "a deadline" in up.ok("events", "--limit", "10000")


def test_events(up: Up) -> None:
    job = up.submit("--", "true")
    up.until(job, "Completed")
    eventually(lambda: "is free again" in up.ok("events", "--job", job), "the release")
    types = [event["type"] for event in up.json("events", "--job", job)["events"]]
    assert types == ["JobSubmitted", "JobScheduled", "JobStarted", "JobCompleted", "AllocationReleased"]
    page = up.json("events", "--after", "1", "--limit", "2")
    assert [event["position"] for event in page["events"]] == [2, 3]
    done = up.run("events", "--limit", "1")
    assert "leads in epoch 1" in done.stdout
    assert "--after 1" in done.stderr
    assert "LeaderElected" in up.ok("events", "--limit", "1", "--raw")
    asked = ("--actor", "executor", "--type", "JobStarted", "--type", "JobCompleted", "--since", "-1h")
    types = [event["type"] for event in up.json("events", "--job", job, *asked)["events"]]
    assert types == ["JobStarted", "JobCompleted"]
    assert up.ok("events", "--until", "-1h") == ""
    done = up.run("events", "--type", "JobTeleported")
    assert done.returncode == 1
    assert "JobSubmitted" in done.stderr


def test_what_is_not_there_and_what_cannot_be(up: Up) -> None:
    assert up.run("show", "999999").returncode == 4
    assert up.run("cancel", "01890a5d-ac96-774b-bcce-b302099a8057").returncode == 4
    assert up.run("show", "not a job").returncode == 1
    ended = up.submit("--", "true")
    up.until(ended, "Completed")
    done = up.run("cancel", ended)
    assert done.returncode == 5
    assert "already ended" in done.stderr
    live = up.submit("--hold", "--", "true")
    both = up.run("cancel", ended, live)
    assert both.returncode == 5
    assert both.stdout == f"job {live} cancelled\n"


def test_refusals_name_the_option(up: Up) -> None:
    done = up.run("submit", "--gpus", "9999999", "--name", "x" * 5_000, "--", "true")
    assert done.returncode == 1
    assert "--gpus" in done.stderr
    assert "--name" in done.stderr
    assert "/gpu_count" not in done.stderr


def test_wrong_command_lines(up: Up, tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\x7fELF\xff\xfe")
    wrong = [
        ("submit",),
        ("submit", "--"),
        ("submit", "python"),
        ("submit", "python", "train.py"),
        ("submit", str(binary)),
        ("submit", str(tmp_path)),
        ("submit", "a.sh", "--", "true"),
        ("submit", "--time-limit", "soon", "--", "true"),
        ("submit", "--memory", "lots", "--", "true"),
        ("submit", "--label", "nothing", "--", "true"),
        ("submit", "--env", "NOT_SET_ANYWHERE", "--", "true"),
        ("submit", "--priority", "extreme", "--", "true"),
        ("submit", "--signal", "KILL", "--", "true"),
        ("ps", "--state", "asleep"),
        ("why", "1", "--at", "yesterday"),
        ("why", "1", "--at", "+99999999999d"),
        ("frobnicate",),
        ("--url", "ftp://x", "ps"),
    ]
    for arguments in wrong:
        done = up.run(*arguments)
        assert done.returncode == 2, (arguments, done)
        assert "Traceback" not in done.stderr
    assert "horizon submit -- python train.py" in up.run("submit", "python", "train.py").stderr
    assert "did you mean 'submit'" in up.run("submti").stderr


def test_hostile_texts_are_shown_harmless(up: Up) -> None:
    job = up.submit("--hold", "--name", "red", "--comment", "\x1b[31mred\x1b[0m", "--", "true")
    assert "\x1b[31m" not in up.ok("show", job)
    up.ok("cancel", job)


def test_a_wrong_token_and_a_wrong_address(up: Up) -> None:
    wrong = up.run("ps", HORIZON_TOKEN="wrong")
    assert wrong.returncode == 1
    assert "HORIZON_TOKEN" in wrong.stderr
    for command in (("logs", "1"), ("logs", "-f", "1"), ("submit", "--follow", "--", "true")):
        gone = up.run(*command, HORIZON_URL="http://127.0.0.1:9", HORIZON_TOKEN="x")
        assert gone.returncode == 3, command
    assert up.run("submit", "--gpus", "-1", "--", "true").returncode == 2
    away = up.run("ps", HORIZON_URL="http://127.0.0.1:9", HORIZON_TOKEN="x")
    assert away.returncode == 3
    assert "cannot reach Horizon at http://127.0.0.1:9" in away.stderr
    token = up.ok("token").strip()
    assert up.run("ps", HORIZON_URL=up.url, HORIZON_TOKEN=token, HORIZON_DATA_DIR="/nowhere").returncode == 0
    assert up.run("--url", up.url, "ps").returncode == 0
    assert (up.data_dir / "token").stat().st_mode & 0o777 == 0o600


def test_a_closed_pipe_is_no_error(up: Up) -> None:
    done = subprocess.run(
        f"{' '.join(HORIZON)} events --limit 10000 | head -1",
        shell=True,
        capture_output=True,
        text=True,
        env=environment(up.data_dir),
    )
    assert done.stderr == ""


def test_a_listing_starts_quickly_and_imports_little(up: Up) -> None:
    heavy = [
        "aiohttp",
        "asyncio",
        "asyncpg",
        "msgspec",
        "rich",
        "structlog",
        "sqlalchemy",
        "uvloop",
        "pynvml",
    ]
    code = (
        "import sys, horizon.cli.main as m; sys.argv = ['horizon', 'ps']\n"
        "try: m.main()\n"
        f"except SystemExit: print([name for name in {heavy!r} if name in sys.modules])"
    )
    python = HORIZON[0]
    done = subprocess.run(
        [python, "-c", code], capture_output=True, text=True, env=environment(up.data_dir), timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_tables_on_a_terminal(up: Up) -> None:
    """On a terminal there is a table with colours, with NO_COLOR there are none."""
    import pty

    job = up.submit("--hold", "--name", "seen-by-people", "--", "true")
    for no_color in (False, True):
        env = environment(
            up.data_dir, TERM="xterm-256color", COLUMNS="160", **({"NO_COLOR": "1"} if no_color else {})
        )
        leader, follower = pty.openpty()
        process = subprocess.Popen(
            [*HORIZON, "ps"], stdout=follower, stderr=follower, stdin=follower, env=env
        )
        os.close(follower)
        text = _read_all(leader)
        assert process.wait(20) == 0
        assert "seen-by-people" in text
        assert ("\x1b[33m" in text) is not no_color
    up.ok("cancel", job)


def _read_all(descriptor: int) -> str:
    found = b""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            piece = os.read(descriptor, 65_536)
        except OSError:  # Linux says so when the other side is closed
            break
        if not piece:
            break
        found += piece
    os.close(descriptor)
    return found.decode()


def test_shells_can_complete(up: Up) -> None:
    words = {"COMP_WORDS": "horizon su", "COMP_CWORD": "1", "_HORIZON_COMPLETE": "bash_complete"}
    assert "submit" in up.run(**words).stdout
    assert "horizon" in up.run(_HORIZON_COMPLETE="bash_source").stdout
