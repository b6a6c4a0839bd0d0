"""RecordIO files: reader, writer, indices and labels."""
