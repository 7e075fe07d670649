"""Reconciling one JobQueue: its queue, the number of its workers, its Deployment and its status."""
