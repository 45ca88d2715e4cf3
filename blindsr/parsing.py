"""How tyro reads a dataclass of options: help that fills its lines, errors in words."""

import ast
import inspect
import shutil
import textwrap
from dataclasses import MISSING, fields, is_dataclass
from functools import cache, partial
from itertools import pairwise
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import MISSING as UNKNOWN
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

__all__ = ["REGISTRY", "field_docstrings", "filled"]

REGISTRY = ConstructorRegistry()
"""Where tyro looks first how an option is made."""


@REGISTRY.struct_rule
def _dataclass(info: StructTypeInfo) -> StructConstructorSpec | None:
    """A dataclass as tyro takes it, but each text of the help is a paragraph, and no default is not called None.

    tyro keeps the line breaks of docstrings that are indented, which leaves ragged lines at any width.
    """
    if not is_dataclass(info.type):
        return None
    hints, made = get_type_hints(info.type, include_extras=True), []
    for each in fields(info.type):
        default = UNKNOWN if each.default is MISSING else each.default
        if is_dataclass(info.default):
            default = getattr(info.default, each.name)
        elif each.default_factory is not MISSING:
            default = each.default_factory()
        hint, told = hints[each.name], partial(_help, info.type, each.name)
        if default is None:
            inner, *others = get_args(hint) if get_origin(hint) is Annotated else [hint]
            hint = Annotated[(inner, tyro.conf.arg(help_behavior_hint=""), *others)]
        made.append(StructFieldSpec(each.name, hint, default, told))
    return StructConstructorSpec(info.type, tuple(made))


@REGISTRY.primitive_rule
def _number(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """A number, or a word in its place; tyro would tell of Python's types why it is neither."""
    choices = get_args(info.type) if get_origin(info.type) in (Union, UnionType) else (info.type,)
    words = [word for choice in choices if get_origin(choice) is Literal for word in get_args(choice)]
    kinds = [choice for choice in choices if get_origin(choice) is not Literal and choice is not NoneType]
    if kinds not in ([int], [float]):
        return None
    (kind,) = kinds
    name = " or ".join(["a whole number" if kind is int else "a number", *words])

    def read(given: list[str]) -> Any:
        if given[0] in words:
            return given[0]
        try:
            return kind(given[0])
        except ValueError:
            raise ValueError(f"'{given[0]}' is not {name}") from None

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="|".join(["INT" if kind is int else "FLOAT", *words]),
        instance_from_str=read,
        is_instance=lambda value: value is None or value in words or isinstance(value, int | kind),
        str_from_instance=lambda value: [str(value)],
    )


def _help(options: type, name: str) -> str | None:
    """The help of one field of a dataclass: its docstring, or else that of the dataclass in it."""
    for made_of in options.__mro__:
        if is_dataclass(made_of) and name in (found := field_docstrings(made_of)):
            return found[name]
    nested = get_type_hints(options)[name]
    return " ".join((nested.__doc__ or "").split()) if is_dataclass(nested) else None


def filled(description: str) -> str:
    """A description as wide as the terminal; tyro keeps the line breaks before indented lines, no others."""
    width = max(40, shutil.get_terminal_size().columns)
    paragraphs = (" ".join(paragraph.split()) for paragraph in description.split("\n\n"))
    fill = textwrap.TextWrapper(width, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False).fill
    return "\n\n".join(map(fill, paragraphs))


@cache
def field_docstrings(settings: Any) -> dict[str, str]:
    """The string below each field that a dataclass itself declares; of one made by a function there are none."""
    try:
        source = inspect.getsource(settings)
    except (OSError, TypeError):
        return {}
    (definition,) = ast.parse(textwrap.dedent(source)).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for statement, following in pairwise(definition.body):
        match statement, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = " ".join(text.split())
    return found
