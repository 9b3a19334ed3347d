"""What people and Grafana are shown of cases, incidents and traces: plain pages, and the same as JSON."""
