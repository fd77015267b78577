"""Reference pages made from the source: every setting from the config, every command from its own help.

A page says where its tables go by an HTML comment, ``<!-- settings -->`` or ``<!-- commands -->``. What a key means is taken
from ``examples/reference.toml``, its default and range from the config's fields; units stand here, as types carry none.
"""

from __future__ import annotations

import importlib
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BeforeValidator
from pydantic.fields import FieldInfo

from gcdist.cli import COMMANDS
from gcdist.coding import code_names
from gcdist.config import Config, ConfigError, FaultConfig
from gcdist.config.section import Section
from gcdist.quantize import quantizer_names

if TYPE_CHECKING:
    from sphinx.application import Sphinx

TREE = Path(__file__).parents[2]
KEY = re.compile(r"^(?P<off># *)?(?P<key>\w+) = (?P<value>.*?)(?:\s*# (?P<text>.*))?$")
FAULT = re.compile(r"^#   (?P<key>\w+) = (?P<value>.*?)\s*# (?P<text>.*)$")
SECTION = re.compile(r"^\[(\w+)\](?:\s*# (.*))?$")
EXCEPTIONS = {"straggler": "seconds", "cluster": "seconds"}  # sections whose numbers are seconds unless said below
NAMED = {("code", "scheme"): code_names, ("quantizer", "name"): quantizer_names}  # from the registries
SAYS_NO_UNIT = "none"
UNITS = {
    "seed": SAYS_NO_UNIT,
    "steps": "steps",
    "epochs": "passes over the data",
    "task.batch_size": "samples",
    "data.prefetch": "batches",
    "data.compare": "samples",
    "optimizer.lr": SAYS_NO_UNIT,
    "optimizer.momentum": SAYS_NO_UNIT,
    "optimizer.weight_decay": SAYS_NO_UNIT,
    "code.partitions": "partitions",
    "code.load_most": "times an even share",
    "quantizer.bits": "bits a coordinate",
    "quantizer.bits_most": "bits a coordinate",
    "quantizer.downlink_bits": "bits a coordinate",
    "straggler.noise_most": "error / |gradient|^2",
    "straggler.warmup_steps": "steps",
    "straggler.p": "probability",
    "straggler.prior_p": "probability",
    "straggler.prior_weight": "outcomes",
    "straggler.window": "outcomes",
    "straggler.replan_every": "steps",
    "inject.shift": "seconds",
    "inject.mean": "seconds",
    "inject.scale": "seconds",
    "inject.shape": SAYS_NO_UNIT,
    "inject.slowdown": "times",
    "inject.slow_share": "share of the steps",
    "inject.slow_spell": "steps",
    "inject.unit": "seconds",
    "faults.worker": "number of a worker",
    "faults.step": "step",
    "faults.every": "seconds",
    "faults.seconds": "seconds",
    "faults.rate": "bytes a second",
    "faults.share": "share of the time",
    "cluster.workers": "workers",
    "cluster.min_workers": "workers",
    "cluster.port": "port",
    "cluster.threads": "threads",
    "simulate.latency": "seconds",
    "simulate.bandwidth": "bytes a second",
    "simulate.compute_seconds": "seconds",
    "simulate.encode_seconds": "seconds",
    "simulate.send_seconds": "seconds",
    "simulate.master_seconds": "seconds",
    "simulate.link_seconds": "seconds",
    "simulate.choice_seconds": "seconds",
    "simulate.cores": "cores",
    "simulate.master_bandwidth": "bytes a second",
    "simulate.master_message_seconds": "seconds",
    "simulate.master_byte_seconds": "seconds",
    "checkpoint.every": "steps",
    "checkpoint.minutes": "minutes",
    "checkpoint.keep": "checkpoints",
    "evaluation.every": "steps",
    "summary.sync_check_steps": "steps",
    "observe.prometheus": "port",
}


def comments() -> dict[str, str]:
    """What ``examples/reference.toml`` says of each key and of each section (``"code"``, ``"code.scheme"``)."""
    said: dict[str, str] = {}
    section = ""
    for line in (TREE / "examples" / "reference.toml").read_text(encoding="utf-8").splitlines():
        if found := SECTION.match(line):
            section = found[1]
            said[section] = found[2] or ""
        elif found := FAULT.match(line):
            said[f"faults.{found['key']}"] = found["text"]
        elif found := KEY.match(line):
            said[f"{section}.{found['key']}" if section else found["key"]] = found["text"] or ""
        elif found := re.match(r"^\[(\w+)\.options\](?:\s*# (.*))?$", line):
            said[f"{found[1]}.options"] = found[2] or ""
    return said


def settings() -> Iterator[tuple[str, str, FieldInfo]]:
    """Section, key and field of every setting; those of the top level have the section ``""``."""
    inner = [(name, field) for name, field in Config.model_fields.items() if section_of(field) is not None]
    yield from (("", name, field) for name, field in Config.model_fields.items() if section_of(field) is None)
    for name, field in inner:
        section = section_of(field)
        assert section is not None
        yield from ((name, key, each) for key, each in section.model_fields.items())
    yield from (("faults", key, each) for key, each in FaultConfig.model_fields.items())


