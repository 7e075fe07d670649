"""The demonstration: 2,000 webhooks, a receiver that sometimes fails, a worker that is killed."""
