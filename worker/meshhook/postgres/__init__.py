"""Connections to PostgreSQL: URLs, TLS, pools, and the translation of the driver's errors."""
