"""Names that parameters had in models that earlier versions have saved.

Shapes: K networks, T tasks, D width of a task's embedding, H units, c clusters.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

# In a model of format 2 all parameters stood side by side.
_FORMAT_2 = {
    "mean": "inputs.mean",
    "inverse_scale": "inputs.inverse_scale",
    "linear_weight": "linear.weight",
    "borrow_outputs": "loans.outputs",
    "borrow_inputs": "loans.inputs",
    "borrow_bias": "loans.bias",
    "first_weight": "network.trunk.first.weight",
    "first_bias": "network.trunk.first.bias",
    "member_scale": "network.trunk.members.scale",
    "map_weight": "network.maps.weight",
    "map_bias": "network.maps.bias",
    "w_task": "network.attention.w_task",
    "w_query": "network.attention.w_query",
    "w_key": "network.attention.w_key",
    "w_value": "network.attention.w_value",
    "head_weight": "network.heads.weight",
    "head_bias": "network.heads.bias",
}


def read_format_2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a model of format 2 under today's names.

    The maps of the tasks had a dimension of their own ([K, T, D, H], now [K, T * D, H]), and
    centres none for the models ([c, D], now [1, c, D]).
    """
    renamed = {}
    for name, value in state.items():
        kind, _, rest = name.partition("_")
        if kind == "trunk":
            layer, _, what = rest.partition("_")
            renamed[f"network.trunk.layers.{int(layer) - 1}.{what}"] = value
        elif kind == "centres":
            renamed[f"network.heads.centres.{rest}"] = value.unsqueeze(0)
        else:
            is_map = kind == "map"
            renamed[_FORMAT_2[name]] = value.flatten(1, 2) if is_map else value
    return renamed
