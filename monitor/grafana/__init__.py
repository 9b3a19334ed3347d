"""Grafana kept in step: folder, datasource, dashboards and, where asked for, alert rules; and annotations of what happened.

Everything goes through Grafana's HTTP API with grafana-client, which comes with the extra `grafana`. `config` is the section of
the config file, `client` the calls and their errors, `wanted` what should be there, `sync` what differs and how it is mended,
`alerts` our Prometheus rules as Grafana's, `annotations` incidents and changes on the time axis, `keeper` the daemon's part and
`command` that of the command line.
"""
