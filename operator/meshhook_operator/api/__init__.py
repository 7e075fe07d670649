"""The JobQueue resource: what it asks for, what it shows, and what is generated from both."""
