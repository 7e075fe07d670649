"""Enqueuing without an event loop: from threads, scripts and WSGI."""
