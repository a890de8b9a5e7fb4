"""Progress lines of a long job without a terminal."""

from __future__ import annotations

import logging

import pytest

from harpy_core.running import progress


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


def test_a_line_every_half_minute_says_share_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock(monkeypatch)
    caplog.set_level(logging.INFO, "harpy_core")
    with progress.track(4_000_000_000, "aggregate") as bar:
        for _ in range(8):
            clock.now += 10
            bar.advance(100_000_000)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "aggregate: 8 % of 4.00Gpx, 10.0Mpx/s, 06:10 left",
        "aggregate: 15 % of 4.00Gpx, 10.0Mpx/s, 05:40 left",
    ]
    assert [record.getMessage().strip() for record in caplog.records] == lines


def test_work_without_a_known_end_tells_how_much_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(monkeypatch)
    with progress.track(None, "download", unit="B") as bar:
        clock.now += 40
        bar.advance(80_000)
    assert capsys.readouterr().err == "download: 80.0kB, 2.00kB/s\n"


@pytest.mark.parametrize("enabled", [True, False])
def test_a_short_or_a_silent_job_says_nothing(
    enabled: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(monkeypatch)
    with progress.track(10, "instances", enabled=enabled) as bar:
        clock.now += 29 if enabled else 290
        bar.advance(10)
    assert capsys.readouterr().err == ""
