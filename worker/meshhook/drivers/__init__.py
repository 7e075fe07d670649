"""Connections of other drivers than asyncpg, on which a caller has a transaction."""
