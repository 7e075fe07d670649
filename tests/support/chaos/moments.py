"""Moments: a statement stops where it writes a row, until the test lets it go on or ends it."""

from __future__ import annotations

import time

from support.chaos.servers import Server

_MAKE = (
    # Sequences show others what a transaction does before it is committed, and undo nothing.
    "create sequence public.moment_rows",
    "create sequence public.moment_pid",
    "create sequence public.moment_released",
    """
    create function public.stop_at_moment() returns trigger language plpgsql as $$
    begin
        if nextval('public.moment_rows') = tg_argv[0]::bigint then
            perform setval('public.moment_pid', pg_backend_pid());
            while not (select is_called from public.moment_released) loop
                perform pg_sleep(0.01);
            end loop;
        end if;
        return case tg_op when 'DELETE' then old else new end;
    end $$
    """,
    """
    create trigger stop_at_moment {when} on {table}
    for each row when ({condition}) execute function public.stop_at_moment('{row}')
    """,
)
# By its number and not by its sleep: a session that stands there is awake at moments.
_HELD = """
select pid from pg_stat_activity
where pid = (select last_value from public.moment_pid where is_called)
"""


class Moment:
    """The n-th row of a table that is written from now on; the statement that does so stops there.

    Args:
        server: has the table.
        when: `before insert`, `after update` and the like.
        table: its name, with the schema.
        row: which row, from 1.
        condition: which rows count, as SQL of `old` and `new`. Default: all.
    """

    def __init__(
        self, server: Server, when: str, table: str, *, row: int = 1, condition: str = "true"
    ) -> None:
        self._server = server
        for statement in _MAKE:
            server.fetch(statement.format(when=when, table=table, row=row, condition=condition))

    def wait(self, seconds: float = 60) -> None:
        """Wait until a statement stands there.

        Raises:
            TimeoutError: if none comes.
        """
        self._look(_HELD, True, f"no statement came to its moment within {seconds:g} s", seconds)

    def release(self) -> None:
        """Let the statement go on, wait for its end, and stop none any more.

        It may go on for nobody: where its client is gone, nothing else tells when it has committed.

        Raises:
            TimeoutError: if it does not end.
        """
        self._server.fetch("select nextval('public.moment_released')")
        self._look(f"{_HELD} and state = 'active'", False, "the statement does not end", 60)

    def terminate(self) -> None:
        """End the session whose statement stands there: what it wrote is rolled back."""
        ended = self._server.fetch(
            f"select pg_terminate_backend(pid, 30000) as is_gone from ({_HELD}) held"
        )
        assert [row["is_gone"] for row in ended] == [True]

    def _look(self, sql: str, is_there: bool, otherwise: str, seconds: float) -> None:
        """Wait until a statement has rows, or has none."""
        deadline = time.monotonic() + seconds
        while bool(self._server.fetch(sql)) is not is_there:
            if time.monotonic() > deadline:
                raise TimeoutError(otherwise)
            time.sleep(0.02)
