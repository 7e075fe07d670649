"""`manage.py meshhook_worker`: runs the jobs of an app in a process that has Django set up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.core.management.base import BaseCommand, CommandError
from django.utils.module_loading import import_string

from meshhook.application import App
from meshhook.django.database import database_url
from meshhook.django.job_connections import with_job_connections
from meshhook.environment import load_settings
from meshhook.errors import MeshHookError

if TYPE_CHECKING:
    from argparse import ArgumentParser


class Command(BaseCommand):  # type: ignore[misc] # Django has no types
    """Run the jobs of queues until SIGTERM or Ctrl-C, as `meshhook worker` does."""

    help = (
        "Run the jobs of queues until SIGTERM or Ctrl-C, with the handlers of a meshhook.App. "
        "Without a database of its own, and without MESHHOOK_DATABASE_URL, the app uses Django's."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Say what the command takes."""
        parser.add_argument("app", metavar="MODULE:APP", help="The meshhook.App.")
        parser.add_argument(
            "queues", nargs="*", metavar="QUEUE", help="Some of its queues. Default: all."
        )
        parser.add_argument(
            "--concurrency", type=int, help="How many jobs run at once. Default: the app's."
        )
        parser.add_argument(
            "--grace-seconds",
            type=float,
            help="How long running jobs may take to finish after a stop. Default: 25.",
        )
        parser.add_argument(
            "--using", default="default", help="Django's database. Default: %(default)s."
        )

    def handle(self, *_: Any, **options: Any) -> None:
        """Run the worker.

        Raises:
            CommandError: if there is no such app or database.
        """
        try:
            app = _load(options["app"])
            if not app.has_own_database() and load_settings().database_url is None:
                app.use_database(database_url(options["using"]))
            for handler in app.handlers.values():
                handler.function = with_job_connections(handler.function)
            app.run(
                options["queues"] or None,
                concurrency=options["concurrency"],
                grace_seconds=options["grace_seconds"],
            )
        except MeshHookError as error:
            raise CommandError(str(error)) from error


def _load(path: str) -> App:
    try:
        found = import_string(path.replace(":", "."))
    except ImportError as error:
        raise CommandError(f"app {path!r} cannot be imported: {error}") from error
    if not isinstance(found, App):
        raise CommandError(f"{path!r} is not a meshhook.App; name it as MODULE:APP")
    return found
