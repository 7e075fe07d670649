"""The databases of JobQueues: where connections may lead, what may come back, what is read."""
