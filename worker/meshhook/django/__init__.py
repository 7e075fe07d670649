"""A Django app: put `meshhook.django` into INSTALLED_APPS for its command `meshhook_worker`."""
