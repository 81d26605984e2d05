"""Each point arrives once, wherever a sender dies or gets no answer."""

import itertools

import pytest

from orchestrator.telemetry import sending
from orchestrator.telemetry.sending import Sender
from orchestrator.telemetry.spool import FileSpool, Part, Spool


class Died(Exception):
    """The call that fails; whether it was done first is unknown to the caller."""


class Store:
    """Keeps a point as often as it is sent. Fails the call of a number, before or after it is done."""

    def __init__(self):
        self.points, self.files, self.position = [], {}, {}
        self.calls, self.fails_at, self.is_done_first = itertools.count(), -1, False

    def _call(self, act):
        fails = next(self.calls) == self.fails_at
        if fails and not self.is_done_first:
            raise Died
        act()
        if fails:
            raise Died

    def sent(self):
        return dict(self.position)

    def there(self, points):
        have = {(point.name, point.step) for point in self.points}
        self._call(lambda: None)
        return {(point.name, point.step) for point in points} & have

    def send(self, points, sent):
        self._call(lambda: self.points.extend(points))
        self._call(lambda: self.position.update(sent))  # a store may die between the two

    def send_file(self, name, content):
        self._call(lambda: self.files.update({name: content}))


@pytest.fixture
def spool(tmp_path, monkeypatch):
    monkeypatch.setattr(sending, "LARGEST_BATCH", 6)
    for part in (Part(1, 0), Part(1, 8), Part(2, 0)):
        writer = FileSpool(str(tmp_path), part)
        for step in range(5):
            step += 100 * part.attempt
            writer.log(step, {f"a{part.rank}": step, f"b{part.rank}": -step})
            if step % 2:
                writer.add_file(step, f"{part.rank}/{step}", b"sample")
        writer.close()
    return Spool(str(tmp_path))


def expected(spool):
    return sorted(
        (name, record.content["step"], value)
        for part in spool.parts()
        for record in spool.records(part)
        for name, value in record.content.get("values", {}).items()
    )


def arrived(store):
    return sorted((point.name, point.step, point.value) for point in store.points)


def test_every_point_arrives_once_and_in_order(spool):
    store = Store()
    assert sum(Sender(spool, store).send_new()) == 30
    assert arrived(store) == expected(spool)
    assert [point.step for point in store.points if point.name == "a0"] == [
        *range(100, 105),
        *range(200, 205),
    ]
    assert len(store.files) == 6
    assert sum(Sender(spool, store).send_new()) == 0


@pytest.mark.parametrize("is_done_first", [False, True])
@pytest.mark.parametrize("same_sender", [False, True])
def test_a_sender_that_fails_at_any_call_is_followed_by_one_that_goes_on(spool, is_done_first, same_sender):
    whole = Store()
    list(Sender(spool, whole).send_new())
    calls = next(whole.calls)
    assert calls > 20
    for number in range(calls):
        store = Store()
        store.fails_at, store.is_done_first = number, is_done_first
        sender = Sender(spool, store)
        with pytest.raises(Died):
            list(sender.send_new())
        list((sender if same_sender else Sender(spool, store)).send_new())
        assert arrived(store) == expected(spool), number
        assert len(store.files) == 6


def test_what_is_written_later_follows(spool, tmp_path):
    store = Store()
    sender = Sender(spool, store)
    list(sender.send_new())
    writer = FileSpool(str(tmp_path), Part(3, 0))
    writer.log(301, {"a0": 1.0})
    assert list(sender.send_new()) == [1]
    writer.log(302, {"a0": 1.0})
    assert list(sender.send_new()) == [1]
    writer.close()
    assert arrived(store) == expected(spool)
