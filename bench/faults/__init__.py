"""MeshHook Queue and others through the same faults."""
