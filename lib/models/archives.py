"""Archives that unpack to more than they can hold are refused before memory is set aside for them."""

import os
import zipfile
from pathlib import Path

from lib.errors import ModelError
from lib.limits import limits, raising

MAX_GROWTH = 4  # weights do not get smaller by packing, unless most are zero


def require_no_bomb(archive: zipfile.ZipFile, file: str | os.PathLike[str], description: str) -> int:
    """Raises ModelError where an archive of weights says that it unpacks to far more than it is.

    Args:
        file: where it is.
        description: the member that describes the model.

    Returns:
        How many bytes its tensors may have in memory.

    """
    limit, usual = limits(), MAX_GROWTH * Path(file).stat().st_size
    unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > usual + limit.max_unpacked_bytes:
        raise ModelError(
            f"{file}: says that it unpacks to {unpacked:,} bytes, over {MAX_GROWTH} times its size; no model does; if "
            f"this one shall, {raising('max_unpacked_bytes')}"
        )
    if (described := archive.getinfo(description).file_size) > limit.max_description_bytes:
        raise ModelError(
            f"{file}: {description} has {described:,} bytes; no model needs so many words; if this one does, "
            f"{raising('max_description_bytes')}"
        )
    return usual + limit.max_tensor_bytes
