"""The JobQueue resource: its spec and status, and what is generated from them."""
