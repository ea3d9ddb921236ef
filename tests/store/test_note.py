"""Signed notes: their bytes, and what is not taken for one."""

from __future__ import annotations

import pytest

from horizon.store.note import BadNote, Checkpoint, SigningKey, VerifyKey, read_note, signed, verified

KEY = SigningKey("horizon/00ff", bytes(range(32)))
OTHER = SigningKey("horizon/00ff", bytes(32))
CHECKPOINT = Checkpoint("horizon/00ff", 3, b"\x01" * 32, b"\x02" * 32)
NOTE = signed(CHECKPOINT, [KEY])


def test_a_note_is_written_as_it_always_was() -> None:
    assert str(KEY.public) == "horizon/00ff+268672a3+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4"
    assert (
        f"horizon/00ff\n3\n{'AQEB' * 10}AQE=\n{'AgIC' * 10}AgI=\n\n\u2014 horizon/00ff "
        "JoZyozheaMRvqYGISNuqFNKIGtetbfhxRdHmwF79l/e9zZ7iNzUTuARnZSqu0g82KBjo+tj16hduqdXYHr277hS3SwM=\n"
    ) == NOTE


def test_a_note_holds_under_its_key_and_no_other() -> None:
    assert verified(NOTE, KEY.public) == CHECKPOINT
    with pytest.raises(BadNote, match="3 events is not signed by"):
        verified(NOTE, OTHER.public)
    assert verified(signed(CHECKPOINT, [OTHER, KEY]), KEY.public) == CHECKPOINT


@pytest.mark.parametrize(("old", "new"), [("\n3\n", "\n4\n"), ("AQEB", "AQEC"), ("AgIC", "AgID")])
def test_a_changed_statement_is_found(old: str, new: str) -> None:
    with pytest.raises(BadNote, match=r"signature of .* is false"):
        verified(NOTE.replace(old, new, 1), KEY.public)


@pytest.mark.parametrize(
    "note",
    [
        "",
        NOTE[:-1],
        NOTE.replace("\n\n", "\n"),
        NOTE.replace("\n3\n", "\n03\n"),
        NOTE.replace("\n3\n", "\n\u0663\n"),
        NOTE.replace("\n3\n", "\n-3\n"),
        NOTE.replace("AQE=", "AQE"),
        NOTE.replace("\n\n", "\nmore\n\n"),
        NOTE.replace("\u2014", "-"),
        NOTE + "\n",
    ],
)
def test_what_is_no_note_is_refused(note: str) -> None:
    with pytest.raises(BadNote):
        read_note(note)


def test_keys_are_read_as_they_are_written() -> None:
    assert str(VerifyKey.read(str(KEY.public))) == str(KEY.public)
    again = SigningKey.read(KEY.private_text() + "\n")
    assert signed(CHECKPOINT, [again]) == NOTE


@pytest.mark.parametrize("text", ["", "horizon", "a+00000000+AAAA", str(KEY.public).replace("+", "+0", 1)])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(BadNote):
        VerifyKey.read(text)
    with pytest.raises(BadNote):
        SigningKey.read(text)


def test_a_bad_private_key_is_not_repeated() -> None:
    text = KEY.private_text()
    for spoilt in (text[:-3], text.replace("+AQ", "+AR"), "x" + text):
        with pytest.raises(BadNote) as refused:
            SigningKey.read(spoilt)
        assert spoilt[-20:] not in str(refused.value)


def test_a_private_key_given_for_a_public_one_is_not_repeated() -> None:
    text = KEY.private_text()
    for given in (text, text.removeprefix("PRIVATE+"), text.removeprefix("PRIVATE+KEY+"), text[:-3]):
        with pytest.raises(BadNote) as refused:
            VerifyKey.read(given)
        secret = text.split("+", 4)[4]
        assert not any(secret[at : at + 6] in str(refused.value) for at in range(len(secret) - 5))
