"""Add an adapter to its base model, and check that the merged model says the same."""

from __future__ import annotations

import gc
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from usertune.core.errors import UserError
from usertune.data.samples import Sample
from usertune.inference.effect import PROBES, answer_log_probabilities
from usertune.inference.engine import EngineSettings
from usertune.models.conversation import Collator, ConversationTokenizer
from usertune.models.families.catalogue import family_of
from usertune.models.loading import load_for_prediction, load_processor, on_device

logger = logging.getLogger(__name__)

# How far a log-probability of an answer's token may move, natural logarithm. In bfloat16, each merged weight is rounded
# to 8 bits, as each activation is in prediction.
BOUNDS = {"float32": 1e-3, "bfloat16": 0.5}


def merge_adapter(settings: EngineSettings, samples: Sequence[Sample], folder: Path) -> dict[str, Any]:
    """Write the sum of base model and adapter, with the processor, into a new folder.

    The log-probabilities of the expected answers' tokens are compared between base model with adapter and the model as
    it was written.

    Args:
        settings: base model and adapter (mode "lora").
        samples: samples; the first `PROBES` are compared.
        folder: the folder to write into.

    Returns:
        ``probes`` (number of samples), ``largest_change`` of a log-probability, and the ``bound`` that it is below.

    Raises:
        UserError: the weights cannot be loaded, or a log-probability moved by more than the bound.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    processor = load_processor(settings.base_folder, settings.pixels)
    conversations = ConversationTokenizer(processor, family_of(settings.base_folder), settings.thinking)
    collator = Collator(conversations, settings.dataset_root)
    batches = [on_device(collator.single(sample)) for sample in samples[:PROBES]]
    model: Any = load_for_prediction(settings.base_folder, "lora", settings.weights_folder, settings.dtype)
    before = [answer_log_probabilities(model, batch) for batch in batches]
    model.merge_and_unload(safe_merge=True).save_pretrained(str(folder))
    processor.save_pretrained(str(folder))
    # Two models may not fit into memory.
    del model
    gc.collect()
    merged = load_for_prediction(settings.base_folder, "full", folder, settings.dtype)
    changes = [
        (answer_log_probabilities(merged, batch) - own).abs().max() for batch, own in zip(batches, before, strict=True)
    ]
    largest, bound = float(torch.stack(changes).max()), BOUNDS[settings.dtype]
    if not largest <= bound:
        raise UserError(
            f"the merged model does not say what base model and adapter say: a log-probability moved by {largest:.3g}, "
            f"more than {bound:g}; export the adapter, without --merge"
        )
    logger.info("merged: log-probabilities moved by up to %.3g on %d samples", largest, len(batches))
    return {"probes": len(batches), "largest_change": largest, "bound": bound}
