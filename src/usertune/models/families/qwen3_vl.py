"""Qwen3-VL, dense models (``model_type: qwen3_vl``): Qwen3-VL-2B, 4B, 8B and 32B, Instruct and Thinking."""

from __future__ import annotations

from usertune.models.family import Layers, RmsNorms
from usertune.models.qwen import QwenFamily

ADAPTED_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Qwen3VL(QwenFamily):
    """See `usertune.models.family.Family`."""

    title = "Qwen3-VL"
    model_class = "Qwen3VLForConditionalGeneration"
    hub_names = tuple(
        f"Qwen/Qwen3-VL-{size}-{kind}" for size in ("2B", "4B", "8B", "32B") for kind in ("Instruct", "Thinking")
    )
    layers = (
        Layers("language_model.layers", "text_config", "num_hidden_layers"),
        Layers("visual.blocks", "vision_config", "depth"),
        Layers("visual.deepstack_merger_list", "vision_config", "deepstack_visual_indexes"),
    )
    mergers = frozenset({"merger", "deepstack_merger_list"})
    # It leaves out the vision tower (model.visual).
    adapted_modules = rf"model\.language_model\..*\.({'|'.join(ADAPTED_LAYERS)})"
    norms, gated_mlp = RmsNorms("Qwen3VLTextRMSNorm", "variance_epsilon"), "Qwen3VLTextMLP"
    sharded_modules = ("Qwen3VLTextDecoderLayer", "Qwen3VLVisionBlock")
