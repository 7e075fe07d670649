"""The Kubernetes operator: queues and their workers from `JobQueue` resources."""
