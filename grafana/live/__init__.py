"""A fleet under load, and the Prometheus that watches it, for a Grafana to show."""
