"""The model card: what a reader should know of a version, in Markdown (GFM)."""

import re
from collections.abc import Iterable, Mapping

from services.common.manifest import JSON
from services.registry.domain.models import ModelVersion

_MAX_CELL_CHARACTERS = 500
_SPECIAL = re.compile(r"[\\`*\[\]<>|&!#~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_METHODS = {
    "full": "All weights (full fine-tuning)",
    "lora": "Low-rank adapter (LoRA)",
    "qlora": "Low-rank adapter on a quantised base model (QLoRA)",
    "prefix": "Tuned prefix (prefix tuning)",
    "adapter": "Bottleneck adapter",
}
_OF_OUR_OWN = frozenset({"prefix", "adapter"})
"""Methods in PEFT's format that PEFT learns from us."""


def render(version: ModelVersion, *, encoder_decoder: bool = False) -> str:
    """The card of a version, whose base model may be an encoder–decoder. Texts of others are
    escaped: they stay text, in the cell that they are in."""
    loader = "AutoModelForSeq2SeqLM" if encoder_decoder else "AutoModelForCausalLM"
    sections = (
        _head(version),
        _section("Origin", _table(("", ""), _origin(version))),
        _section("Method", _method(version)),
        _section("Metrics", _table(("metric", "value"), _sorted(version.metrics))),
        _section("Files", _table(("path", "bytes", "sha256"), _files(version))),
        _section("Use", _use(version, loader)),
    )
    return "\n\n".join(sections) + "\n"


def cell(value: JSON) -> str:
    """Any value as text that can neither leave its table cell nor format anything."""
    text = f"{value:g}" if isinstance(value, float) else _plain(value)
    printable = "".join(char if char.isprintable() else " " for char in text)
    short = printable[:_MAX_CELL_CHARACTERS]
    return _SPECIAL.sub(lambda match: f"\\{match[0]}", short)


def _plain(value: JSON) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value)
    return str(value)


def _head(version: ModelVersion) -> str:
    lineage = version.lineage
    lines = [
        f"# {cell(version.name.model)}, version {version.ordinal}",
        "",
        f"{_title(lineage.method)} for {cell(lineage.base_model)}, registered on "
        f"{version.create_time:%Y-%m-%d %H:%M} UTC.",
    ]
    if version.aliases:
        lines += ["", f"Known as: {', '.join(cell(alias) for alias in version.aliases)}."]
    return "\n".join(lines)


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}"


def _origin(version: ModelVersion) -> Iterable[tuple[str, str]]:
    lineage = version.lineage
    earlier = (("Continued from", lineage.start_version),) if lineage.start_version else ()
    return (
        ("Version", str(version.name)),
        ("Manifest", version.manifest_digest),
        ("Tuning job", lineage.tuning_job),
        ("Data", lineage.dataset_version),
        ("Data digest", lineage.dataset_digest),
        ("Base model", lineage.base_model),
        ("Base model digest", lineage.base_model_digest),
        *earlier,
        ("Code", lineage.code_version),
    )


def _method(version: ModelVersion) -> str:
    table = _table(("hyperparameter", "value"), _sorted(version.lineage.hyperparameters))
    return f"{_title(version.lineage.method)}\n\n{table}"


def _title(method: str) -> str:
    return cell(_METHODS.get(method, method))


def _files(version: ModelVersion) -> Iterable[tuple[JSON, ...]]:
    return ((file.path, file.size_bytes, file.sha256) for file in version.artifacts)


def _sorted(values: Mapping[str, JSON]) -> Iterable[tuple[str, JSON]]:
    return sorted(values.items())


def _table(head: tuple[str, ...], rows: Iterable[tuple[JSON, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *(tuple(map(cell, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _use(version: ModelVersion, loader: str) -> str:
    """Only resource ids go in: they hold nothing but letters, digits and hyphens."""
    folder = f"{version.name.model}-{version.name.version}"
    write = _whole_model if version.lineage.method == "full" else _adapted_model
    program = write(folder, loader)
    if version.lineage.method in _OF_OUR_OWN:
        program = f"import services.tuners  # of anneal[node]: PEFT learns the method\n{program}"
    return f"""```sh
anneal model download {version.name} {folder}
```

```python
{program}
```"""


def _whole_model(folder: str, loader: str) -> str:
    return f"""from transformers import {loader}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}")
model = {loader}.from_pretrained("{folder}")"""


def _adapted_model(folder: str, loader: str) -> str:
    return f"""from peft import PeftModel
from transformers import {loader}, AutoTokenizer

base = "path/to/the/base/model"
tokenizer = AutoTokenizer.from_pretrained(base)
model = PeftModel.from_pretrained({loader}.from_pretrained(base), "{folder}")"""
