"""The queues that are measured, a module each; README.md says how to add one."""
