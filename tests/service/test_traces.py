"""Reading traces: what is taken, what is dropped, and how a bad file is told."""

from __future__ import annotations

import gzip
from hashlib import sha256
from pathlib import Path

import pytest

from horizon.service.traces import TraceError, TraceJob, load

HEADER = """\
; Version: 2.2
; Computer: a small one
; Note: what follows is made up; caf\u00e9
; UnixStartTime: 893466664
"""
SWF = (
    HEADER
    + """\
    1     0     3    100    2  90.5    -1    2    200    -1  1   7   3  1  0 -1 -1 -1

    2    50    -1     -1   -1    -1    -1    4    300    -1  5   7   3  1  0 -1 -1 -1
    3    60     0    500    1    -1    -1    1    400    -1  1   8  -1  1  0 -1 -1 -1
    4    60     0    500    1    -1    -1   -1    400    -1  1   8   3  1  0 -1 -1 -1
    5    70     0    500    1    -1    -1    1     -1    -1  1   8   3  1  0 -1 -1 -1
    6    55     0      9    1    -1    -1    1     10    -1  1  -1   3  1  0 -1 -1 -1
"""
)
LINE = "1 0 3 100 2 90 -1 2 200 -1 1 7 3 1 0 -1 -1 -1"
CSV = """\
timestamp,duration,num_gpus,gpu_time,cluster
2017-10-09 07:01:55,66.9,1,66.0,11cb48
2017-10-09 06:13:03,2951.0,16,2951.0,6214e9
2017-10-09 06:13:03,7,2,14,6214e9
2017-10-10 00:00:00,0.4,2,14,6214e9

"""


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_an_swf_log_gives_jobs_in_the_order_of_their_submission(tmp_path: Path) -> None:
    trace = load(written(tmp_path / "log.swf", SWF))
    assert trace.jobs == (
        TraceJob("1", 0, 100, 2, 200, "7", "3"),
        TraceJob("6", 55, 9, 1, 10, "unknown", "3"),
        TraceJob("3", 60, 400, 1, 400, "8", "unknown"),  # cut to what it had asked for
    )
    assert trace.dropped == {"no run time": 1, "no requested processors": 1, "no requested time": 1}
    assert trace.estimated
    assert trace.zero_s == 893_466_664
    assert trace.name == "log.swf"
    assert trace.digest == sha256(SWF.encode()).hexdigest()


def test_a_gpu_csv_is_sorted_with_ties_in_the_order_of_the_file(tmp_path: Path) -> None:
    trace = load(written(tmp_path / "gpus.csv", CSV))
    start_s = 1_507_529_583
    assert trace.jobs == (
        TraceJob("3", start_s, 2951, 16, 2951, "unknown", "6214e9"),
        TraceJob("4", start_s, 7, 2, 7, "unknown", "6214e9"),
        TraceJob("2", start_s + 2932, 66, 1, 66, "unknown", "11cb48"),
    )
    assert trace.dropped == {"less than a second of run time": 1}
    assert not trace.estimated


@pytest.mark.parametrize("text", [SWF, CSV])
def test_a_gzipped_trace_is_the_same_trace(tmp_path: Path, text: str) -> None:
    plain = load(written(tmp_path / "plain", text))
    zipped = tmp_path / "zipped"
    zipped.write_bytes(gzip.compress(text.encode()))
    assert load(zipped).jobs == plain.jobs
    assert load(zipped).digest == sha256(zipped.read_bytes()).hexdigest()


def test_a_header_in_another_encoding_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "log.swf"
    path.write_bytes(SWF.encode("latin-1"))
    assert len(load(path).jobs) == 3


def test_a_part_is_chosen_by_time_and_then_by_number(tmp_path: Path) -> None:
    trace = load(written(tmp_path / "log.swf", SWF))
    zero_s = 893_466_664
    assert [job.name for job in trace.part(since_s=zero_s + 55).jobs] == ["6", "3"]
    assert [job.name for job in trace.part(until_s=zero_s + 60).jobs] == ["1", "6"]
    assert [job.name for job in trace.part(zero_s + 1, zero_s + 61, 1).jobs] == ["6"]
    assert [job.name for job in trace.part(jobs_max=2).jobs] == ["1", "6"]
    assert trace.part() == trace


