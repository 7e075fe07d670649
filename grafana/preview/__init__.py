"""Pictures of the dashboards with real data, drawn without Grafana."""
