"""How many workers a group gets where their number may change: decided here from the room there is, acted on elsewhere. Pure."""

from __future__ import annotations

from collections.abc import Sequence


class GroupSizes:
    """Which size a group has at its start, and when a larger one is worth another start."""

    def __init__(self, sizes: Sequence[int], stabilization_window: float) -> None:
        """
        Args:
            sizes: every size that the group may have, the smallest first.
            stabilization_window: seconds for which there must have been room for more, and since the last start.

        """
        self._sizes, self._window = tuple(sizes), stabilization_window
        self._room_since: float | None = None
        self._too_many: int | None = None

    @property
    def least(self) -> int:
        """The smallest size."""
        return self._sizes[0]

    @property
    def most(self) -> int:
        """The largest size."""
        return self._sizes[-1]

    def at_start(self, room: int) -> int:
        """The largest size that there is room for; the smallest where there is too little, which then waits for nodes."""
        self._room_since = None
        if self._too_many is not None:
            room = min(room, self._too_many - 1)
        return self._within(room) or self.least

    def started(self) -> None:
        """A group has started with the size that it was given."""
        self._too_many = None

    def did_not_start(self, workers: int) -> None:
        """So many did not find the room that was seen: fewer are next, and a larger group has to wait twice as long."""
        self._too_many = workers
        self._window *= 2

    def while_running(self, workers: int, room: int, started_at: float, now: float) -> int | None:
        """The size to start again with; None where the group is to go on as it is.

        Args:
            workers: that run.
            room: for how many there is room, with theirs.
            started_at: when they did, on the clock of ``now``.
            now: seconds.

        """
        larger = self._within(room)
        if larger <= workers:
            self._room_since = None
            return None
        self._room_since = now if self._room_since is None else self._room_since
        is_stable = now - max(self._room_since, started_at) >= self._window
        return larger if is_stable else None

    def _within(self, room: int) -> int:
        """The largest size within so much room; 0 where there is none."""
        return max((size for size in self._sizes if size <= room), default=0)
