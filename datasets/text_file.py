"""Lists that users write: text files in any encoding, read whole but never without end."""

from __future__ import annotations

import stat
from pathlib import Path

# Fifteen million pairs, the longest list in the field, are 300 MB.
MAX_BYTES = 2**29
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def read_text(path: Path, what: str) -> str:
    """Return the content of a list as text.

    UTF-8 with or without a byte order mark, or UTF-16 with one. Bytes that are not UTF-8 become what Python makes of
    them in file names, so that a list can name every file.

    Args:
        path: the file.
        what: the list, for the errors, in the plural: "pairs".
    Raises:
        ValueError: in one line with the path, if it is no regular file, cannot be read, is no text or is
            longer than MAX_BYTES.
    """
    try:
        mode = path.stat().st_mode
        # A pipe or a device may never end, or never begin.
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "no regular file"
            raise ValueError(f"{path}: cannot read the {what}: it is {kind}; give a text file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{path}: cannot read the {what} ({error.strerror})") from error
    except ValueError as error:
        if "null" in str(error):
            raise ValueError(f"{str(path)!r}: cannot read the {what}: no name of a file") from error
        raise
    if len(data) > MAX_BYTES:
        raise ValueError(f"{path}: cannot read the {what}: longer than {MAX_BYTES} bytes")
    is_wide = data.startswith(_UTF_16)
    text = data.decode("utf-16", errors="replace") if is_wide else data.decode("utf-8-sig", errors="surrogateescape")
    if "\0" in text:
        raise ValueError(f"{path}: cannot read the {what}: it holds zero bytes; save it as a text file or CSV in UTF-8")
    return text
