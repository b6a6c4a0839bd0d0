"""Programs that read or make data sets: check, convert, align, fetch, cluster."""
