"""Devices break and are mended: told once each, on evidence only, and across restarts of the scheduler."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from horizon.core.commands import FailDevice, RecoverDevice, Report
from horizon.core.model import Device, Inventory
from horizon.executors.health import (
    FAILED_DEVICES_FILE,
    REASON_LENGTH_MAX,
    FileHealth,
    Look,
    NvmlHealth,
    Vitals,
    changes,
    parse_failed_devices,
    sources_for,
    verdict,
)
from horizon.executors.inventory import discover, simulated
from tests.executors.box import LOOKS_EVERY_S, Box, a_launch, until

GPUS = [device.uuid for node in simulated("2*4xH100") for device in node.devices]
ALL = frozenset({"a", "b", "c", "d"})


def of_devices(box: Box) -> list[Report]:
    return [report for report in box.reports if isinstance(report, FailDevice | RecoverDevice)]


# The file, and the way from it to the reports


async def test_a_pretend_device_that_the_file_names_fails_and_is_well_again_when_it_does_not(
    box: Box,
) -> None:
    file = box.data_dir / FAILED_DEVICES_FILE
    file.write_text(f"{GPUS[1]} a fan is stuck\n{GPUS[5]}\n")
    await until(lambda: len(of_devices(box)) == 2)
    assert set(of_devices(box)) == {
        FailDevice(GPUS[1], "a fan is stuck"),
        FailDevice(GPUS[5], f"named in the file {FAILED_DEVICES_FILE}"),
    }
    file.write_text(f"{GPUS[5]} still\n{GPUS[6]} new\n")
    await until(lambda: len(of_devices(box)) == 4)
    assert of_devices(box)[2:] == [FailDevice(GPUS[6], "new"), RecoverDevice(GPUS[1])]
    file.unlink()
    await until(lambda: len(of_devices(box)) == 6)
    assert of_devices(box)[4:] == [RecoverDevice(gpu) for gpu in sorted((GPUS[5], GPUS[6]))]


async def test_a_failure_is_told_once_however_long_it_lasts(box: Box) -> None:
    (box.data_dir / FAILED_DEVICES_FILE).write_text(GPUS[0])
    await until(lambda: of_devices(box))
    await asyncio.sleep(2.5 * LOOKS_EVERY_S)
    assert len(of_devices(box)) == 1


async def test_a_failing_device_does_not_disturb_what_runs(box: Box) -> None:
    (box.data_dir / FAILED_DEVICES_FILE).write_text(GPUS[0])
    launch = a_launch("exit 3", gpu_ids=(GPUS[0],))
    assert (await box.run(launch)).exit.exit_code == 3
    await until(lambda: of_devices(box))


async def test_a_recovery_while_no_scheduler_was_there_is_told_by_the_next(tmp_path: Path) -> None:
    file = tmp_path / FAILED_DEVICES_FILE
    file.write_text(f"{GPUS[0]}\n{GPUS[1]}\n")
    box = Box(tmp_path)
    await box.open()
    await until(lambda: len(of_devices(box)) == 2)
    await box.close()
    file.write_text(f"{GPUS[1]}\n{GPUS[2]}\n")
    again = Box(tmp_path)
    await again.executor.open("a log", 2, again.reports.append)
    await again.executor.adopt([], failed=[GPUS[0], GPUS[1], "GPU-of-another-node"])
    await until(lambda: len(of_devices(again)) == 2)
    await asyncio.sleep(1.5 * LOOKS_EVERY_S)
    assert of_devices(again) == [
        FailDevice(GPUS[2], f"named in the file {FAILED_DEVICES_FILE}"),
        RecoverDevice(GPUS[0]),
    ]
    await again.close()


async def test_after_closing_nothing_is_reported(tmp_path: Path) -> None:
    box = Box(tmp_path)
    await box.open()
    await box.close()
    (tmp_path / FAILED_DEVICES_FILE).write_text(GPUS[0])
    await asyncio.sleep(1.5 * LOOKS_EVERY_S)
    assert box.reports == []


async def test_an_executor_that_was_deposed_says_nothing_of_devices_any_more(tmp_path: Path) -> None:
    old, new = Box(tmp_path), Box(tmp_path)
    await old.open(1)
    await new.open(2)
    await until(lambda: old.executor._reports_fd < 0)
    (tmp_path / FAILED_DEVICES_FILE).write_text(GPUS[0])
    await until(lambda: of_devices(new))
    assert of_devices(old) == []
    await old.executor.close()
    await new.close()


def test_lines_are_read_with_care() -> None:
    long = "x" * 1_000
    text = f"\n  a   too hot \r\nb\n\n# c is fine\na again\nd {long}\n"
    assert parse_failed_devices(text) == {
        "a": "too hot",
        "b": f"named in the file {FAILED_DEVICES_FILE}",
        "#": "c is fine",
        "d": "x" * REASON_LENGTH_MAX,
    }
    assert parse_failed_devices("") == {}


def test_a_file_that_cannot_be_read_says_nothing_either_way(tmp_path: Path) -> None:
    (tmp_path / FAILED_DEVICES_FILE).mkdir()
    assert FileHealth(tmp_path / FAILED_DEVICES_FILE, ALL).look() == Look({}, ALL)


# What is new in a look


@pytest.mark.parametrize(
    ("failed", "look", "expected"),
    [
        (set(), Look({}), []),
        (set(), Look({"b": "hot", "a": "old"}), [FailDevice("a", "old"), FailDevice("b", "hot")]),
        ({"a"}, Look({"a": "another reason"}), []),
        ({"a", "b"}, Look({"b": "hot"}), [RecoverDevice("a")]),
        ({"a"}, Look({"b": "hot"}), [FailDevice("b", "hot"), RecoverDevice("a")]),
        (set(), Look({"stranger": "unknown here"}), []),
        ({"a", "b"}, Look({}, frozenset({"a"})), [RecoverDevice("b")]),
        ({"a", "b"}, Look({}, ALL), []),
    ],
)
def test_only_changes_are_told_and_a_recovery_only_when_it_was_seen(
    failed: set[str], look: Look, expected: list[Report]
) -> None:
    assert changes(failed, look, ALL) == expected


# Real devices


@pytest.mark.parametrize(
    ("vitals", "reason"),
    [
        (Vitals(), ""),
        (Vitals(uncorrectable_errors=1), "1 uncorrectable memory error since its last reset"),
        (Vitals(uncorrectable_errors=3), "3 uncorrectable memory errors since its last reset"),
        (Vitals(remapping_failed=1, uncorrectable_errors=3), "a faulty memory row could not be replaced"),
        (Vitals(pages_pending=1), "wait to be retired"),
        (Vitals(recovery_action=1, uncorrectable_errors=3), "the driver says: this GPU must be reset"),
        (Vitals(recovery_action=2), "this machine must be restarted"),
        (Vitals(recovery_action=9), "recovery action 9 is needed"),
    ],
)
def test_what_the_driver_says_of_a_gpu_becomes_one_sentence(vitals: Vitals, reason: str) -> None:
    assert (verdict(vitals) == "") == (reason == "")
    assert reason in verdict(vitals)


def test_where_there_is_no_nvml_nothing_is_said_of_real_devices() -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has an NVIDIA driver")
    assert NvmlHealth(ALL).look() == Look({}, ALL)


def test_the_gpus_of_this_machine_are_well() -> None:
    if not Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has no NVIDIA driver")
    devices = frozenset(device.uuid for device in discover().devices)
    assert NvmlHealth(devices).look() == Look({})


def test_pretend_and_real_devices_are_watched_apart_and_no_device_is_not_watched(tmp_path: Path) -> None:
    real = Inventory("here", 8, 1024, (Device("GPU-real", 0, "H100", 81_559),))
    pretended = simulated("2*1xH100")
    assert sources_for([Inventory("here", 8, 1024)], tmp_path) == []
    (only,) = sources_for(pretended, tmp_path)
    assert isinstance(only, FileHealth)
    assert only.devices == {node.devices[0].uuid for node in pretended}
    both = sources_for([real, *pretended], tmp_path)
    assert [type(source) for source in both] == [FileHealth, NvmlHealth]
    assert both[1].devices == {"GPU-real"}
