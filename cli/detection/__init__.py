"""The programs of face detection: train one, evaluate several, use one."""
