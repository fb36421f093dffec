"""The model card of a trained experiment: its numbers with intervals, how it was trained, and how to use it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from usertune.core.formatting import is_missing, printable
from usertune.tasks.metrics import Metric

PIPELINE = "image-text-to-text"
UNKNOWN_LICENSE = "unknown"
LIBRARY = {"lora": "peft", "full": "transformers"}
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class CardFacts:
    """What a model card says.

    Attributes:
        study, experiment: their names.
        kind: "lora" (an adapter) or "full" (complete weights, merged or trained).
        base_model: name of the base model on the hub, or of its folder.
        license: license of the weights as the hub names it; None if nobody said it.
        summary: the summary of the study as Markdown, with its note.
        row: the experiment's row of the summary, with the metrics of ``metrics``.
        metrics: what was measured.
        settings: (key, value) of the training.
        data: (key, value) that describe the data, without paths.
        origin: (key, value) by which the results can be found again.
        merged: what `usertune.inference.merge.merge_adapter` returned; None if nothing was merged.
        source: where the weights come from, if the study did not train them; otherwise None.
    """

    study: str
    experiment: str
    kind: str
    base_model: str
    license: str | None
    summary: str
    row: Mapping[str, Any]
    metrics: Sequence[Metric]
    settings: Sequence[tuple[str, str]]
    data: Sequence[tuple[str, str]]
    origin: Sequence[tuple[str, str]]
    merged: Mapping[str, Any] | None = None
    source: str | None = None


def model_card(facts: CardFacts) -> str:
    """Return the card, a Markdown text with the metadata that the hub reads.

    Numbers have all their digits in the metadata; intervals are in the ``args`` of a metric.
    """
    on_hub = facts.base_model if _HUB_NAME.fullmatch(facts.base_model) else None
    metadata = ModelCardData(
        base_model=on_hub,
        license=facts.license or UNKNOWN_LICENSE,
        library_name=LIBRARY[facts.kind],
        pipeline_tag=PIPELINE,
        tags=["usertune", *(["lora"] if facts.kind == "lora" else [])],
        model_name=f"{facts.study} {facts.experiment}",
        eval_results=[_result(facts, metric) for metric in facts.metrics if not is_missing(facts.row.get(metric.name))],
    )
    return f"---\n{metadata.to_yaml()}\n---\n\n{_body(facts, on_hub)}"


def check_card(text: str) -> None:
    """Read a card as the hub does.

    Raises:
        ValueError: it is no card.
    """
    card = ModelCard(text, ignore_metadata_errors=False)
    if card.data.get("pipeline_tag") != PIPELINE:
        raise ValueError("the card has no metadata")


def _result(facts: CardFacts, metric: Metric) -> EvalResult:
    low, high = (facts.row.get(f"{metric.name}_{end}") for end in ("low", "high"))
    interval = {} if is_missing(low) or is_missing(high) else {"low": low, "high": high}
    confidence = {"confidence": facts.row["confidence"]} if interval else {}
    return EvalResult(
        task_type=PIPELINE,
        dataset_type="private",
        dataset_name=f"test users of the study {facts.study}",
        metric_type=metric.name,
        metric_name=metric.title,
        metric_value=facts.row[metric.name],
        metric_args={**interval, **confidence} or None,
    )


def _body(facts: CardFacts, on_hub: str | None) -> str:
    what = "An adapter (LoRA) for" if facts.kind == "lora" else "A fine-tuned"
    base = f"[{on_hub}](https://huggingface.co/{on_hub})" if on_hub else f"`{_cell(facts.base_model)}`"
    license_note = "" if facts.license else " Nobody stated a license; that of the base model and of the data apply."
    sections = [
        f"# {facts.experiment} ({facts.study})",
        f"{what} {base}, {_whose(facts)}.{license_note}",
        "## Results",
        f"This model is the row `{facts.experiment}`.\n\n{facts.summary.strip()}",
    ]
    if facts.merged:
        sections.append(
            f"The adapter was added to the weights. On {facts.merged['probes']} samples, log-probabilities of the "
            f"expected answers' tokens moved by up to {facts.merged['largest_change']:.2g} by that."
        )
    sections += ["## Training", _table(facts.settings), "## Data", _table(facts.data)]
    sections += ["## Use", _use(facts, on_hub), "## Origin", _table(facts.origin)]
    sections.append("`study.yaml` has all settings of the study; `CITATION.cff` says how to cite usertune.")
    return "\n\n".join(sections) + "\n"


def _whose(facts: CardFacts) -> str:
    if facts.source is None:
        return f"trained by the study `{facts.study}` with usertune"
    return f"not trained by the study `{facts.study}`, which measured it with usertune: {_cell(facts.source)}"


def _use(facts: CardFacts, on_hub: str | None) -> str:
    model = "FOLDER" if facts.kind == "full" else on_hub or "BASE_MODEL"
    lines = [
        "```python",
        "from transformers import AutoModelForImageTextToText, AutoProcessor",
        *(["from peft import PeftModel"] if facts.kind == "lora" else []),
        "",
        'processor = AutoProcessor.from_pretrained("FOLDER")  # this repository',
        f'model = AutoModelForImageTextToText.from_pretrained("{model}")',
        *(['model = PeftModel.from_pretrained(model, "FOLDER")'] if facts.kind == "lora" else []),
        "```",
    ]
    return "\n".join(lines)


def _table(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {_cell(key)} | {_cell(value)} |" for key, value in rows)])


def _cell(text: str) -> str:
    """Return a text for a cell, in which no character has a meaning in Markdown or HTML."""
    return re.sub(r"([\\`*_{}\[\]<>#|!&])", r"\\\1", printable(text))
