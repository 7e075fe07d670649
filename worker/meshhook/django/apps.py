"""The app as Django knows it."""

from __future__ import annotations

from django.apps import AppConfig


class MeshHookConfig(AppConfig):  # type: ignore[misc] # Django has no types
    """Has no models: MeshHook's tables are made by `meshhook migrate`."""

    name = "meshhook.django"
    label = "meshhook"
    verbose_name = "MeshHook Queue"
