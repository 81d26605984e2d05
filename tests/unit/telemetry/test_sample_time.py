from __future__ import annotations

from orchestrator.telemetry.sample_time import FREE_SECONDS, SHARE, SampleTime


def test_samples_take_their_share_and_no_more() -> None:
    now = 0.0
    budget = SampleTime(lambda: now)
    drawn_at = []
    for hour in range(200):
        now = 3600.0 * hour
        if budget.is_left():
            drawn_at.append(hour)
            with budget.spent():
                now += 360.0  # as one in ten of the time
    assert drawn_at == list(range(0, 200, 10))
    assert 360.0 * len(drawn_at) <= SHARE * now + 360.0


def test_a_short_run_shows_all_its_samples() -> None:
    now = 0.0
    budget = SampleTime(lambda: now)
    for _ in range(10):
        assert budget.is_left()
        with budget.spent():
            now += FREE_SECONDS / 10
    with budget.spent():
        now += 1.0
    assert not budget.is_left()
