"""The rounds of a run as a sequence and as rows of a table."""

from handmade import lost, played

import fedhello as fh


def test_failed_attempts_are_no_rounds():
    records = [played(0), played(1, failed="too few", rejections=(lost(1),)), played(1)]
    found = fh.Rounds(records)
    assert (len(found), found[-1], list(found)) == (2, records[2], [records[0], records[2]])
    assert len(found[1:]) == 1
    assert [row["round"] for row in found.to_dicts()] == list(found.to_pandas()["round"]) == [1, 2]
    assert found.to_dicts()[0]["test_accuracy" if "test_accuracy" in found.to_dicts()[0] else "test/accuracy"] == 0.5
