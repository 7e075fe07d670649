"""A shop on Django: a view stores an order and its job together, and a worker ships it.

MESHHOOK_DATABASE_URL names the database; in it, run once:

    meshhook migrate
    python manage.py migrate

then in one terminal the web server, and in another the worker:

    python manage.py runserver
    python manage.py meshhook_worker shop.jobs:app

    curl -d item=book http://127.0.0.1:8000/orders
"""

import os
import sys

from django.core.management import execute_from_command_line

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