def section_of(field: FieldInfo) -> type[Section] | None:
    """The section that a field of the config holds; None: it is a setting itself."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def default_of(field: FieldInfo) -> str:
    """The default as it is written in TOML."""
    value = field.get_default(call_default_factory=True)
    if field.is_required():
        return "required"
    if value is None:
        return "absent"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, (str, Path)):
        return f'`"{value}"`'
    return f"`{value!r}`" if value != () else "`[]`"


def range_of(section: str, key: str, field: FieldInfo) -> str:
    """What is allowed, in words: from the field's own bounds, or from the refusal of a value that cannot be right."""
    if (section, key) in NAMED:
        return ", ".join(f'`"{name}"`' for name in NAMED[section, key]())
    if any(isinstance(each, BeforeValidator) for each in metadata_of(field)):
        return refusal(section, key)
    kinds, bounds = parts_of(field.annotation)
    bounds += metadata_of(field)
    names = {str: "text", int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}
    allowed = [f'`"{kind}"`' if isinstance(kind, str) else names.get(kind, "a table") for kind in kinds]
    words = []
    for each in bounds:
        for sign, text in (("ge", "from"), ("gt", "above"), ("le", "to"), ("lt", "below")):
            if hasattr(each, sign):
                words.append(f"{text} {bound(getattr(each, sign))}")
    return " ".join([" or ".join(allowed), *words])


def bound(value: float) -> str:
    """A bound in words: a power of two of many digits as one."""
    return "2^63" if value == 2**63 else f"{value}"


def metadata_of(field: FieldInfo) -> list[Any]:
    """The field's annotations, those of a field inside of it too."""
    found: list[Any] = []
    for each in field.metadata:
        found += metadata_of(each) if isinstance(each, FieldInfo) else [each]
    return found


def parts_of(kind: Any) -> tuple[list[Any], list[Any]]:
    """The types and literals that an annotation allows, and its bounds."""
    if get_origin(kind) in (Union, types.UnionType):
        kinds: list[Any] = []
        bounds: list[Any] = []
        for part in get_args(kind):
            if part is not type(None):
                inner, more = parts_of(part)
                kinds += inner
                bounds += more
        return kinds, bounds
    if hasattr(kind, "__metadata__"):
        kinds, bounds = parts_of(kind.__origin__)
        for each in kind.__metadata__:
            bounds += metadata_of(each) if isinstance(each, FieldInfo) else [each]
        return kinds, bounds
    if get_origin(kind) is Literal:
        return list(get_args(kind)), []
    return [get_origin(kind) or kind], []


def refusal(section: str, key: str) -> str:
    """What the config says should be there, when it refuses a table of nonsense."""
    try:
        Config(**{section: {key: {"?": 0}}})
    except ConfigError as error:
        return str(error).partition("should be ")[2].splitlines()[0]
    raise AssertionError(f"{section}.{key} takes anything")


def unit_of(section: str, key: str, field: FieldInfo) -> str:
    """The unit of a number; empty for what is no number."""
    name = f"{section}.{key}" if section else key
    if name in UNITS:
        return UNITS[name]
    kinds, _ = parts_of(field.annotation)
    return EXCEPTIONS.get(section, "") if float in kinds or int in kinds else ""


def numeric(field: FieldInfo) -> bool:
    """Whether the setting is a number, or may be one."""
    kinds, _ = parts_of(field.annotation)
    return float in kinds or int in kinds


def settings_tables() -> str:
    """Every section as a heading and a table."""
    said = comments()
    lines: list[str] = []
    last = None
    for section, key, field in settings():
        if section != last:
            title = f"[[{section}]]" if section == "faults" else f"[{section}]" if section else "The top of the file"
            lines += [
                "",
                f"## {title}",
                "",
                clean(said.get(section, "")),
                "",
                "| key | default | unit | allowed | meaning |",
            ]
            lines += ["|---|---|---|---|---|"]
            last = section
        name = f"{section}.{key}" if section else key
        cells = (
            f"`{key}`",
            default_of(field),
            unit_of(section, key, field),
            range_of(section, key, field),
            said.get(name, ""),
        )
        lines.append("| " + " | ".join(clean(cell) for cell in cells) + " |")
    return "\n".join(lines)


def clean(text: str) -> str:
    """Text as a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("docs/", "").strip()


def commands() -> Iterator[tuple[str, Any]]:
    """Every command with its click object, those of groups too."""
    for name, (module, function, _) in COMMANDS.items():
        target = getattr(importlib.import_module(f"gcdist.commands.{module}"), function)
        if isinstance(target, typer.Typer):
            group: Any = typer.main.get_command(target)
            inner = getattr(group, "commands", None)
            if inner is None:
                yield name, group
            else:
                yield from ((f"{name} {word}", command) for word, command in inner.items())
        else:
            app = typer.Typer(rich_markup_mode=None, add_completion=False)
            app.command(name)(target)
            yield name, typer.main.get_command(app)


def help_text(name: str, command: Any) -> str:
    """The words of ``gcdist NAME --help``."""
    context = command.make_context(f"gcdist {name}", [], resilient_parsing=True, max_content_width=100)
    return str(command.get_help(context)).strip()


def commands_text() -> str:
    """Every command as a heading and its help."""
    return "\n".join(f"\n## gcdist {name}\n\n```text\n{help_text(name, each)}\n```" for name, each in commands())


def escape_bars(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Norms as |g|^2 are no substitutions of reStructuredText."""
    lines[:] = [re.sub(r"(``.*?``)|\|", lambda found: found[1] or "\\|", line) for line in lines]


def fill(app: Sphinx, page: str, content: list[str]) -> None:
    """Put the tables where the page asks for them."""
    for mark, made in (("<!-- settings -->", settings_tables), ("<!-- commands -->", commands_text)):
        if mark in content[0]:
            content[0] = content[0].replace(mark, made())


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", fill)
    app.connect("autodoc-process-docstring", escape_bars)
    return {"parallel_read_safe": True}
