"""Image files and folders of identities: found by content, decoded, checked for alignment."""
