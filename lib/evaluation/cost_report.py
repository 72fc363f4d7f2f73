"""What a model costs, and how much of it is active: by weights, and on photographs."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras

from lib.data.images import read_rgb
from lib.models import inference_model
from lib.pruning.activity import active_by_weights, active_on_images
from lib.pruning.cost import count_macs, count_parameters, layer_costs, uncounted, zero_share
from lib.pruning.graph.calls import Calls

RULES = ("by_filters", "not_silent", "on_images")  # the three counts of a report


def cost_report(
    model: keras.Model,
    height_px: int,
    width_px: int,
    full: keras.Model | None = None,
    images: Sequence[Path] = (),
) -> dict[str, Any]:
    """All that a model costs at one input size, as a JSON-able dict; of two shots only the one that detects counts.

    Args:
        full: the model that the percentages refer to; None: `model` itself with all its channels.
        images: image files to measure activity on; without any, the keys that end in `_on_images` are None.

    Returns:
        `parameters`, `zero_share`, `macs`, `full_macs`; `not_counted`: layers of unknown kinds, whose
        multiply-accumulates are in no sum; `macs_by_filters`, `macs_not_silent` and `macs_on_images` (see
        `active_by_weights` for the rules), and for each layer of `layers` its name, parameters, macs, channels,
        `active_by_filters`, `active_not_silent` and `active_on_images`.

    Raises:
        DataError: an image cannot be read.

    """
    model = inference_model(model)
    costs = layer_costs(model, height_px, width_px)
    counts = {
        "by_filters": active_by_weights(model, costs, "filter"),
        "not_silent": active_by_weights(model, costs, "silent"),
    }
    if images:
        counts["on_images"] = active_on_images(model, costs, (read_rgb(path) for path in images))
    found = {rule: {item.name: item for item in items} for rule, items in counts.items()}
    rows = []
    for cost in costs:
        if cost.name not in found["by_filters"]:
            continue
        row = {**asdict(cost), "channels": found["by_filters"][cost.name].channels}
        for rule in RULES:
            row[f"active_{rule}"] = found[rule][cost.name].active if rule in found else None
        rows.append(row)
    macs = sum(cost.macs for cost in costs)
    return {
        "height_px": height_px,
        "width_px": width_px,
        "parameters": count_parameters(model),
        "zero_share": zero_share(model),
        "macs": macs,
        "not_counted": uncounted(Calls(model)),
        "full_macs": count_macs(inference_model(full), height_px, width_px) if full else macs,
        "images": len(images),
        **{f"macs_{rule}": sum(i.macs for i in counts[rule]) if rule in counts else None for rule in RULES},
        "layers": rows,
    }
