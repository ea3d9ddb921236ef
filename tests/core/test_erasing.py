"""What a job was given can be erased once it has ended, and the log says that it was, by whom and why."""

from __future__ import annotations

from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core.at_rest import Numbered, entries
from horizon.core.audit import fault
from horizon.core.model import Array, IndexRange
from tests.core.snapshots import reloaded
from tests.core.spec import given, job_id

SECRETS = {"environment_digest": "env", "script_digest": "script", "command": ""}


def erased(number: int = 1, **fields: object) -> ev.BlobsErased:
    return ev.BlobsErased(**{"job_id": job_id(number), "digests": ("env", "script"), "by": "owner", **fields})


def test_only_what_has_ended_is_erased() -> None:
    world = given().submit(**SECRETS)
    world.when(cmd.Erase(job_id(1))).then_refused("job 1 is Queued: cancel it first")
    world.cycle().started().when(cmd.Erase(job_id(1))).then_refused("job 1 is Running")
    world.ended().when(cmd.Erase(job_id(1), "asked to")).then(erased(reason="asked to"))
    assert world.job().erased
    world.when(cmd.Erase(job_id(1))).then_nothing().check()


def test_what_was_given_nothing_has_nothing_to_erase() -> None:
    given().submit().cycle().started().ended().when(cmd.Erase(job_id(1))).then_refused("nothing to erase")
    given().when(cmd.Erase(job_id(1))).then_refused("there is no job")


def test_what_a_job_needs_that_has_not_ended_is_kept() -> None:
    world = given().submit(**SECRETS).cycle().started().ended()
    world.submit(**{**SECRETS, "environment_digest": "other"}, hold=True)
    world.when(cmd.Erase(job_id(1))).then(erased(digests=("env",), kept=("script",)))
    world.when(cmd.Cancel(job_id(2))).when(cmd.Erase(job_id(2))).then(erased(2, digests=("other", "script")))


def test_an_array_is_erased_as_a_whole_once_all_of_it_has_ended() -> None:
    world = given().submit(array=Array((IndexRange(0, 1),)), **SECRETS).cycle().started(2).ended(2)
    world.when(cmd.Erase(job_id(2))).then_refused(
        "job 1_0 shares what it was given with its array: name job 1"
    )
    world.when(cmd.Erase(job_id(1))).then_refused("job 1 is Running")
    world.started(3).ended(3).when(cmd.Erase(job_id(1))).then(erased()).check()


def test_what_was_erased_cannot_be_run_again_and_that_is_said() -> None:
    world = given().submit(**SECRETS).cycle().started().ended().when(cmd.Erase(job_id(1)))
    world.when(cmd.Requeue(job_id(1))).then_refused("has been erased: submit it anew")


def test_a_job_at_rest_in_a_snapshot_is_erased_like_any_other() -> None:
    world = given().submit(**SECRETS).cycle().started().ended().submit(hold=True)
    world.state = reloaded(world.state)
    world.when(cmd.Erase(job_id(1))).then(erased()).check()
    assert isinstance(world.state.numbered, Numbered)
    assert not isinstance(next(entries(world.state.numbered)), int)
    world.state = reloaded(world.state)
    assert world.job().erased
    assert isinstance(next(entries(world.state.numbered)), int), "it is at rest again"
    world.check()


def test_the_audit_knows_when_a_job_may_be_erased() -> None:
    for array in (None, Array((IndexRange(0, 1),))):
        world = given().submit(array=array, **SECRETS).cycle()
        before = world.refolded()
        erasure = world.record(erased()).log[-1]
        before.epoch = erasure.epoch  # these worlds have no leader
        words = "an array that has not ended" if array else "cannot happen to job 1, which is Scheduled"
        assert words in str(fault(before, erasure))
