"""The commands of whoever operates a cluster, as they are typed, against a real server."""

from __future__ import annotations

from pathlib import Path

from tests.cli.house import Up, eventually

# --- the policy ---------------------------------------------------------------------------------------


def test_the_policy_is_shown_and_changed(up: Up) -> None:
    shown = up.run("policy")
    assert "half_life_s              604800 (7d00h)" in shown.stdout
    assert "reservation_depth        16" in shown.stdout
    assert "version 1" in shown.stderr
    said = up.ok("policy", "set", "reservation_depth=easy", "preemption=no", "half_life_s=14d")
    assert said == "the policy is at version 2\n"
    said = up.ok("policy", "set", "gpu_cost=H100=2000,A100=1000", "topology_labels=rack")
    assert said == "the policy is at version 3\n"
    policy = up.json("policy", "show")["policy"]
    assert (policy["reservation_depth"], policy["preemption"]) == (1, False)
    assert policy["half_life_s"] == 14 * 86_400
    assert (policy["gpu_cost"], policy["topology_labels"]) == ({"H100": 2_000, "A100": 1_000}, ["rack"])
    assert "reservation_depth        easy" in up.ok("policy", "show")
    assert up.json("policy") == up.json("policy", "show")
    up.ok("policy", "set", "gpu_cost=", "topology_labels=switch,rack", "preemption=yes")
    up.ok("policy", "set", "reservation_depth=16")


