import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.examples.programs import ACROSS, DOWN, SPECS, THRESHOLD, program, random_outputs, require_network
from tests.shared import ROOT

ANDROID = ROOT / "examples/android"
COMPILER = "kotlin-compiler@2.4.20"
MAIN = f"""
import faces.Description
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder

fun floats(path: String): FloatArray {{
    val values = ByteBuffer.wrap(File(path).readBytes()).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()
    return FloatArray(values.remaining()).also {{ values.get(it) }}
}}

fun main(files: Array<String>) {{
    val (file, boxes, scores) = files
    val description = Description.of(File(file).readBytes())
    for (face in description.faces(floats(boxes), floats(scores), {THRESHOLD}f, {ACROSS}f, {DOWN}f)) {{
        println("${{face.x1}} ${{face.y1}} ${{face.x2}} ${{face.y2}} ${{face.score}}")
    }}
}}
"""


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The example, compiled with its stubs and a main function: java and its options."""
    java, npm, folder = program("java"), program("npm"), tmp_path_factory.mktemp("kotlin")
    command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-save", COMPILER]
    installed = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    require_network(installed.stderr)
    assert installed.returncode == 0, installed.stderr
    jars = folder / "node_modules/kotlin-compiler/lib"
    library = str(jars / "kotlin-stdlib.jar")
    (folder / "Main.kt").write_text(MAIN)
    sources = [*ANDROID.glob("src/main/kotlin/faces/*.kt"), *ANDROID.glob("stubs/*.kt"), folder / "Main.kt"]
    compiler = [java, "-cp", f"{jars / 'kotlin-compiler.jar'}:{library}", "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"]
    options = ["-no-stdlib", "-no-reflect", "-Werror", "-cp", library, "-d", str(folder / "classes")]
    compiled = subprocess.run([*compiler, *options, *map(str, sources)], capture_output=True, text=True)
    assert compiled.returncode == 0, compiled.stderr
    return [java, "-cp", f"{folder / 'classes'}:{library}", "MainKt"]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(SPECS)))
def test_kotlin_decodes_a_networks_outputs(
    number: int, classes: list[str], tmp_path: Path, rng: np.random.Generator
) -> None:
    boxes, scores, expected = random_outputs(SPECS[number], tmp_path / "detector.tflite", rng)
    boxes.astype("<f4").tofile(tmp_path / "boxes")
    scores.astype("<f4").tofile(tmp_path / "scores")
    command = [*classes, *(str(tmp_path / name) for name in ("detector.tflite", "boxes", "scores"))]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = np.array([line.split() for line in printed.splitlines()], np.float32)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-3)
