"""A base model that cannot be used is refused while jobs are planned, from small files and headers."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.calls import NO_LIMITS
from tests.support.weight_files import write_tensors
from tests.unit.conftest import BASE
from usertune.core.errors import UserError
from usertune.models.base_model import check_local, describe_base_model
from usertune.models.model_folder import ModelFolder, largest_enlarged, pixel_problems
from usertune.models.recipe import BaseModelRecipe, Pixels

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + 64 * "0" + "\nsize 4900000000\n"
LAYER = "model.language_model.layers.1.self_attn.q_proj.weight"
Change = Callable[[Path], object]


def _header(file: Path) -> dict[str, Any]:
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header: dict[str, Any] = json.loads(content[8 : 8 + length])
    return header


def _shard(folder: Path, count: int = 2) -> dict[str, str]:
    """Cut the folder's single file into several, with an index; return the index's map."""
    single = folder / "model.safetensors"
    shapes = {name: tensor["shape"] for name, tensor in _header(single).items() if name != "__metadata__"}
    single.unlink()
    files = {name: f"model-{number % count + 1:05}-of-{count:05}.safetensors" for number, name in enumerate(shapes)}
    for file in set(files.values()):
        write_tensors(folder / file, {name: shapes[name] for name in shapes if files[name] == file})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return files


def _without_first_part(folder: Path) -> None:
    for file in folder.glob("*.safetensors"):
        shapes = {name.removeprefix("model."): tensor["shape"] for name, tensor in _header(file).items()}
        write_tensors(file, shapes)
    index = folder / INDEX
    index.write_text(index.read_text().replace('"model.', '"').replace('"safetensors', '"model.safetensors'))


def _edit(name: str, **changes: Any) -> Change:
    def edit(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**content, **changes}))

    return edit


def _renamed(old: str, new: str) -> Change:
    """Rename tensors, in names of the same length."""
    assert len(old) == len(new)

    def rename(folder: Path) -> None:
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes().replace(old.encode(), new.encode()))

    return rename


def _without(*names: str) -> Change:
    return lambda folder: [(folder / name).unlink() for name in names]


def _cut(name: str, by: int) -> Change:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-by])


def _write(name: str, text: str) -> Change:
    return lambda folder: (folder / name).write_text(text)


def _both(*changes: Change) -> Change:
    return lambda folder: [change(folder) for change in changes]


SHARD = "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"
MISTAKES: dict[str, tuple[Change, list[str]]] = {
    "no config": (_without("config.json"), ["config.json is missing"]),
    "config cut short": (_cut("config.json", 9), ["config.json is not valid JSON", "fetch it again"]),
    "config of another kind": (_write("config.json", "[]"), ["config.json must be a JSON object"]),
    "other model": (_edit("config.json", model_type="llama"), ["type 'llama'; supported: qwen3_5, qwen3_vl"]),
    "mixture of experts": (_edit("config.json", model_type="qwen3_vl_moe"), ["type 'qwen3_vl_moe'; supported"]),
    "mixture of experts of Qwen3.5": (
        _edit("config.json", model_type="qwen3_5_moe"),
        ["type 'qwen3_5_moe'; supported: qwen3_5, qwen3_vl"],
    ),
    "a type that is no text": (_edit("config.json", model_type=["qwen3_vl"]), ["type ['qwen3_vl']; supported"]),
    "no type": (_write("config.json", "{}"), ["type None; supported"]),
    "quantised": (
        _edit("config.json", quantization_config={"quant_method": "fp8"}),
        ["quantised (fp8)", "use the original model"],
    ),
    "no tokenizer": (_without("tokenizer.json"), ["tokenizer.json, or vocab.json and merges.txt"]),
    "half a tokenizer": (
        _both(_without("tokenizer.json"), _write("vocab.json", "{}")),
        ["tokenizer.json, or vocab.json and merges.txt"],
    ),
    "tokenizer cut short": (_cut("tokenizer.json", 100), ["tokenizer.json was cut short"]),
    "no tokenizer config": (_without("tokenizer_config.json"), ["tokenizer_config.json is missing"]),
    "no template": (_without("chat_template.jinja"), ["a chat template is missing: chat_template.jinja"]),
    "no processor": (
        _without("processor_config.json"),
        ["preprocessor_config.json (or processor_config.json) is missing"],
    ),
    "no weights": (_without("model.safetensors"), ["the weights are missing: model.safetensors, or"]),
    "pickled weights": (
        lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
        ["pytorch_model.bin has another format", "get the safetensors files"],
    ),
    "weights by another name": (
        lambda folder: (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors"),
        ["without the index model-00001-of-00001.safetensors cannot be used"],
    ),
    "weights cut short": (_cut("model.safetensors", 1000), ["model.safetensors: cut short: 3,515,024 bytes"]),
    "weights too long": (
        lambda folder: (folder / "model.safetensors").open("ab").write(b"x"),
        ["model.safetensors: too long"],
    ),
    "empty weights": (_write("model.safetensors", ""), ["model.safetensors: not a safetensors file"]),
    "text as weights": (_write("model.safetensors", "weights of the base model"), ["not a safetensors file"]),
    "renamed": (
        _renamed("model.language_model", "other.language_model"),
        [
            "the weights do not match config.json: ",
            "language_model.embed_tokens.*",
            "35 unexpected (other.language_model",
        ],
    ),
    "no vision": (_renamed("model.visual", "model.vision"), [" missing (visual.", "unexpected (vision."]),
    "one tensor less": (
        _renamed(LAYER, LAYER.replace("q_proj", "x_proj")),
        ["language_model.layers.1.self_attn.q_proj"],
    ),
    "more layers in the config": (
        _edit("config.json", text_config={"num_hidden_layers": 4}),
        ["missing (language_model.layers.3."],
    ),
    "fewer layers in the config": (
        _edit("config.json", text_config={"num_hidden_layers": 2}),
        ["unexpected (language_model.layers.2."],
    ),
    "no head": (_edit("config.json", tie_word_embeddings=False), ["1 missing (lm_head.*)"]),
    "a shard is missing": (_both(_shard, _without(SHARD)), [f"{SHARD}, listed in {INDEX}, is missing"]),
    "a shard is cut short": (_both(_shard, _cut(SHARD, 1)), [f"{SHARD}: cut short"]),
    "a shard is a pointer": (_both(_shard, _write(SHARD, POINTER)), [f"pointers in place of {SHARD}", "git lfs pull"]),
    "the index is no JSON": (_both(_shard, _write(INDEX, "{")), [f"{INDEX} is not valid JSON"]),
    "the index is empty": (_both(_shard, _write(INDEX, "{}")), [f"{INDEX} has no weight_map"]),
    "the index leads elsewhere": (
        _both(_shard, _write(INDEX, '{"weight_map": {"a": "../secret"}}')),
        ["'../secret', which is not a file of this folder"],
    ),
    "the index and a shard differ": (
        _both(_shard, lambda folder: shutil.copy(folder / SHARD, folder / "model-00001-of-00002.safetensors")),
        ["model-00001-of-00002.safetensors does not match"],
    ),
    "an adapter": (
        _both(_without("config.json"), _write("adapter_config.json", "{}")),
        ["the folder holds an adapter; give the folder of its base model"],
    ),
    **{
        f"{name} is a pointer": (_write(name, POINTER), [f"Git LFS left pointers in place of {name};", "git lfs pull"])
        for name in (
            "config.json",
            "tokenizer.json",
            "model.safetensors",
            "processor_config.json",
            "chat_template.jinja",
        )
    },
}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BASE, tmp_path / "base"))


@pytest.mark.parametrize(("change", "expected"), MISTAKES.values(), ids=MISTAKES)
def test_what_keeps_a_base_model_from_being_used_is_named(base: Path, change: Change, expected: list[str]) -> None:
    change(base)
    with pytest.raises(UserError) as caught:
        check_local(str(base), NO_LIMITS)
    message = str(caught.value)
    assert message.startswith(f"base_model.path: {base}")
    assert [part for part in expected if part not in message] == [], message


def test_all_problems_are_in_one_message(base: Path) -> None:
    _without("chat_template.jinja", "config.json")(base)
    _cut("model.safetensors", 1)(base)
    _write("tokenizer.json", POINTER)(base)
    with pytest.raises(UserError) as caught:
        check_local(str(base), Pixels(min=None, max=9))
    lines = str(caught.value).splitlines()
    assert lines[0] == f"base_model.path: {base} cannot be used (5 problems):"
    assert [line.split()[0] for line in lines[1:]] == [
        "Git",
        "config.json",
        "a",
        "model.safetensors:",
        "base_model.max_pixels",
    ]


VALID: dict[str, Change] = {
    "as it is": lambda folder: None,
    "in shards": _shard,
    "old tokenizer files": _both(_without("tokenizer.json"), _write("vocab.json", "{}"), _write("merges.txt", "")),
    "template in a JSON file": _both(
        _without("chat_template.jinja"), _write("chat_template.json", '{"chat_template": "{{ messages }}"}')
    ),
    "template with the tokenizer": _both(
        _without("chat_template.jinja"), _edit("tokenizer_config.json", chat_template="{{ messages }}")
    ),
    "image processor by itself": lambda folder: (
        (folder / "preprocessor_config.json").write_text(
            json.dumps(json.loads((folder / "processor_config.json").read_text())["image_processor"])
        ),
        (folder / "processor_config.json").unlink(),
    ),
    "names without the first part": _both(_shard, _without_first_part),
}


@pytest.mark.parametrize("change", VALID.values(), ids=VALID)
def test_every_form_of_a_complete_model_passes(base: Path, change: Change) -> None:
    change(base)
    assert ModelFolder(base).inspect() == []


def test_an_eight_billion_model_costs_milliseconds_to_check_and_no_torch(base: Path) -> None:
    sizes = {"self_attn.q_proj": [4096, 4096], "self_attn.k_proj": [1024, 4096], "mlp.up_proj": [12288, 4096]}
    others = ("self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj", "input_layernorm")
    kinds = {**sizes, **{kind: [4096, 1024] for kind in others}}
    shapes = {f"model.language_model.layers.{n}.{kind}.weight": size for n in range(36) for kind, size in kinds.items()}
    shapes |= {f"model.visual.blocks.{n}.{kind}.bias": [1152] for n in range(27) for kind in "abcdefghijkl"}
    shapes |= {f"model.visual.deepstack_merger_list.{n}.norm.weight": [4608] for n in range(3)}
    single = ("language_model.embed_tokens", "language_model.norm", "visual.patch_embed", "visual.pos_embed")
    shapes |= {f"model.{name}.weight": [151936, 128] for name in (*single, "visual.merger.norm")}
    files: dict[str, str] = {}
    (base / "model.safetensors").unlink()
    for number in range(4):
        part = dict(list(shapes.items())[number::4])
        write_tensors(base / f"model-{number}.safetensors", part)
        files |= dict.fromkeys(part, f"model-{number}.safetensors")
    (base / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))
    config = {
        "text_config": {"num_hidden_layers": 36},
        "vision_config": {"depth": 27, "deepstack_visual_indexes": [8, 16, 24]},
    }
    _edit("config.json", **config)(base)
    started = time.process_time()
    assert ModelFolder(base).inspect() == []
    assert time.process_time() - started < 1
    program = (
        "import sys; from usertune.models.base_model import check_local; "
        f"from usertune.models.recipe import Pixels; check_local({str(base)!r}, Pixels()); "
        "assert not {'torch', 'transformers', 'safetensors'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (None, None, None),
        (None, 2048, None),
        (512, 1023, "one visual token, has 1,024 pixels"),
        (None, 2_000_000, None),
        (512, 1024, None),
        (1_310_721, None, "min_pixels is 1,310,721, above the processor's own maximum of 1,310,720"),
        (1_310_721, 1_400_000, None),
    ],
)
def test_limits_of_pixels_are_compared_with_those_of_the_processor(
    low: int | None, high: int | None, message: str | None
) -> None:
    pixels = Pixels(min=low, max=high)
    if message is None:
        check_local(str(BASE), pixels)
        return
    with pytest.raises(UserError, match=message):
        check_local(str(BASE), pixels)


def test_a_maximum_below_the_processors_minimum_makes_images_larger_than_asked(base: Path) -> None:
    from PIL import Image

    from usertune.models.loading import load_processor

    config = json.loads((base / "processor_config.json").read_text())
    config["image_processor"]["size"] = {"shortest_edge": 65536, "longest_edge": 16777216}
    (base / "processor_config.json").write_text(json.dumps(config))
    limits = ModelFolder(base).image_size()
    assert limits == {"min": 65536, "max": 16777216, "token": 1024}

    def most_pixels(pixels: dict[str, int | None]) -> int:
        images = load_processor(base, pixels).image_processor
        screens = [Image.new("RGB", size) for size in ((96, 160), (300, 300), (1080, 2340))]
        grids = [images(images=[screen], return_tensors="pt")["image_grid_thw"][0] for screen in screens]
        return max(int(height * width) * 16 * 16 for _, height, width in grids)

    wrong = Pixels(min=None, max=32768)
    assert most_pixels(wrong) > 65536
    assert pixel_problems(limits, wrong) == [
        "base_model.max_pixels is 32,768, but the processor enlarges images below its own minimum of 65,536 pixels, "
        "and rounding to full visual tokens makes that up to 81,920, more than max_pixels; set min_pixels too, to "
        "16384 or less, or max_pixels to 81920 or more"
    ]
    # Rounding alone makes an image larger than a maximum at the minimum.
    at_the_minimum = Pixels(min=None, max=65536)
    assert most_pixels(at_the_minimum) > 65536
    assert pixel_problems(limits, at_the_minimum)
    advised: list[Pixels] = [Pixels(min=16384, max=32768), Pixels(min=None, max=81920)]
    for right in advised:
        assert pixel_problems(limits, right) == []
        assert most_pixels(right) <= (right.max or 0)


@given(st.integers(1, 2_000_000), st.integers(1, 3000), st.integers(1, 3000))
def test_no_enlarged_image_is_larger_than_that(low: int, height: int, width: int) -> None:
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    height, width = min(height, 4 * width), min(width, 4 * height)
    resized = smart_resize(height, width, 32, min_pixels=low, max_pixels=10**9)
    plain = smart_resize(height, width, 32, min_pixels=0, max_pixels=10**9)
    if resized != plain:
        assert resized[0] * resized[1] <= largest_enlarged(low, 1024) * 1.02


def test_the_limits_are_those_that_the_processor_has(base: Path) -> None:
    from usertune.models.loading import load_processor

    images = json.loads((base / "processor_config.json").read_text())["image_processor"]
    del images["size"]
    (base / "processor_config.json").unlink()
    for more in ({}, {"min_pixels": 4096, "max_pixels": 99_999}, {"size": {"shortest_edge": 5, "longest_edge": 9999}}):
        (base / "preprocessor_config.json").write_text(json.dumps({**images, **more}))
        limits = ModelFolder(base).image_size()
        size = load_processor(base, NO_LIMITS).image_processor.size
        assert limits == {"min": size["shortest_edge"], "max": size["longest_edge"], "token": 1024}


def test_a_tokenizer_without_the_tokens_of_turns_and_images_is_refused(base: Path, tmp_path: Path) -> None:
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    kept = [token for token in tokenizer["added_tokens"] if token["content"] not in ("<|im_end|>", "<|image_pad|>")]
    (base / "tokenizer.json").write_text(json.dumps({**tokenizer, "added_tokens": kept}))
    recipe = BaseModelRecipe(step="base_model", path=str(base), pixels=NO_LIMITS)
    with pytest.raises(UserError, match=r"the tokenizer has no <\|im_end\|>, <\|image_pad\|>; fetch"):
        describe_base_model(recipe, tmp_path / "manifest.json")


def test_the_step_checks_what_planning_checks(base: Path, tmp_path: Path) -> None:
    recipe = BaseModelRecipe(step="base_model", path=str(base), pixels=Pixels(min=None, max=100))
    with pytest.raises(UserError, match="max_pixels is 100"):
        describe_base_model(recipe, tmp_path / "manifest.json")
