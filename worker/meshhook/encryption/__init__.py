"""Encryption of payloads: keys, where they come from, and the messages that they encrypt."""
