"""Builds the compiled inner loops of the WIDER FACE evaluation and of NMS: `python setup.py build_ext --inplace`."""

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

HERE = Path(__file__).resolve().parent
LIB = HERE.parents[1] / "lib"
MODULES = {"lib.evaluation": "matching_compiled", "lib.geometry": "suppression_compiled"}


def main() -> None:
    """Builds each .pyx of `MODULES`; with --inplace the extension lies beside it, where it is imported from."""
    os.chdir(HERE)  # not the project's root: setuptools would take the pyproject.toml there for this package's
    # A fused multiply-add rounds once instead of twice and would part from the NumPy path.
    flags = [] if sys.platform == "win32" else ["-O3", "-ffp-contract=off"]
    folders = {package: LIB / package.removeprefix("lib.") for package in MODULES}
    extensions = [
        Extension(f"{package}.{name}", [str(folders[package] / f"{name}.pyx")], extra_compile_args=flags)
        for package, name in MODULES.items()
    ]
    setup(
        name="ap_eval",
        packages=[],
        package_dir={package: str(folder) for package, folder in folders.items()},
        ext_modules=cythonize(extensions, build_dir="build"),
    )


if __name__ == "__main__":
    main()