def test_a_log_that_does_not_say_when_it_was_has_no_part_by_time(tmp_path: Path) -> None:
    trace = load(written(tmp_path / "log.swf", LINE))
    assert trace.part(jobs_max=1) == trace
    with pytest.raises(ValueError, match="UnixStartTime"):
        trace.part(since_s=1)


SWF_FAULTS = [
    (LINE + " 5", "1: must have 18 columns, not 19"),
    (HEADER + LINE + "\n\n" + LINE[:-3], "7: must have 18 columns, not 17"),
    (LINE.replace("100", "1o0"), "1: the run time (column 4) must be a whole number, not '1o0'"),
    (LINE.replace("100", "-5"), "1: the run time (column 4) must be -1 to 316224000, not -5"),
    (LINE.replace(" 0 3", " -1 3"), "1: the submit time (column 2) must be 0 to"),
    (LINE.replace(" 2 200", " 99999999 200"), "1: requested processors (column 8) must be -1 to 1000000"),
    (LINE.replace("200", "9" * 30), "1: the requested time (column 9) must be -1 to"),
    ("; UnixStartTime: yesterday\n" + LINE, "1: UnixStartTime must be a whole number, not 'yesterday'"),
    (HEADER, ": has no job that can be simulated"),
    (LINE.replace("100", "-1"), ": has no job that can be simulated; 1 dropped: no run time"),
    ("", ": is empty"),
    ("\n \n", ": is empty"),
]


@pytest.mark.parametrize(("text", "message"), SWF_FAULTS)
def test_what_is_wrong_with_an_swf_log_is_told_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path / "bad.swf", text)
    with pytest.raises(TraceError) as refusal:
        load(path)
    assert str(refusal.value).startswith(f"{path}:{message.removeprefix(':')}")


ROW = "2017-10-09 07:01:55,66.0,1,66.0,11cb48\n"
CSV_HEADER = "timestamp,duration,num_gpus,gpu_time,cluster\n"
CSV_FAULTS = [
    (ROW, "1: is neither an SWF log nor a csv file with the header timestamp,duration,"),
    (CSV_HEADER + ROW + ROW.replace(",11cb48", ""), "3: must have 5 columns, not 4"),
    (CSV_HEADER + ROW.replace("2017-10-09", "2017-13-09"), "2: timestamp must be such as"),
    (CSV_HEADER + ROW.replace("2017-10-09", "1907-10-09"), "2: timestamp must be 0 to"),
    (CSV_HEADER + ROW.replace("66.0,1", "soon,1"), "2: duration must be a whole number, not 'soon'"),
    (CSV_HEADER + ROW.replace("66.0,1", "66.x,1"), "2: duration must be seconds, not '66.x'"),
    (CSV_HEADER + ROW.replace("66.0,1", "-66.0,1"), "2: duration must be 0 to"),
    (CSV_HEADER + ROW.replace("66.0,1", "66.0,0"), "2: num_gpus must be 1 to 1000000, not 0"),
    (CSV_HEADER + ROW.replace("11cb48", ""), "2: cluster must be a name"),
    (CSV_HEADER + ROW.replace("11cb48", "a/b"), "2: cluster must be a name"),
    (CSV_HEADER, ": has no job that can be simulated"),
]


@pytest.mark.parametrize(("text", "message"), CSV_FAULTS)
def test_what_is_wrong_with_a_csv_is_told_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path / "bad.csv", text)
    with pytest.raises(TraceError) as refusal:
        load(path)
    assert str(refusal.value).startswith(f"{path}:{message.removeprefix(':')}")


def test_a_damaged_gzip_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "log.swf.gz"
    path.write_bytes(gzip.compress(SWF.encode())[:-20])
    with pytest.raises(TraceError, match=r"log\.swf\.gz: is a damaged gzip file"):
        load(path)
