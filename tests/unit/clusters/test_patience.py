import pytest

from orchestrator.clusters.shared.patience import Patience, retry_after_seconds, worth_another_try


class Clock:
    def __init__(self):
        self.now, self.pauses = 0.0, []

    def sleep(self, seconds):
        self.now += seconds
        self.pauses.append(seconds)

    def read(self):
        return self.now


def patient(seconds, clock):
    return Patience(seconds, 1.0, clock.sleep, clock.read)


def test_pauses_grow_and_end_when_patience_does():
    clock = Clock()
    tries = list(patient(60, clock).tries())
    assert [each.is_last for each in tries] == [False] * (len(tries) - 1) + [True]
    assert 50 <= clock.now <= 60
    for pause, whole in zip(clock.pauses, [1, 2, 4, *[8] * 20], strict=False):
        assert whole / 2 <= pause <= whole


def test_the_server_s_own_wish_is_kept_up_to_a_minute():
    clock = Clock()
    wishes = iter([7.0, 1000.0, 0.0])
    for attempt in patient(1000, clock).tries():
        wish = next(wishes, None)
        if wish is None:
            break
        attempt.retry_after_seconds = wish
    assert clock.pauses[:2] == [7.0, 60.0]


def test_no_patience_is_one_try():
    clock = Clock()
    assert [each.is_last for each in patient(0, clock).tries()] == [True]
    assert clock.pauses == []


def test_longer_patience_for_one_call():
    clock = Clock()
    assert patient(1, clock).for_at_least(50).patience_seconds == 50
    assert patient(60, clock).for_at_least(50).patience_seconds == 60


@pytest.mark.parametrize("status", [0, 429, 502, 503, 504])
def test_what_is_always_tried_again(status):
    assert worth_another_try(status, is_read=True)
    assert worth_another_try(status, is_read=False)


def test_a_server_error_is_tried_again_only_for_reads_and_for_a_head_that_starts():
    assert worth_another_try(500, is_read=True)
    assert not worth_another_try(500, is_read=False)
    assert worth_another_try(500, is_read=False, is_starting=True)
    assert not worth_another_try(403, is_read=False, is_starting=True)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 413, 422])
def test_what_never_is(status):
    assert not worth_another_try(status, is_read=True)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, 0), ("3", 3), ("0.5", 0.5), ("-1", 0), ("Wed, 21 Oct 2026 07:28:00 GMT", 0)],
)
def test_retry_after(header, seconds):
    assert retry_after_seconds(header) == seconds
