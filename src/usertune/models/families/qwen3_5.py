"""Qwen3.5, dense multimodal models (``model_type: qwen3_5``). Most layers of the language model have linear attention.

The models with experts (``qwen3_5_moe``) are not of this family: adapters would not reach their experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from usertune.models.family import Layers, RmsNorms
from usertune.models.qwen import QwenFamily

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
LINEAR_ATTENTION = ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
TEXT_LAYERS = Layers("language_model.layers", "text_config", "num_hidden_layers")
# Every fourth layer has full attention, unless the configuration lists the layers' types.
DEFAULT_INTERVAL = 4


class Qwen35(QwenFamily):
    """See `usertune.models.family.Family`."""

    title = "Qwen3.5"
    model_class = "Qwen3_5ForConditionalGeneration"
    hub_names = tuple(f"Qwen/Qwen3.5-{size}" for size in ("0.8B", "2B", "4B", "9B", "27B"))
    layers = (TEXT_LAYERS, Layers("visual.blocks", "vision_config", "depth"))
    # Published files also hold layers that predict several tokens at once; transformers does not load them.
    unused_tensors = r"mtp\..*"
    adapted_modules = rf"model\.language_model\..*\.({'|'.join((*ATTENTION, *LINEAR_ATTENTION, *MLP))})"
    norms, gated_mlp = RmsNorms("Qwen3_5RMSNorm", "eps", offset=1), "Qwen3_5MLP"
    sharded_modules = ("Qwen3_5DecoderLayer", "Qwen3_5VisionBlock")

    def layer_kind(self, layers: Layers, number: int, config: Mapping[str, Any]) -> str:
        """Return the kind of attention of a layer of the language model."""
        if layers != TEXT_LAYERS:
            return ""
        text = config.get("text_config") or {}
        kinds = text.get("layer_types")
        if isinstance(kinds, list) and number < len(kinds):
            return str(kinds[number])
        interval = text.get("full_attention_interval") or DEFAULT_INTERVAL
        return "linear_attention" if (number + 1) % interval else "full_attention"
