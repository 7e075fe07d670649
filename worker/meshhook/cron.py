"""Cron expressions: the times of one, also in nights when clocks change."""

from __future__ import annotations

from datetime import UTC

from cronsim import CronSim


class Cron(CronSim):
    """The times of an expression, also where clocks change by half an hour or at midnight.

    The library jumps to the next hour, and to the next minute that fits. If the clocks change on
    the way, as by half an hour on Lord Howe Island, that passes over times of this night and of the
    hours after it. Times of day, as `30 2 * * *`, have no zone here: the library moves them.
    """

    def advance_month(self) -> None:
        """Go to a month that fits."""
        super().advance_month()
        self._go_to_time_that_exists()

    def advance_day(self) -> bool:
        """Go to a day that fits, at most to the next month; return whether it has moved."""
        has_moved = super().advance_day()
        self._go_to_time_that_exists()
        return has_moved

    def advance_hour(self) -> bool:
        """Go to an hour that fits, at most to the next day; return whether it has moved."""
        if not self._has_zone:
            return super().advance_hour()
        if self.dt.hour in self.hours:
            return False
        while self.dt.hour not in self.hours:
            self.dt = before = self.dt.replace(second=0)
            self.tick(seconds=3600 - 60 * before.minute)
            if self.dt.utcoffset() != before.utcoffset():
                self.dt = before
                while self.dt.hour == before.hour:
                    self.tick(seconds=60)
            if self.dt.hour == 0:
                break
        return True

    def advance_minute(self) -> bool:
        """Go to a minute that fits, perhaps of the next hour; return whether it has moved."""
        if not self._has_zone:
            return super().advance_minute()
        if self.dt.minute in self.minutes:
            return False
        self.dt = before = self.dt.replace(second=0)
        self.tick(seconds=60 * min((each - before.minute) % 60 for each in self.minutes))
        if self.dt.utcoffset() != before.utcoffset():
            self.dt = before
            while self.dt.minute not in self.minutes:
                self.tick(seconds=60)
        return True

    @property
    def _has_zone(self) -> bool:
        return self.dt.tzinfo is not None

    def _go_to_time_that_exists(self) -> None:
        # The library goes to midnight, which some zones leave out on a day.
        if self._has_zone:
            self.dt = self.dt.astimezone(UTC).astimezone(self.dt.tzinfo)
