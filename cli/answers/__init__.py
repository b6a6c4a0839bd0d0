"""Programs that answer questions about photographs: verify, calibrate, enrol, identify."""
