"""Benchmarks of MeshHook Queue: a project of its own, which nothing imports."""
