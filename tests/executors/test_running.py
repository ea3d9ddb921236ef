"""One job on one node: how it starts, what it gets, how it ends."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from horizon.core.commands import ReportEnded, ReportReleased, ReportStarted
from horizon.core.model import Exit, StopSignal
from horizon.executors.local import LocalExecutor
from horizon.executors.port import ExecutorError, Held
from tests.executors.box import Box, a_launch, carriers, is_gone, new_key, until

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
as_user = pytest.mark.skipif(os.geteuid() == 0, reason="root may enter every directory")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", path], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.decode().strip()}")
    yield path
    subprocess.run(["umount", "-l", path], check=True)


def make_read_only(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)


async def test_a_job_starts_and_completes(box: Box) -> None:
    key = box.launch(a_launch(("true",)))
    await box.released(key)
    assert box.of(key) == [ReportStarted(key.job_id, 1), ReportEnded(key.job_id, 1, Exit(exit_code=0))]


async def test_the_exit_code_is_the_jobs(box: Box) -> None:
    assert (await box.run(a_launch("exit 3"))).exit == Exit(exit_code=3)


async def test_a_signal_that_killed_the_job_is_told(box: Box) -> None:
    assert (await box.run(a_launch("kill -SEGV $$"))).exit == Exit(signal=signal.SIGSEGV)


async def test_a_list_is_executed_as_it_is_and_a_string_by_the_shell(box: Box) -> None:
    first, second = a_launch(("echo", "$HOME;", "a  b")), a_launch("echo $HORIZON_JOB_NUMBER  | cat")
    await box.run(first)
    await box.run(second)
    assert box.output(first.key) == b"$HOME; a  b\n"
    assert box.output(second.key) == b"7\n"


async def test_a_script_is_run_by_the_interpreter_it_names(box: Box) -> None:
    launch = a_launch(
        script=f"#!{sys.executable}\nimport os, sys\nprint(sys.argv[1:], oct(os.stat(__file__).st_mode))\n"
        "sys.exit(4)".encode(),
        command=("x",),
    )
    assert (await box.run(launch)).exit == Exit(exit_code=4)
    assert box.output(launch.key) == b"['x'] 0o100700\n"
    assert not box.path(launch.key, "0.script").exists(), "nothing is left to erase"


async def test_a_script_without_an_interpreter_is_run_by_the_shell(box: Box) -> None:
    launch = a_launch(script=b"echo hello\nexit 5", command="")
    assert (await box.run(launch)).exit == Exit(exit_code=5)
    assert box.output(launch.key) == b"hello\n"


async def test_standard_input_is_empty_and_nothing_else_is_inherited(box: Box) -> None:
    launch = a_launch(("sh", "-c", "cat; ls /proc/self/fd | wc -l; ps -o sid= -p $$ | tr -d ' '; echo $$"))
    await box.run(launch)
    files, session, pid = box.output(launch.key).split()
    assert int(files) == 4  # its three, and the one with which ls reads the directory
    assert session == pid


async def test_no_signal_is_blocked_or_ignored(box: Box) -> None:
    launch = a_launch(("grep", "-E", "SigBlk|SigIgn", "/proc/self/status"))
    await box.run(launch)
    of_the_c_library = 1 << 31 | 1 << 32  # nobody can change those two
    masks = [int(line.split()[1], 16) & ~of_the_c_library for line in box.output(launch.key).splitlines()]
    assert masks == [0, 0]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("no-such-program", "x"), r"command not found: 'no-such-program' \(searched the PATH that its env"),
        (("/no/such/program",), r"command not found: '/no/such/program'"),
        (("/etc/passwd",), r"permission denied: '/etc/passwd' is not executable"),
        (("/tmp",), r"permission denied: '/tmp' is a directory"),
        (("true", "x" * 3_000_000), r"too long"),
        (("true", "a\0b"), r"cannot start '.*true': embedded null"),
    ],
)
async def test_a_command_that_cannot_be_started_says_why(
    box: Box, command: tuple[str, ...], message: str
) -> None:
    launch = a_launch(command, environment={"PATH": "/usr/bin:/bin"})
    ended = await box.run(launch)
    assert (ended.started, ended.exit.exit_code, ended.exit.signal) == (False, None, None)
    assert ended.exit.error
    assert re.search(message, ended.exit.error)
    assert len(box.of(launch.key)) == 1


async def test_a_file_without_a_known_format_says_so(box: Box, tmp_path: Path) -> None:
    strange, orphaned = tmp_path / "strange", tmp_path / "orphaned"
    strange.write_bytes(b"\x01\x02\x03")
    orphaned.write_text("#!/no/such/interpreter\n")
    strange.chmod(0o755)
    orphaned.chmod(0o755)
    assert "#! line" in str((await box.run(a_launch((str(strange),)))).exit.error)
    assert "interpreter" in str((await box.run(a_launch((str(orphaned),)))).exit.error)


async def test_a_command_the_shell_does_not_find_keeps_its_exit_code_and_says_why(box: Box) -> None:
    ended = await box.run(a_launch("no-such-program --flag"))
    assert ended.started
    assert ended.exit.exit_code == 127
    assert str(ended.exit.error).startswith("command not found: ")
    assert "no-such-program" in str(ended.exit.error)


async def test_a_missing_working_directory_is_named(box: Box, tmp_path: Path) -> None:
    ended = await box.run(a_launch(working_dir=tmp_path / "nowhere"))
    assert not ended.started
    assert ended.exit.error == f"the working directory does not exist: '{tmp_path}/nowhere'"


async def test_a_working_directory_that_is_a_file_is_named(box: Box) -> None:
    ended = await box.run(a_launch(working_dir="/etc/passwd"))
    assert ended.exit.error == "cannot enter the working directory '/etc/passwd': not a directory"


@as_user
async def test_a_working_directory_without_rights_is_named(box: Box, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    ended = await box.run(a_launch(working_dir=tmp_path / "closed"))
    assert "permission denied" in str(ended.exit.error)


@as_root
async def test_a_job_that_fails_in_a_directory_it_cannot_write_to_hears_so(
    box: Box, small_disk: Path
) -> None:
    make_read_only(small_disk)
    ended = await box.run(a_launch("echo x > file", working_dir=small_disk))
    assert ended.exit.exit_code
    assert ended.exit.error == f"its working directory '{small_disk}' is not writable, which may be why"


async def test_the_working_directory_is_the_one_asked_for(box: Box, tmp_path: Path) -> None:
    there, here = a_launch(("pwd",), working_dir=tmp_path), a_launch(("pwd",))
    await box.run(there)
    await box.run(here)
    assert box.output(there.key).decode().strip() == str(tmp_path)
    assert box.output(here.key).decode().strip() == f"{box.attempts}/{here.key}"


async def test_the_environment_names_the_job_and_its_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HORIZON_TOKEN", "secret")
    monkeypatch.setenv("DATABASE_URL", "postgres://secret")
    monkeypatch.setenv("FROM_THE_SCHEDULER", "yes")
    box = Box(tmp_path)
    await box.open()
    launch = a_launch(
        ("env",),
        gpu_ids=("GPU-a", "GPU-b"),
        environment={"MINE": "1", "HORIZON_JOB_ID": "forged", "CUDA_VISIBLE_DEVICES": "all"},
    )
    await box.run(launch)
    await box.close()
    got = dict(line.split("=", 1) for line in box.output(launch.key).decode().splitlines())
    wanted = {
        "MINE": "1",
        "FROM_THE_SCHEDULER": "yes",
        "CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "HORIZON_JOB_ID": launch.key.job_id,
        "HORIZON_JOB_NUMBER": "7",
        "HORIZON_JOB_NAME": "a job",
        "HORIZON_ATTEMPT": "1",
        "HORIZON_ATTEMPT_ID": f"{launch.key.job_id}.1",
        "HORIZON_NODE": "node-1",
        "HORIZON_NODE_RANK": "0",
        "HORIZON_NODE_COUNT": "1",
        "HORIZON_NODE_LIST": "node-1",
        "HORIZON_GPU_COUNT": "2",
        "HORIZON_CHECKPOINT_FILE": f"{box.attempts}/{launch.key}/0.checkpoint",
    }
    assert wanted.items() <= got.items()
    assert not {"HORIZON_TOKEN", "DATABASE_URL", "HORIZON_ARRAY_INDEX"} & got.keys()


async def test_a_task_of_an_array_is_told_its_index(box: Box) -> None:
    launch = structs.replace(a_launch("echo $HORIZON_ARRAY_NUMBER $HORIZON_ARRAY_INDEX"), array=12, index=0)
    await box.run(launch)
    assert box.output(launch.key) == b"12 0\n"


async def test_a_job_without_gpus_sees_none(box: Box) -> None:
    launch = a_launch("echo [$CUDA_VISIBLE_DEVICES]")
    await box.run(launch)
    assert box.output(launch.key) == b"[]\n"


async def test_environment_values_are_nowhere_on_disk_and_the_directory_is_private(box: Box) -> None:
    launch = a_launch("sleep 0.1", environment={"PASSWORD": "hunter2-hunter2"})
    await box.run(launch)
    assert box.path().stat().st_mode & 0o777 == 0o700
    for path in box.path().rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
        assert not path.is_file() or b"hunter2" not in path.read_bytes()


async def test_many_megabytes_of_output_are_kept_to_the_last_byte(box: Box) -> None:
    launch = a_launch("head -c 20000000 /dev/zero; echo end; head -c 5000000 /dev/zero >&2")
    assert (await box.run(launch)).exit.exit_code == 0
    assert len(box.output(launch.key)) == 20_000_004
    assert len(box.output(launch.key, "stderr")) == 5_000_000


async def test_what_the_main_process_leaves_behind_is_killed_before_the_attempt_is_released(box: Box) -> None:
    launch = a_launch("sleep 1000 & (setsid sleep 1000 &) ; echo started")
    key = box.launch(launch)
    ended = await box.released(key)
    assert ended.exit == Exit(exit_code=0)
    assert carriers(key) == []
    if not ended.released:
        assert box.of(key)[-1] == ReportReleased(key.job_id, 1)


async def test_children_that_hide_behind_a_double_fork_and_an_empty_environment_are_killed(box: Box) -> None:
    launch = a_launch("(setsid env -i /bin/sh -c 'echo $$; sleep 1000 & exec sleep 1000' &) ; sleep 1000")
    key = box.launch(launch)
    await box.printed(key, b"\n")
    hidden = int(box.output(key))
    box.executor.stop(key, 0)
    ended = await box.released(key)
    assert ended.exit == Exit(signal=signal.SIGKILL)
    assert is_gone(hidden)


async def test_a_crowd_that_forks_without_end_is_killed(box: Box) -> None:
    fork_forever = "import os, time\nwhile True:\n    if os.fork(): time.sleep(0.002); os._exit(0)\n"
    key = box.launch(a_launch((sys.executable, "-c", fork_forever)))
    await box.released(key)
    assert carriers(key) == []


# Stopping


async def test_a_stop_lets_the_job_end_by_itself(box: Box) -> None:
    key = box.launch(a_launch("trap 'echo bye; exit 9' TERM; echo ready; while :; do sleep 0.01; done"))
    await box.printed(key, b"ready")
    box.executor.stop(key, 30)
    assert (await box.released(key)).exit == Exit(exit_code=9)
    assert box.output(key) == b"ready\nbye\n"


@pytest.mark.parametrize("stop_signal", StopSignal)
async def test_a_job_is_stopped_by_the_signal_that_it_asked_for(box: Box, stop_signal: StopSignal) -> None:
    number = signal.Signals[stop_signal.value]
    traps = "; ".join(f"trap 'echo {each}; exit 9' {each.removeprefix('SIG')}" for each in StopSignal)
    plain = box.launch(a_launch(("sleep", "1000"), stop_signal=stop_signal))
    trapped = box.launch(
        a_launch(f"{traps}; echo ready; while :; do sleep 0.01; done", stop_signal=stop_signal)
    )
    await box.printed(trapped, b"ready")
    await box.started(plain)
    for key in (plain, trapped):
        box.executor.stop(key, 30)
    assert (await box.released(plain)).exit == Exit(signal=number)
    assert (await box.released(trapped)).exit == Exit(exit_code=9)
    assert box.output(trapped).decode() == f"ready\n{stop_signal}\n"


async def test_what_ignores_sigterm_is_killed_after_the_grace_period(box: Box) -> None:
    key = box.launch(a_launch("trap '' TERM; echo ready; sleep 1000; sleep 1000"))
    await box.printed(key, b"ready")
    box.executor.stop(key, 1)
    await asyncio.sleep(0.5)
    assert box.ended(key) is None
    assert (await box.released(key)).exit == Exit(signal=signal.SIGKILL)
    assert carriers(key) == []


async def test_no_grace_is_a_kill_at_once(box: Box) -> None:
    key = box.launch(a_launch("trap '' TERM; echo ready; sleep 1000"))
    await box.printed(key, b"ready")
    box.executor.stop(key, 0)
    assert (await box.released(key)).exit == Exit(signal=signal.SIGKILL)


async def test_a_second_stop_with_less_grace_shortens_it_and_one_with_more_does_not_extend_it(
    box: Box,
) -> None:
    key = box.launch(a_launch("trap '' TERM; echo ready; sleep 1000"))
    await box.printed(key, b"ready")
    box.executor.stop(key, 3600)
    await asyncio.sleep(0.1)
    assert box.ended(key) is None
    box.executor.stop(key, 0)
    box.executor.stop(key, 3600)
    assert (await box.released(key)).exit == Exit(signal=signal.SIGKILL)


async def test_children_keep_their_grace_when_the_shell_above_them_dies_at_once(box: Box) -> None:
    save = (
        "import signal, time, sys\n"
        "signal.signal(15, lambda *_: (time.sleep(0.3), print('saved', flush=True), sys.exit()))\n"
        "print('ready', flush=True)\n"
        "while True: time.sleep(0.01)"
    )
    key = box.launch(a_launch(f'{sys.executable} -c "{save}"; echo never'))
    await box.printed(key, b"ready")
    box.executor.stop(key, 30)
    ended = await box.released(key)
    assert ended.exit == Exit(signal=signal.SIGTERM)
    assert not ended.released
    assert box.output(key) == b"ready\nsaved\n"


async def test_every_process_of_the_tree_gets_sigterm(box: Box) -> None:
    trap = 'trap "echo $0; exit" TERM; echo up $0; while :; do sleep 0.01; done'
    key = box.launch(
        a_launch(f"(setsid sh -c '{trap}' one &); sh -c '{trap}' two & exec sh -c '{trap}' three")
    )
    await until(lambda: box._has_printed(key, b"up", 0) and box.output(key).count(b"up") == 3)
    box.executor.stop(key, 30)
    await box.released(key)
    assert set(box.output(key).split()) == {b"up", b"one", b"two", b"three"}


async def test_a_child_that_saves_the_work_of_a_stopped_parent_is_left_to_finish(box: Box) -> None:
    """The grandchild comes up when its parent dies, and is told; the saver below the trap is not."""
    trap = "trap 'sleep 0.3; echo saved; exit 0' TERM; echo ready; while :; do sleep 0.01; done"
    key = box.launch(a_launch(f"sh -c 'sleep 1000 & sleep 1000' & {trap}"))
    await box.printed(key, b"ready")
    box.executor.stop(key, 30)
    assert (await box.released(key)).exit == Exit(exit_code=0)
    assert box.output(key) == b"ready\nsaved\n"


async def test_a_shell_that_starts_children_while_it_is_stopped_leaves_none_to_wait_for(box: Box) -> None:
    keys = [box.launch(a_launch("while :; do sleep 1000 & sleep 0.001; done")) for _ in range(4)]
    for key in keys:
        await box.started(key)
    await asyncio.sleep(0.1)
    for key in keys:
        box.executor.stop(key, 3600)
    for key in keys:
        assert (await box.released(key)).exit == Exit(signal=signal.SIGTERM)


async def test_a_stopped_process_is_woken_to_hear_the_stop(box: Box) -> None:
    key = box.launch(a_launch("trap 'exit 9' TERM; echo ready; kill -STOP $$; while :; do sleep 0.01; done"))
    await box.printed(key, b"ready")
    box.executor.stop(key, 30)
    assert (await box.released(key)).exit == Exit(exit_code=9)


async def test_stopping_what_is_over_changes_nothing(box: Box) -> None:
    launch = a_launch()
    await box.run(launch)
    box.executor.stop(launch.key, 0)
    await box.run(a_launch())
    assert len(box.of(launch.key)) == 2


async def test_a_job_stopped_before_its_launch_never_runs(box: Box, tmp_path: Path) -> None:
    launch = a_launch("echo x >> ran", working_dir=tmp_path)
    box.executor.stop(launch.key, 5)
    ended = await box.released(launch.key)
    assert (ended.started, ended.exit.error) == (False, "stopped before it was started")
    box.launch(launch)
    await box.run(a_launch())
    await box.executor.close()
    await box.open(2)
    box.launch(a_launch("echo x >> ran", key=launch.key, working_dir=tmp_path, epoch=2))
    await box.run(a_launch(epoch=2))
    assert not (tmp_path / "ran").exists()


async def test_a_stop_on_the_heels_of_a_launch_leaves_nothing_running(box: Box) -> None:
    keys = [box.launch(a_launch("sleep 1000")) for _ in range(20)]
    for key in keys:
        box.executor.stop(key, 30)
    for key in keys:
        ended = await box.released(key)
        assert not ended.exit.succeeded
    assert carriers(*keys) == []


async def test_launching_twice_is_launching_once(box: Box, tmp_path: Path) -> None:
    launch = a_launch("echo x >> ran", working_dir=tmp_path)
    box.launch(launch)
    box.launch(launch)
    await box.released(launch.key)
    box.launch(launch)
    await box.run(a_launch())
    assert (tmp_path / "ran").read_text() == "x\n"
    assert len(box.of(launch.key)) == 2


async def test_hundreds_of_jobs_at_once_all_tell_how_they_ended(box: Box) -> None:
    keys = [box.launch(a_launch(("sh", "-c", f"exit {number % 7}"))) for number in range(300)]
    codes = [(await box.released(key)).exit.exit_code for key in keys]
    assert codes == [number % 7 for number in range(300)]
    assert len(box.reports) == 600
    await until(lambda: not list(box.path("live").iterdir()))


# Bad days


@as_root
async def test_a_full_disk_loses_output_but_neither_the_exit_code_nor_a_stop(small_disk: Path) -> None:
    box = Box(small_disk)
    await box.open()
    waiter = box.launch(a_launch("trap '' TERM; echo ready; while :; do sleep 0.05; done", working_dir="/"))
    await box.printed(waiter, b"ready")
    filler = box.launch(a_launch("head -c 1000000 /dev/zero; exit 6", working_dir="/"))
    ended = await box.released(filler)
    assert ended.exit.exit_code == 6
    assert ended.exit.error == "no space left on the disk that holds its output"
    box.executor.stop(waiter, 0)
    assert (await box.released(waiter)).exit == Exit(signal=signal.SIGKILL)
    await box.executor.close()
    again = Box(small_disk)
    await again.open(2, Held(filler, 1, True, False, 5), Held(waiter, 1, True, False, 5))
    assert (await again.released(filler)).exit == ended.exit
    assert (await again.released(waiter)).exit == Exit(signal=signal.SIGKILL)
    refused = await again.run(a_launch(epoch=2))
    assert not refused.started
    assert "no space left" in str(refused.exit.error)
    await again.close()


async def test_a_data_directory_without_rights_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    executor = LocalExecutor(tmp_path / "file", ())
    with pytest.raises(ExecutorError, match=r"cannot run jobs with '.*file.*': not a directory"):
        await executor.open("a log", 1, lambda report: None)


async def test_an_attempt_directory_that_cannot_be_made_is_named(box: Box) -> None:
    launch = a_launch()
    box.path(launch.key).write_text("in the way")
    ended = await box.run(launch)
    assert not ended.started
    assert str(ended.exit.error).startswith(f"not started: cannot write to '{box.attempts}/{launch.key}'")
    assert ended.released


async def test_the_zygote_is_replaced_when_it_is_killed_and_no_launch_is_lost(box: Box) -> None:
    before = box.launch(a_launch("sleep 0.5; exit 3"))
    await box.started(before)
    os.kill(box.executor._link.pid, signal.SIGKILL)
    after = [box.launch(a_launch("exit 4")) for _ in range(5)]
    for key in after:
        assert (await box.released(key)).exit == Exit(exit_code=4)
    assert (await box.released(before)).exit == Exit(exit_code=3)


async def test_when_no_zygote_can_live_the_launch_fails_rather_than_waits_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    box = Box(tmp_path)
    await box.open()
    ended = await box.run(a_launch())
    assert not ended.started
    assert str(ended.exit.error).startswith("not started: the process that starts jobs dies again and again")
    await box.close()


async def test_a_killed_keeper_takes_its_job_with_it_and_the_attempt_is_lost(box: Box) -> None:
    key = box.launch(a_launch("sleep 1000 & (setsid sleep 1000 &) ; sleep 1000"))
    await box.started(key)
    await until(lambda: len(carriers(key)) >= 4)
    os.kill(box.keeper_pid(key), signal.SIGKILL)
    ended = await box.released(key)
    assert ended.lost
    assert ended.released
    assert "was killed" in str(ended.exit.error)
    assert carriers(key) == []


async def test_a_killed_idle_keeper_loses_nothing(box: Box) -> None:
    launch = a_launch()
    await box.run(launch)
    os.kill(box.keeper_pid(launch.key), signal.SIGKILL)
    assert (await box.run(a_launch("exit 3"))).exit == Exit(exit_code=3)


async def test_what_was_never_said_is_found_in_the_files(box: Box) -> None:
    """The named pipe is only the fast way: without it the round reads the files."""
    box.executor._loop.remove_reader(box.executor._reports_fd)
    key = box.launch(a_launch("exit 3"))
    assert (await box.released(key)).exit == Exit(exit_code=3)


def test_everything_works_on_uvloop_too(tmp_path: Path) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def scenario() -> None:
        box = Box(tmp_path)
        await box.open()
        assert (await box.run(a_launch("exit 3"))).exit == Exit(exit_code=3)
        large = a_launch(
            "true", environment={"LARGE": "x" * 100_000}, script=b"#!/bin/sh\n#" + b"x" * 900_000
        )
        assert [(await box.run(launch)).exit for launch in (large,)] == [Exit(exit_code=0)]
        key = box.launch(a_launch("sleep 1000", nodes=2))
        await box.started(key)
        box.executor.stop(key, 5)
        assert (await box.released(key)).exit == Exit(signal=signal.SIGTERM)
        await box.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


def test_the_shell_tools_these_tests_use_are_there() -> None:
    assert all(map(shutil.which, ("setsid", "sh", "sleep", "head", "grep", "env", "ps")))


async def test_a_key_is_never_a_path(box: Box) -> None:
    bad = new_key()
    with pytest.raises(AssertionError):
        box.executor.launch(a_launch(key=type(bad)("../../etc", 1)))
