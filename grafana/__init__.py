"""The Grafana dashboards of MeshHook Queue, as code. Not part of the installed package."""
