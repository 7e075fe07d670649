"""The workers of one JobQueue: the Deployment's manifest, and every write to it."""