def test_a_policy_is_read_from_a_file(up: Up, tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(
        'strict = false\nreservation_depth = "conservative"\nmin_runtime_s = "2m"\ncores_per_gpu = 8\n'
        'topology_labels = ["rack"]\n[gpu_cost]\nH100 = 3000\n'
    )
    answer = up.json("policy", "set", "--file", str(file), "cores_per_gpu=4")["policy"]
    assert (answer["reservation_depth"], answer["min_runtime_s"], answer["cores_per_gpu"]) == (-1, 120, 4)
    assert (answer["gpu_cost"], answer["topology_labels"]) == ({"H100": 3_000}, ["rack"])
    up.ok("policy", "set", "reservation_depth=16", "gpu_cost=", "cores_per_gpu=16", "min_runtime_s=60")


def test_a_policy_that_cannot_be(up: Up, tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text("strict = perhaps\n")
    for arguments, words in (
        ((), "nothing to set"),
        (("halflife_s=7d",), "did you mean 'half_life_s'"),
        (("strict",), "no key=value"),
        (("strict=perhaps",), "strict: 'perhaps' is neither true nor false"),
        (("reservation_depth=deep",), "is no number, and not easy or conservative"),
        (("examined_max=many",), "'many' is no whole number"),
        (("half_life_s=soon",), "is no duration"),
        (("gpu_cost=H100",), "is no cost of a type"),
        (("--file", str(file)), "is no TOML"),
        (("--file", "/no/such/file"), "No such file"),
    ):
        done = up.run("policy", "set", *arguments)
        assert done.returncode == 2, done
        assert words in done.stderr
    done = up.run("policy", "set", "reservation_depth=-2", "half_life_s=0")
    assert done.returncode == 1
    assert "; half_life_s must be 1 to" in done.stderr
    assert "horizon: reservation_depth must be -1 to" in done.stderr


# --- nodes and GPUs -----------------------------------------------------------------------------------


def test_a_node_is_cordoned_drained_and_resumed(up: Up) -> None:
    job = up.submit("--grace", "0", "--", "sleep", "60")
    up.until(job, "Running")
    assert up.ok("nodes", "cordon", "node-1", "--reason", "new disk") == "node-1 is cordoned\n"
    assert "new disk, by owner" in up.ok("nodes")
    assert up.ok("nodes", "drain", "node-1", "--within", "2h") == "node-1 is draining\n"
    assert "empty by 20" in up.ok("nodes")
    drained = up.json("nodes", "drain", "node-1", "--by", "2099-01-01T00:00Z")
    assert drained["drain_by"].startswith("2099-01-01")
    up.ok("cancel", job)
    eventually(lambda: "drained" in up.ok("nodes"), "a drained node")
    assert up.ok("nodes", "resume", "node-1") == "node-1 is up\n"
    assert up.run("nodes", "drain", "node-1", "--within", "1h", "--by", "+1h").returncode == 2
    done = up.run("nodes", "cordon", "node-1", "nowhere")
    assert done.returncode == 4
    assert done.stdout == "node-1 is cordoned\n"
    assert "there is no node 'nowhere'" in done.stderr
    up.ok("nodes", "resume", "node-1")


def test_a_gpu_is_named_by_the_beginning_of_its_uuid(up: Up) -> None:
    uuids = [gpu["uuid"] for gpu in up.json("gpus")["gpus"]]
    assert up.ok("gpus", "fail", uuids[0][:12], "--reason", "XID 79") == f"{uuids[0]} is failed\n"
    table = up.ok("gpus")
    assert "XID 79" in table
    assert "7/8 (1 failed)" in up.ok("nodes")
    assert up.json("gpus", "recover", uuids[0])["state"] == "free"
    done = up.run("gpus", "fail", "GPU-")
    assert done.returncode == 2
    assert "could be any of 8" in done.stderr
    assert up.run("gpus", "fail", "nope").returncode == 4


# --- bookings -----------------------------------------------------------------------------------------


def test_nodes_are_booked_and_given_back(up: Up) -> None:
    assert "nothing is booked" in up.run("bookings").stderr
    id = up.ok(
        "bookings", "make", "node-1", "--from", "+1h", "--until", "+2h", "--reason", "firmware"
    ).strip()
    table = up.ok("bookings").splitlines()
    assert table[0].split() == ["BOOKING", "NODES", "FROM", "UNTIL", "BY", "REASON"]
    assert "firmware" in table[1]
    now = up.json("bookings", "make", "node-1", "--until", "+3h")
    assert [one["id"] for one in up.json("bookings")["bookings"]] == [id, now["id"]]
    assert up.ok("bookings", "end", now["id"]) == "node-1 given back\n"
    assert up.ok("bookings", "end", id[:35]) == "node-1 given back\n"
    assert up.run("bookings", "end", id).returncode == 4
    assert up.run("bookings", "make", "nowhere", "--until", "+1h").returncode == 1
    assert up.run("bookings", "make", "node-1").returncode == 2


# --- shares -------------------------------------------------------------------------------------------


def test_an_account_is_given_bounds(up: Up) -> None:
    assert up.run("shares", "set", "teams/red", "--max-gpus", "6").returncode == 4
    said = up.ok("shares", "set", "--account", "teams/red", "2", "--max-gpus", "6", "--guaranteed-gpus", "4")
    assert said == "teams/red has weight 2, guaranteed 4, at most 6 GPUs\n"
    assert "guaranteed 4, at most 6" in up.ok("shares")
    assert up.ok("shares", "set", "teams/red", "--max-gpus", "none", "--guaranteed-gpus", "0") == (
        "teams/red has weight 2\n"
    )
    assert up.run("shares", "set", "teams/red").returncode == 2
    assert up.run("shares", "set", "teams/red", "--max-gpus", "-1").returncode == 2
    refused = up.run("shares", "set", "teams/red", "--max-gpus", "1", "--guaranteed-gpus", "2")
    assert refused.returncode == 1
    assert "guaranteed 2 GPUs" in refused.stderr


def test_two_shares_are_compared(up: Up) -> None:
    job = up.submit("--account", "teams/green", "--gpus", "2", "--grace", "0", "--", "sleep", "60")
    up.until(job, "Running")
    up.ok("shares", "set", "--account", "teams/blue", "3")
    lines = up.ok("shares", "compare", "teams/green", "teams/blue").splitlines()
    assert lines[0].split() == ["teams/green", "teams/blue"]
    assert lines[4].split() == ["weight", "1", "3"]
    assert lines[-1].startswith("teams/blue goes before teams/green")
    assert up.json("shares", "compare", "teams/green", "teams/blue")["ahead"] == "teams/blue"
    assert up.run("shares", "compare", "teams", "teams/blue").returncode == 1
    assert up.run("shares", "compare", "nobody", "teams").returncode == 4
    up.ok("cancel", job)
