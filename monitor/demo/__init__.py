"""Real predictions and answers, replayed through the daemon with a real Prometheus and Alertmanager beside it."""
