"""A stand-in for vLLM's server with adapters: the tests' tiny model in this process behind vLLM's documented interface.

It follows vllm/entrypoints/openai: models and adapters as cards of /v1/models, /version, adapters chosen by ``model``,
``prompt_logprobs`` and ``prompt_token_ids`` of the prompt that ``continue_final_message`` leaves open. It is not vLLM:
what it shows is that usertune asks as documented, and notices adapters without effect.
"""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from PIL import Image
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

from tests.support.chat_server import ChatServer, Response, completion

BASE_NAME = "base"


class StandInVllm:
    """The server.

    Args:
        base: folder of the base model.
        adapters: name -> folder.
        ignored: names of adapters that are listed, but have no effect.
        swapped: name -> name of the adapter that answers for it.
    """

    def __init__(
        self,
        base: Path,
        adapters: Mapping[str, Path],
        ignored: tuple[str, ...] = (),
        swapped: Mapping[str, str] | None = None,
    ) -> None:
        self.names = [BASE_NAME, *adapters]
        self.ignored, self.swapped = set(ignored), dict(swapped or {})
        self.processor = AutoProcessor.from_pretrained(str(base))
        model: Any = Qwen3VLForConditionalGeneration.from_pretrained(str(base), dtype=torch.float32)
        self.model = model.eval()
        for name, folder in adapters.items():
            if isinstance(self.model, PeftModel):
                self.model.load_adapter(str(folder), adapter_name=name)
            else:
                self.model = PeftModel.from_pretrained(self.model, str(folder), adapter_name=name).eval()
        self.lock = threading.Lock()

    def server(self) -> ChatServer:
        """Return a server with its pages."""
        cards = [{"id": name, "owned_by": "vllm", "parent": None} for name in self.names]
        pages = {"/v1/models": (200, {"data": cards}), "/version": (200, {"version": "0.0.stand-in"})}
        return ChatServer(self.respond, pages=dict(pages))

    @torch.inference_mode()
    def respond(self, body: Mapping[str, Any]) -> Response:
        """Answer a chat request."""
        name = body["model"]
        if name not in self.names:
            return 404, {"error": {"message": f"The model `{name}` does not exist."}}
        inputs = self.processor.apply_chat_template(
            [{**turn, "content": _content(turn["content"])} for turn in body["messages"]],
            add_generation_prompt=body.get("add_generation_prompt", True),
            continue_final_message=body.get("continue_final_message", False),
            tokenize=True, return_dict=True, return_tensors="pt",
        )  # fmt: skip
        with self.lock:
            return self._answered(self.swapped.get(name, name), inputs, body)

    def _answered(self, name: str, inputs: Any, body: Mapping[str, Any]) -> Response:
        if isinstance(self.model, PeftModel):
            if name == BASE_NAME or name in self.ignored:
                with self.model.disable_adapter():
                    return self._completion(inputs, body)
            self.model.set_adapter(name)
        return self._completion(inputs, body)

    def _completion(self, inputs: Any, body: Mapping[str, Any]) -> Response:
        ids = inputs["input_ids"][0].tolist()
        more: dict[str, Any] = {}
        if body.get("prompt_logprobs") is not None:
            logits: Any = self.model(**inputs).logits[0].float().log_softmax(-1)
            rows: list[Any] = [None]
            for row, token in zip(logits[:-1], ids[1:], strict=True):
                best = int(row.argmax())
                rank = int((row > row[token]).sum()) + 1
                entry = {str(token): {"logprob": float(row[token]), "rank": rank, "decoded_token": ""}}
                rows.append({**entry, str(best): {"logprob": float(row[best]), "rank": 1, "decoded_token": ""}})
            more = {"prompt_logprobs": rows}
            if body.get("return_token_ids"):
                more["prompt_token_ids"] = ids
        limit = body["max_tokens"]
        output: Any = self.model.generate(
            **inputs, do_sample=False, temperature=None, top_p=None, top_k=None, max_new_tokens=limit
        )
        new = output[0, len(ids) :]
        text = self.processor.decode(new, skip_special_tokens=True)
        ended = int(new[-1]) in (self.processor.tokenizer.eos_token_id,)
        said = completion(text, "stop" if ended else "length", len(ids), system_fingerprint="vllm-stand-in", **more)
        said["usage"]["completion_tokens"] = len(new)
        return 200, said


def _content(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [
        part if part["type"] == "text" else {"type": "image", "image": _image(part["image_url"]["url"])}
        for part in content
    ]


def _image(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")
