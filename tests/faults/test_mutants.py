"""That every mutant still is one; ``make mutants`` has them killed."""

from __future__ import annotations

import pytest

from tests.faults.mutants import MUTANTS, ROOT, Mutant, changed


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_a_mutant_can_be_made_and_is_a_program(mutant: Mutant) -> None:
    texts: dict[str, str] = {}
    for change in mutant.changes:
        before = texts.get(change.file) or (ROOT / change.file).read_text()
        texts[change.file] = changed(before, change)
    for name, text in texts.items():
        compile(text, name, "exec")
    for file in mutant.tests.partition(" -k ")[0].split():
        assert (ROOT / file).exists()
