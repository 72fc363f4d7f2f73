"""Archives that unpack to more than they can hold are refused before memory is set aside for them."""

import os
import zipfile
from pathlib import Path

from lib.errors import ModelError

MAX_GROWTH = 4  # weights do not get smaller by packing, unless most are zero
ALWAYS_BYTES = 64 << 20  # that much may come out of any file
MAX_DESCRIPTION_BYTES = 16 << 20  # of what describes a model, and is read at a megabyte a second


def require_no_bomb(archive: zipfile.ZipFile, file: str | os.PathLike[str], description: str) -> int:
    """Raises ModelError where an archive of weights says that it unpacks to far more than it is.

    Args:
        file: where it is.
        description: the member that describes the model.

    Returns:
        How many bytes its contents may have in memory.

    """
    allowed = MAX_GROWTH * Path(file).stat().st_size + ALWAYS_BYTES
    unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > allowed:
        raise ModelError(
            f"{file}: says that it unpacks to {unpacked:,} bytes, over {MAX_GROWTH} times its size; no model does"
        )
    if (described := archive.getinfo(description).file_size) > MAX_DESCRIPTION_BYTES:
        raise ModelError(f"{file}: {description} has {described:,} bytes; no model needs so many words")
    return allowed
