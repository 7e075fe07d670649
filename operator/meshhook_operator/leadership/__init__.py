"""Which process works on which JobQueues: one at a time, agreed on by Leases of the cluster."""
