"""Builds the compiled inner loops of the WIDER FACE evaluation: `python setup.py build_ext --inplace`."""

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

HERE = Path(__file__).resolve().parent
EVALUATION = HERE.parents[1] / "lib" / "evaluation"


def main() -> None:
    """Builds matching_compiled.pyx; with --inplace the extension lies beside it, where matching.py looks."""
    os.chdir(HERE)  # not the project's root: setuptools would take the pyproject.toml there for this package's
    # A fused multiply-add rounds once instead of twice and would part from the NumPy path.
    flags = [] if sys.platform == "win32" else ["-O3", "-ffp-contract=off"]
    extension = Extension(
        "lib.evaluation.matching_compiled", [str(EVALUATION / "matching_compiled.pyx")], extra_compile_args=flags
    )
    setup(
        name="ap_eval",
        packages=[],
        package_dir={"lib.evaluation": str(EVALUATION)},
        ext_modules=cythonize([extension], build_dir="build"),
    )


if __name__ == "__main__":
    main()
