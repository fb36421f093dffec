"""How much memory training and prediction need on each GPU (or, without a GPU, in the machine), part by part.

The formulas count the tensors that this code keeps, in the way of Korthikanti et al. 2022 ("Reducing Activation
Recomputation in Large Transformer Models", section 4), for what runs here: Qwen3-VL in transformers with fused
attention, adapters by PEFT with masks drawn for each sample, logits only at the positions of answers, trained weights
in float32, AdamW. Measured peaks are beside the estimates in docs/memory.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from usertune.models.model_shape import ModelShape
from usertune.models.recipe import FreezeSettings, LoraSettings

FLOAT = 4
HALF = 2
# Two moments of every trained weight (Loshchilov & Hutter 2019, algorithm 2), in float32.
ADAMW_BYTES = 2 * FLOAT
# A CUDA context with the kernels of cuBLAS and of torch; without a GPU, the interpreter with torch and transformers.
RUNTIME_BYTES = {"gpu": 600 << 20, "cpu": 900 << 20}
# Logits in float32, their log-softmax and its gradient, all at once (see `usertune.training.trainer.answer_loss_sum`).
LOGITS_BYTES = 3 * FLOAT

Parts = dict[str, int]


@dataclass(frozen=True)
class MicroBatch:
    """The samples that are in memory at once, in one process.

    Attributes:
        samples: their number.
        tokens: tokens of each, with padding.
        image_tokens: visual tokens of all of them.
        answer_positions: positions at which any of them has a label.
        padded: whether their lengths differ.
    """

    samples: int
    tokens: int
    image_tokens: int
    answer_positions: int
    padded: bool = False


@dataclass(frozen=True)
class Setup:
    """How an experiment is trained.

    Attributes:
        weights: settings of the adapters (mode lora) or of what is frozen (mode full).
        dtype: the study's ``base_model.dtype``.
        checkpointing: whether activations are recomputed.
        accumulation: micro-batches of an optimizer step in each process.
        processes: number of processes, one for each GPU.
        strategy: what each holds: the complete model (ddp) or a shard (fsdp).
        device: gpu or cpu.
    """

    weights: LoraSettings | FreezeSettings
    dtype: Literal["bfloat16", "float32"]
    checkpointing: bool
    accumulation: int = 1
    processes: int = 1
    strategy: Literal["ddp", "fsdp"] = "ddp"
    device: Literal["gpu", "cpu"] = "gpu"

    @property
    def is_lora(self) -> bool:
        """Whether adapters are trained."""
        return isinstance(self.weights, LoraSettings)

    @property
    def is_sharded(self) -> bool:
        """Whether weights, gradients and moments are divided among the processes."""
        return self.processes > 1 and self.strategy == "fsdp"

    @property
    def width(self) -> int:
        """Bytes of a number in the linear layers: autocast computes them in bfloat16."""
        return HALF if self.dtype == "bfloat16" else FLOAT


def training_memory(shape: ModelShape, setup: Setup, batch: MicroBatch) -> Parts:
    """Return part -> bytes at the moment of an optimizer step that needs most, in one process.

    Args:
        shape: the model.
        setup: how it is trained.
        batch: the largest micro-batch.
    """
    share = setup.processes if setup.is_sharded else 1
    trained = shape.trained(setup.weights)
    return {
        "weights": weights_bytes(shape, setup) // share,
        "optimizer": ADAMW_BYTES * trained // share,
        **widest_moment(shape, setup, batch),
        "runtime": RUNTIME_BYTES[setup.device],
    }


def widest_moment(shape: ModelShape, setup: Setup, batch: MicroBatch) -> Parts:
    """Return the bytes of gradients, inputs, copies, activations and logits at the moment when they need most.

    The moments: the next samples are fetched; the vision tower computes; the backward pass begins; it ends.
    """
    trained, text = shape.trained(setup.weights), shape.text
    share = setup.processes if setup.is_sharded else 1
    gradients = FLOAT * trained // share
    # With accumulation, gradients of earlier micro-batches are there all the time.
    earlier = gradients if setup.accumulation > 1 else 0
    head = FLOAT * text.hidden * text.vocabulary
    of_head = 0 if setup.is_lora else min(head // share, gradients)
    # The gradient of a tied embedding is the sum of two, which meet at the end of the backward pass.
    second = 0 if setup.is_lora or shape.parameters["head"] else head
    buckets = FLOAT * trained if setup.processes > 1 and not setup.is_sharded else 0
    layer, working = layer_activations(shape, setup, batch), layer_working_memory(shape, setup, batch)
    # A checkpoint keeps the layer's input, which is in float32 if the embedding is.
    stream = setup.width if setup.is_lora else FLOAT
    kept = stream * text.hidden * batch.samples * batch.tokens if setup.checkpointing else layer
    recomputed = layer if setup.checkpointing else 0
    activations = text.layers * kept + trained_vision_activations(shape, setup, batch)
    logits = LOGITS_BYTES * batch.samples * batch.answer_positions * text.vocabulary
    pixels, features = pixel_bytes(shape, setup, batch), visual_token_bytes(shape, setup, batch)
    copies = computation_copies(shape, setup)
    # With checkpointing, the copies of the forward pass are gone before the first layer is computed again.
    later = copies // text.layers if setup.checkpointing and not setup.is_sharded else copies
    kept_inputs, first = pixels + features, max(earlier, of_head)
    moments = [
        _parts(0, 2 * pixels, 0, 0, 0),
        _parts(earlier, pixels, 0, vision_working_memory(shape, setup, batch), 0),
        _parts(earlier, kept_inputs, copies, activations, logits),
        _parts(first, kept_inputs, later, activations + recomputed + working, 0),
        _parts(gradients + second, kept_inputs, later, recomputed + working, 0),
    ]
    widest = max(moments, key=lambda moment: sum(moment.values()))
    return {**widest, "gradients": widest["gradients"] + buckets}


def _parts(gradients: int, inputs: int, copies: int, activations: int, logits: int) -> Parts:
    return {
        "gradients": gradients,
        "inputs": inputs,
        "copies": copies,
        "activations": activations,
        "logits": logits,
    }


def weights_bytes(shape: ModelShape, setup: Setup) -> int:
    """Return the bytes of all weights: trained ones in float32, and in mode full the frozen ones too.

    `usertune.training.finetune` loads the model so, and PEFT keeps adapters in float32.
    """
    if setup.is_lora:
        return setup.width * shape.total + FLOAT * shape.trained(setup.weights)
    return FLOAT * shape.total


def computation_copies(shape: ModelShape, setup: Setup) -> int:
    """Return the bytes of the bfloat16 copies of float32 weights.

    Autocast keeps a copy of each trained matrix until the forward pass ends, and the graph keeps those that the
    gradients of inputs need (torch, ``aten/src/ATen/autocast_mode.cpp``). FSDP holds what it gathered: a layer and the
    one it fetches ahead, and the embedding and the head, which stay gathered.
    """
    text = shape.text
    head = text.hidden * text.vocabulary
    if setup.is_sharded:
        outside = shape.parameters["embedding"] + shape.parameters["head"] + shape.parameters["merger"]
        layer = 2 * shape.parameters["language"] // text.layers
        return setup.width * (layer + outside) + FLOAT * layer // 2
    if setup.dtype == "float32":
        return 0
    if setup.is_lora:
        return HALF * shape.trained(setup.weights)
    return HALF * (shape.matrices + head)


def layer_activations(shape: ModelShape, setup: Setup, batch: MicroBatch) -> int:
    """Return the bytes that one layer of the language model keeps for its backward pass.

    Korthikanti et al. 2022, section 4.1, counted again for this layer: a norm saves its input and a factor, the gated
    MLP its two factors (`usertune.training.fused_layers`); fused attention saves queries, keys, values and output, no
    matrix of tokens x tokens (Dao et al. 2022); a frozen linear layer saves nothing, an adapter saves its input after
    dropout and the mask of one byte a number.
    """
    text, width = shape.text, setup.width
    hidden, inner = text.hidden, text.intermediate
    queries, keys = text.heads * text.head_dim, text.kv_heads * text.head_dim
    stream = width if setup.is_lora else FLOAT
    norms = 2 * (stream * hidden + FLOAT) + width * (queries + keys) + FLOAT * (text.heads + text.kv_heads)
    # Keys and values are repeated for every query head where a mask for padding rules out grouped heads.
    attention = width * (2 * queries + 2 * (queries if batch.padded else keys)) + FLOAT * text.heads
    gated = 2 * inner * width
    if isinstance(setup.weights, LoraSettings):
        linear = _adapter_inputs(setup.weights, setup, hidden, queries, inner)
    else:
        linear = width * ((5 if setup.dtype == "bfloat16" else 2) * hidden + inner)
    mask = batch.samples * batch.tokens**2 * width if batch.padded else 0
    return batch.samples * batch.tokens * (norms + attention + gated + linear) + mask


def _adapter_inputs(lora: LoraSettings, setup: Setup, hidden: int, queries: int, inner: int) -> int:
    """Return the bytes a token that the adapters of a layer save."""
    inputs = 5 * hidden + queries + inner
    ranks = 7 * lora.rank * setup.width
    if lora.dropout:
        return inputs * (setup.width + 1) + ranks
    # Without dropout, adapters share their input, and that of o_proj is kept by attention, unless autocast copies it.
    shared = inputs if setup.dtype == "bfloat16" else 2 * hidden + inner
    return shared * setup.width + ranks


def layer_working_memory(shape: ModelShape, setup: Setup, batch: MicroBatch) -> int:
    """Return the bytes of temporary tensors at the widest moment of a layer's backward pass, its gated MLP.

    Gradients of the product and of its two factors, and with adapters the masked gradient.
    """
    inner, hidden = shape.text.intermediate, shape.text.hidden
    wide = 4 if setup.is_lora else 3
    return batch.samples * batch.tokens * (wide * setup.width * inner + 2 * FLOAT * hidden)


def vision_working_memory(shape: ModelShape, setup: Setup, batch: MicroBatch) -> int:
    """Return the bytes of temporary tensors in the widest block of a frozen vision tower, which keeps no activations.

    Its MLP holds the inner tensor before and after the activation function; its attention rotates queries and keys in
    float32.
    """
    vision, width = shape.vision, setup.width
    patches = batch.image_tokens * vision.merge
    mlp = 2 * width * vision.intermediate
    attention = width * 3 * vision.hidden + 4 * FLOAT * vision.hidden
    return patches * (2 * width * vision.hidden + max(mlp, attention))


def trained_vision_activations(shape: ModelShape, setup: Setup, batch: MicroBatch) -> int:
    """Return the bytes that the trained parts of the vision tower keep for the backward pass."""
    if isinstance(setup.weights, LoraSettings):
        return 0
    vision, width = shape.vision, setup.width
    patches = batch.image_tokens * vision.merge
    kept = 0
    if not setup.weights.merger:
        # LayerNorm's input, then inputs of both linear layers and of the activation function between them.
        kept += (1 + vision.deepstack) * patches * vision.hidden * (FLOAT + 3 * width)
    if not setup.weights.vision:
        block = 2 * vision.hidden * (FLOAT + width) + 4 * width * vision.hidden + 2 * width * vision.intermediate
        blocks = FLOAT * vision.hidden * vision.depth + block if setup.checkpointing else vision.depth * block
        kept += patches * blocks
    return kept


def pixel_bytes(shape: ModelShape, setup: Setup, batch: MicroBatch) -> int:
    """Return the bytes of the pixels of all micro-batches of an optimizer step, which the Trainer fetches together.

    Without a GPU, the data loader's next micro-batch is in the same memory.
    """
    pixels = FLOAT * batch.image_tokens * shape.vision.merge * shape.vision.patch_values
    return pixels * (setup.accumulation + (setup.device == "cpu"))


def visual_token_bytes(shape: ModelShape, setup: Setup, batch: MicroBatch) -> int:
    """Return the bytes of visual tokens, those that DeepStack adds to the first layers included, and of embeddings."""
    features = (1 + shape.vision.deepstack) * batch.image_tokens * shape.text.hidden * setup.width
    return features + batch.samples * batch.tokens * shape.text.hidden * FLOAT


def prediction_memory(
    shape: ModelShape, dtype: str, batch: MicroBatch, new_tokens: int, device: Literal["gpu", "cpu"] = "gpu"
) -> Parts:
    """Return part -> bytes of generating one batch of answers.

    The cache keeps keys and values of every token in every layer (Pope et al. 2022, "Efficiently Scaling Transformer
    Inference", section 3.3), with grouped heads.

    Args:
        shape: the model; an adapter adds next to nothing.
        dtype: the study's ``base_model.dtype``.
        batch: the largest batch of prompts.
        new_tokens: most tokens of an answer.
        device: gpu or cpu.
    """
    width = HALF if dtype == "bfloat16" else FLOAT
    text = shape.text
    tokens = batch.samples * batch.tokens
    frozen = Setup(FreezeSettings(vision=True, merger=True), "bfloat16" if width == HALF else "float32", False)
    prefill = tokens * (2 * FLOAT * text.hidden + 3 * width * text.intermediate)
    return {
        "weights": width * shape.total,
        "kv_cache": 2 * width * text.layers * text.kv_heads * text.head_dim * (tokens + batch.samples * new_tokens),
        "inputs": pixel_bytes(shape, frozen, batch) + visual_token_bytes(shape, frozen, batch),
        "activations": max(prefill, vision_working_memory(shape, frozen, batch)),
        "logits": 2 * FLOAT * batch.samples * text.vocabulary,
        "runtime": RUNTIME_BYTES[device],
    }
