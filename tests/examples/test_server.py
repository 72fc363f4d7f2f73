import re
from pathlib import Path

import onnx as onnx_package

from lib.detection.formats import onnx
from tests.detectors import small_detector
from tests.shared import ROOT

TYPES = {onnx_package.TensorProto.FLOAT: "TYPE_FP32"}


def test_tritons_configuration_fits_the_exported_file(tmp_path: Path) -> None:
    onnx.write(small_detector(), tmp_path / "model.onnx")
    graph = onnx_package.load(tmp_path / "model.onnx").graph
    text = (ROOT / "examples/server/config.pbtxt").read_text()
    ends = re.findall(r'name: "(\w+)", data_type: (\w+), dims: \[ ([-0-9, ]+) \]', text)
    configured = {name: (kind, [int(size) for size in sizes.split(",")]) for name, kind, sizes in ends}
    exported = {}
    for end in (*graph.input, *graph.output):
        batch, *sizes = end.type.tensor_type.shape.dim
        assert batch.dim_param, "Triton's max_batch_size wants a batch of any size"
        exported[end.name] = (TYPES[end.type.tensor_type.elem_type], [size.dim_value or -1 for size in sizes])
    assert exported == configured
