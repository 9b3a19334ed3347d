"""When work is done on a model, and when nothing may be deployed."""

LIST, ADD, END = "/v1/maintenance", "/v1/maintenance/add", "/v1/maintenance/end"
