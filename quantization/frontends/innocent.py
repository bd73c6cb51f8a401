"""Whether an exported program (``.pt2``) is one: it can name code that torch would then run.

``torch.export.load`` of torch 2.13 evaluates the text of each open side as Python, resolves each
node's target by attribute from ``torch`` itself (``torch.os.system`` is one), and
``ExportedProgram.module`` runs the text of the guards. So all of these are looked at first, as
data; pickles inside are dealt with in ``torch.py``.
"""

from __future__ import annotations

import ast
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

from asdic.contract.errors import ConfigError

_TARGET: Final = re.compile(
    r"torch\.ops\.[a-z]\w*\.\w+(\.\w+)?"  # an operator, and its overload
    r"|_operator\.[a-z]\w*|math\.[a-z]\w*|torch\.sym_\w+"  # arithmetic of sides
    r"|\w+"  # no attribute of anything
)
_FILE_OPERATORS: Final = re.compile(r"__|\b(from_file|save|load\w*|_operator\.(call|\w*getter))\b")
_SYMBOL: Final = re.compile(r"[A-Za-z_]?[A-Za-z]*[0-9]*")
_FUNCTIONS: Final = frozenset(
    {
        *("Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Max", "Min", "Mod"),
        *("Eq", "Ne", "Lt", "Le", "Gt", "Ge", "And", "Or", "Not", "Where", "Identity", "ToFloat"),
        *("Equality", "Unequality", "StrictLessThan", "LessThan", "StrictGreaterThan"),
        *("GreaterThan", "FloorDiv", "CleanDiv", "CeilDiv", "PythonMod", "ModularIndexing"),
        *("CeilToInt", "FloorToInt", "TruncToInt", "TruncToFloat", "RoundToInt", "RoundDecimal"),
        *("PowByNatural", "FloatPow", "FloatTrueDiv", "IntTrueDiv", "LShift", "RShift"),
    }
)
_NODES: Final = (
    *(ast.Expression, ast.Call, ast.keyword, ast.Name, ast.Load, ast.Constant),
    *(ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop, ast.Compare, ast.cmpop),
)


def check_innocent(path: Path) -> None:
    """Check that the archive at ``path`` names nothing that torch would run as code.

    Raises:
        ConfigError: It is no archive, is damaged, or names something else than operators and
            arithmetic.
    """
    if not zipfile.is_zipfile(path):
        raise ConfigError(
            f"{path} is not an exported program; save it with torch.export.save (plain pickles "
            "are not opened)"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                _check_member(archive, name, path)
    except (zipfile.BadZipFile, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not an exported program: it is damaged") from error


def _check_member(archive: zipfile.ZipFile, name: str, path: Path) -> None:
    if PurePosixPath(name).name.startswith("custom_obj"):
        raise ConfigError(f"{path} holds the object {name}; asdic reads tensors only")
    if not name.endswith(".json"):
        return
    for key, text in _texts(json.loads(archive.read(name))):
        innocent = _is_arithmetic(text) if key == "expr_str" else _is_operator(text)
        if not innocent:
            raise ConfigError(f"{path} names {text[:80]!r}, which is code; it is not opened")


def _texts(value: Any) -> Iterator[tuple[str, str]]:
    """Yield what torch resolves: the targets of nodes, operators as arguments, and sides."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in {"target", "expr_str", "as_operator"} and isinstance(inner, str):
                yield key, inner
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def _is_operator(text: str) -> bool:
    return _TARGET.fullmatch(text) is not None and _FILE_OPERATORS.search(text) is None


def _is_arithmetic(text: str) -> bool:
    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError:
        return False
    return all(isinstance(node, _NODES) and _is_plain(node) for node in ast.walk(tree))


def _is_plain(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=function):
            return isinstance(function, ast.Name) and function.id in _FUNCTIONS
        case ast.Name(id=name):
            return name in _FUNCTIONS or _SYMBOL.fullmatch(name) is not None
        case ast.Constant(value=str() as text):
            return _SYMBOL.fullmatch(text) is not None
        case _:
            return True
