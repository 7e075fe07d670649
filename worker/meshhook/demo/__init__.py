"""The demo: 2,000 webhooks, receivers that fail, one that is down, a worker that is killed."""
