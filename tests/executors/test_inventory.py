"""Which nodes and devices there are: pretended by a short text, or found on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from horizon.executors.inventory import (
    BadSimulationSpec,
    InventoryError,
    discover,
    short_type,
    simulated,
    without_gpus,
)


def test_eight_pretend_gpus_are_one_node() -> None:
    (node,) = simulated("8xH100")
    assert (node.name, node.cpu_cores, node.memory_mib) == ("node-1", 128, 8 * 128 * 1024)
    assert node.simulated
    assert [device.index for device in node.devices] == list(range(8))
    assert {device.gpu_type for device in node.devices} == {"H100"}
    assert {device.memory_mib for device in node.devices} == {81_559}


def test_several_kinds_of_pretend_nodes_are_numbered_through() -> None:
    nodes = simulated("2*8xH100, 4xA100")
    assert [(node.name, len(node.devices)) for node in nodes] == [("node-1", 8), ("node-2", 8), ("node-3", 4)]
    assert nodes[2].devices[0].gpu_type == "A100"


def test_the_same_text_gives_the_same_devices_and_every_device_has_its_own_uuid() -> None:
    assert simulated("4*8xH100") == simulated("4*8xH100")
    uuids = {device.uuid for node in simulated("4*8xH100") for device in node.devices}
    assert len(uuids) == 32
    assert all(uuid.startswith("GPU-") and len(uuid) == 40 for uuid in uuids)
    assert simulated("1xH100")[0].devices[0].uuid == "GPU-" + simulated("9xH100")[0].devices[0].uuid[4:]


def test_a_type_nobody_knows_has_a_modest_memory() -> None:
    assert simulated("1xNextThing")[0].devices[0].memory_mib == 16 * 1024


def test_pretend_nodes_may_be_labelled() -> None:
    nodes = simulated("2*8xH100@rack=r1@zone=a.b,8xH100@rack=r2, 4xA100")
    assert [node.labels for node in nodes] == [
        {"rack": "r1", "zone": "a.b"},
        {"rack": "r1", "zone": "a.b"},
        {"rack": "r2"},
        {},
    ]
    assert nodes[0].devices == simulated("8xH100")[0].devices


@pytest.mark.parametrize(
    "spec",
    [
        *(
            "",
            "8",
            "x",
            "H100",
            "8xH100,",
            "0xH100",
            "0*8xH100",
            "8x",
            "-1xH100",
            "8*H100",
            "1.5xH100",
            "8 x H100",
        ),
        *("8xH/100", "100001xH100", "1000*1000xH100", "99999999999xH100", "٨xH100"),
        *("8xH100@", "8xH100@rack", "8xH100@rack=", "8xH100@=r1", "8xH100@rack=r1@", "8xH100@a=b=c"),
        *("@rack=r1", "8xH100 @rack=r1", "8xH100@rack=r1@rack=r2", "8xH100@r/1=x", "8xH100@rack=r1,@zone=a"),
        "1xH100" + "".join(f"@label-{number}=x" for number in range(65)),
    ],
)
def test_a_bad_spec_is_refused_with_the_grammar(spec: str) -> None:
    with pytest.raises(BadSimulationSpec, match=r"\[NODES\*\]GPUSxTYPE"):
        simulated(spec)


@pytest.mark.parametrize(
    ("product", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "A100"),
        ("NVIDIA L40S", "L40S"),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("Tesla T4", "T4"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "RTX4070Ti"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX6000Ada"),
        ("NVIDIA RTX A6000", "A6000"),
        ("NVIDIA GH200 480GB", "GH200"),
        ("NVIDIA TITAN V", "TITANV"),
        ("", "GPU"),
    ],
)
def test_a_product_name_becomes_a_short_type(product: str, expected: str) -> None:
    assert short_type(product) == expected


def test_without_a_driver_the_message_says_what_is_missing_and_what_to_do() -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has an NVIDIA driver")
    with pytest.raises(InventoryError, match=r"--simulate-gpus 8xH100") as caught:
        discover()
    assert "libnvidia-ml" in str(caught.value) or "driver" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_gpus_of_this_machine_are_found() -> None:
    if not Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has no NVIDIA driver")
    node = discover()
    assert node.devices
    assert all(device.uuid.startswith(("GPU-", "MIG-")) for device in node.devices)
    assert all(device.memory_mib > 0 and device.gpu_type for device in node.devices)
    assert discover({"rack": "r1"}).labels == {"rack": "r1"}


def test_a_machine_without_gpus_is_still_a_node() -> None:
    assert without_gpus({"rack": "r1"}).labels == {"rack": "r1"}
    node = without_gpus()
    assert node.labels == {}
    assert node.cpu_cores == len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else True
    assert node.memory_mib > 0
    assert node.devices == ()
