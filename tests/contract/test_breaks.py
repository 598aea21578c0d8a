"""The table of deliberate breaks can be run: `breaks.py` runs it, which takes too long for every change."""

from breaks import ROOT, TABLE, read_breaks


def test_every_break_changes_a_line_that_is_there_and_names_a_test_that_is_there():
    text = TABLE.read_text(encoding="utf-8")
    breaks = read_breaks(text)
    assert len(breaks) == text.count("\n- **"), "an entry that cannot be read"
    for change in breaks:
        count = (ROOT / change.file).read_text(encoding="utf-8").count(change.before)
        remedy = "update `is:` and `broken:` in tests/contract/BREAKS.md"
        assert count == 1, f"{change.title}: {change.file} has {change.before!r} {count} times, not once; {remedy}"
        file, *names = change.test.split("::")
        test = (ROOT / file).read_text(encoding="utf-8")
        assert all(f" {name.partition('[')[0]}" in test for name in names), change.test
