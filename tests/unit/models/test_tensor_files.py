"""Headers of files of weights, from any bytes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.weight_files import write_tensors
from usertune.core.errors import UserError
from usertune.models.tensor_files import tensor_shapes


@given(st.binary(max_size=400))
def test_any_bytes_are_a_safetensors_file_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any.safetensors"
    file.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(str(file))):
        tensor_shapes(file)


@given(st.data())
def test_any_change_of_a_header_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    file = tmp_path_factory.getbasetemp() / "changed.safetensors"
    write_tensors(file, {"a": [2, 3], "b": [4], "c": []})
    content = bytearray(file.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] = data.draw(st.integers(0, 255))
    file.write_bytes(content)
    try:
        shapes = tensor_shapes(file)
    except UserError:
        return
    assert len(shapes) == 3
