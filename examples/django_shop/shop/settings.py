"""The settings, for an example: DEBUG is on, and SECRET_KEY is no secret."""

import os
from urllib.parse import unquote, urlsplit

_url = urlsplit(os.environ["MESHHOOK_DATABASE_URL"])

DEBUG = True
SECRET_KEY = "of an example"  # noqa: S105
ROOT_URLCONF = "shop.urls"
INSTALLED_APPS = ["meshhook.django", "shop"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _url.path.lstrip("/"),
        "USER": unquote(_url.username or ""),
        "PASSWORD": unquote(_url.password or ""),
        "HOST": _url.hostname or "",
        "PORT": str(_url.port or ""),
        # A worker's threads keep their connections from job to job.
        "CONN_MAX_AGE": 60,
    }
}
