"""Connections to PostgreSQL: their addresses, their lives, and what their errors mean."""
