"""Published weights by name: fetched once from their authors' repositories, checked, imported, kept as `.keras`."""

import difflib
import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import keras

from lib.errors import ModelError
from lib.files import sha256
from lib.models import save
from lib.models.published import published_model

logger = logging.getLogger(__name__)

ADDRESS = "https://raw.githubusercontent.com"


@dataclass(frozen=True)
class Published:
    """Weights that their authors publish.

    Attributes:
        repository: owner and name on GitHub.
        commit: at which the files are taken.
        licence: as the repository states it.
        files: path in the repository -> SHA-256 of its bytes.

    """

    repository: str
    commit: str
    licence: str
    files: dict[str, str]

    def address(self, path: str) -> str:
        """Where a file is fetched from."""
        return f"{ADDRESS}/{self.repository}/{self.commit}/{quote(path)}"


_EMPTY = "a4ec998ba88b22e481ea9be85368c303fa524327602b8295f3b9aab7bf672a62"  # EResFD's files without tensors
_ERESFD = {
    "base": "04164e2853fdc39b7da2ccd0c6c41ea544f6a6e7b1972dc4ad463d978760c10c",
    "loc": "030f66c4c5424c79299eb89b368d0ec193db3a134dcceb1afe86f0a7123f7336",
    "conf": "4e3ef145b262334355a38f394d73a9bd9627c46fb6eceaa263cdbbd03d4af3f4",
    "act_loc": _EMPTY,
    "act_conf": _EMPTY,
}
_BFPGM = {
    "EResFD-original.pth": "b3873281e634c2191e0f43efe96fe4c331f6878d23f6d4b5931c66c249ba142b",
    "EREsFD-10-pruned.pth": "29dc5aad3cd9c4dd002d880a4322d677e75189c8c16bee7f6c47937219483728",
    "EResFD-20-pruned.pth": "f7e612165ebd65a833469d7aa53c8ce9879c79f598dc042c98aa42db3b4c0a88",
    "EResFD-30-pruned.pth": "428fe0b4c0a846957f2deb4cf27148d1532d7e0f7c77ed26dddd04cd3346223e",
    "EResFD-40-pruned.pth": "1d65e7d897142cfe58cf7e2b81c4187d0232785f3221342eca91434c78b9ea51",
    "EResFD-50-pruned.pth": "a3c737f6151aa4448057fb97165cd03cc7f14685e2731e0bf397cd2f65d2cc46",
    "EResFD-60-pruned.pth": "f5740161b532aa2c6de9ad758660b47ae70ca1dca852242c5f94ba51cc1ce173",
}
_YUNET = {
    "yunet_n": "9c7c9e14a4d60e57491d77e4d8b0d451bd834f300e05c0dea7fd1f6533817b06",
    "yunet_s": "f2688fecd5aef7d204d04ca12ff377b724978abbe5955740bc67280d99ffe4d6",
}

PUBLISHED: dict[str, Published] = {
    "eresfd": Published(
        "clovaai/EResFD",
        "6ba3f1ff0ab25fb361d4874723a7367e3696a4a0",
        "Apache-2.0",
        {f"weights/eresfd_16.pth.{part}.pth": digest for part, digest in _ERESFD.items()},
    ),
    **{
        f"bfpgm-{file.split('-')[1].removesuffix('.pth')}": Published(
            "IDT-ITI/B-FPGM",
            "4c62d4e0122f25e175b8c95eff97154ccede272e",
            "for academic, non-commercial use only",
            {f"Pruned Models/{file}": digest},
        )
        for file, digest in _BFPGM.items()
    },
    **{
        name: Published(
            "ShiqiYu/libfacedetection.train",
            "0047ac24afb1a50a0c6105001c89d1b5b805dbf1",
            "Apache-2.0",
            {f"weights/{name}.pth": digest},
        )
        for name, digest in _YUNET.items()
    },
}


def cache_folder() -> Path:
    """Where imported weights are kept: `face_detectors` in KERAS_HOME, which is ~/.keras unless set."""
    return Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "face_detectors"


def located(model: str | os.PathLike[str]) -> Path:
    """The file that a name or a path means: of published weights their `.keras` file, made when it is first asked for.

    Whatever exists, and whatever is no bare name, is a path.

    Raises:
        ModelError: a bare name that is neither a file nor known; the weights cannot be fetched, are others than the
            published ones, or cannot be kept.

    """
    path, name = Path(model), str(model)
    if path.exists() or not name or path.suffix or path.name != name:
        return path
    if name not in PUBLISHED:
        near = difflib.get_close_matches(name, PUBLISHED, 1)
        raise ModelError(
            f"{name}: no such file or folder, and no published weights of this name"
            f"{f'; did you mean {near[0]}?' if near else ''} (known: {', '.join(PUBLISHED)})"
        )
    published = PUBLISHED[name]
    kept = cache_folder() / f"{name}-{published.commit[:7]}.keras"
    if not kept.is_file():
        _import(name, published, kept)
    return kept


def _import(name: str, published: Published, kept: Path) -> None:
    """Fetches, checks and imports weights into the cache; whatever fails, no part of them stays there."""
    source = f"github.com/{published.repository} at {published.commit}"
    _require_writable(kept.parent)
    with tempfile.TemporaryDirectory(prefix="weights-", ignore_cleanup_errors=True) as holder:
        folder = Path(holder)
        logger.info("%s: weights of %s; licence: %s", name, source, published.licence)
        files = [_fetch(published, path, kept.parent, folder) for path in published.files]
        model, _ = published_model(files[0])
        try:
            save(model, kept)
        except OSError as error:
            raise _unwritable(kept.parent, error) from error
    logger.info("%s: kept as %s", name, kept)


def _require_writable(cache: Path) -> None:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=cache).close()
    except OSError as error:
        raise _unwritable(cache, error) from error


def _unwritable(cache: Path, error: OSError) -> ModelError:
    return ModelError(
        f"{cache}: weights cannot be kept there ({error.strerror or error}); make room or let it be written, or set "
        "KERAS_HOME to a folder that can"
    )


def _fetch(published: Published, path: str, cache: Path, folder: Path) -> Path:
    """One file, in `folder`: a copy of what was put into the cache by hand, or else from its address."""
    address, given = published.address(path), cache / Path(path).name
    target = folder / given.name
    if given.is_file():
        shutil.copyfile(given, target)
        where = str(given)
    else:
        where = address
        shown = keras.config.is_interactive_logging_enabled()
        keras.config.disable_interactive_logging()  # its bar goes to the standard output
        try:
            keras.utils.get_file(target.name, address, cache_dir=str(folder), cache_subdir=".")
        except Exception as error:  # Keras raises a bare Exception where it cannot download
            raise ModelError(
                f"{address}: cannot be fetched ({error}); without a network, fetch elsewhere and put into {cache}:\n"
                + "\n".join(f"  {Path(each).name}: {published.address(each)}" for each in published.files)
            ) from error
        finally:
            if shown:
                keras.config.enable_interactive_logging()
    if (found := sha256(target)) != published.files[path]:
        raise ModelError(
            f"{where}: {target.stat().st_size:,} bytes with SHA-256 {found}, expected {published.files[path]}: "
            f"damaged, cut short or another file; {'remove it' if given.is_file() else 'try again'}, or put the "
            f"published one into {cache} as {given.name}"
        )
    return target
