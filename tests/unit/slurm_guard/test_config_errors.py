"""A broken --configfile is reported with file, line and column; what Snakemake's reader accepts stays the same."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
import snakemake.common.configfile as snakemake_reader
from snakemake_interface_common.exceptions import WorkflowError

from snakemake_executor_plugin_slurm_guarded.config_errors import name_broken_files

name_broken_files()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("mine.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: a\n\tfoo: 1\n", r"^mine.yaml:2: not valid YAML \(column 1\): .*'\\t'.*indent with spaces"),
        ("name: a\nfoo: [1, 2\nbar: 3\n", r"^mine.yaml:3: .*expected ',' or '\]'.*started in line 2"),
        ("name: a\n  foo: 1\n", r"^mine.yaml:2: .*mapping values are not allowed"),
        ("a: *x\n", r"^mine.yaml:1: .*undefined alias 'x'"),
        ("a: 2024-13-45\n", r"^mine.yaml: not valid YAML: month must be in"),
    ],
)
def test_broken_files_are_named_with_line_and_column(file: Path, text: str, said: str) -> None:
    file.write_text(text)
    for name in (file, str(file), os.fspath(file.absolute())):
        with pytest.raises(WorkflowError, match=said) as caught:
            snakemake_reader._load_configfile(name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "value"), [("a: 1\n", {"a": 1}), ('{"a": [1]}', {"a": [1]}), ("", None)])
def test_what_is_valid_is_read_as_before(file: Path, text: str, value: object) -> None:
    file.write_text(text)
    assert snakemake_reader._load_configfile(file) == value


def test_other_errors_stay_those_of_snakemake(file: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"mine\.yaml"):
        snakemake_reader._load_configfile(file)
    with pytest.raises(WorkflowError, match="not valid JSON or YAML"):
        snakemake_reader._load_configfile(io.StringIO("a: [\n"))


def test_the_reader_is_wrapped_once() -> None:
    reader = snakemake_reader._load_configfile
    name_broken_files()
    assert snakemake_reader._load_configfile is reader
