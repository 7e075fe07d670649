"""The queues that go through the faults, a program each."""
