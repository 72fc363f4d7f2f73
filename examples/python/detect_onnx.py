"""Faces of one image with ONNX Runtime, NumPy and OpenCV alone: python detect_onnx.py detector.onnx people.jpg."""

import json
import sys

import cv2
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
facts = json.loads(session.get_modelmeta().custom_metadata_map["face_detector"])
image = cv2.imread(sys.argv[2])[..., ::-1]  # RGB
if facts["size"] != "any":
    image = cv2.resize(image, facts["size"][::-1])  # stretched: the boxes are in pixels of this
height, width = image.shape[:2]
boxes, scores = (end[0] for end in session.run(["boxes", "scores"], {"image": image[None].astype(np.float32)}))

anchors, levels = facts["anchors"], []
rows, columns = -(-height // anchors["strides"][0]), -(-width // anchors["strides"][0])
for stride, size in zip(anchors["strides"], anchors["sizes"], strict=True):
    y, x = (np.arange(cells) + anchors["place"] for cells in (rows, columns))
    y, x, sides = np.meshgrid(y, x, size / stride * np.array(anchors["scales"]), indexing="ij")
    levels.append(np.stack([x, y, sides, sides * anchors["ratio"]], -1) * stride)
    rows, columns = -(-rows // 2), -(-columns // 2)
best = np.flatnonzero(scores >= 0.5)
centre, sides = np.split(np.concatenate([level.reshape(-1, 4) for level in levels])[best], 2, axis=1)
first, second = np.split(boxes[best], 2, axis=1)
if anchors["code"] == "corners":
    first, second = (offsets / anchors["corner_scale"] * sides for offsets in (first, second))
    top_left, bottom_right = centre - sides / 2 + first, centre + sides / 2 + second
else:
    centre, sides = centre + first * anchors["variances"][0] * sides, sides * np.exp(second * anchors["variances"][1])
    top_left, bottom_right = centre - sides / 2, centre + sides / 2
compared = np.hstack([top_left, bottom_right - top_left])
compared = np.trunc(compared) if anchors["whole_px"] else compared
for i in cv2.dnn.NMSBoxes(compared.tolist(), scores[best].tolist(), 0.5, 0.3):
    print(*(f"{value:.1f}" for value in (*top_left[i], *bottom_right[i])), f"{scores[best][i]:.3f}")
