"""The databases of JobQueues: allowed hosts, guarded connections, demand, and wake-ups."""
