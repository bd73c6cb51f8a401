"""Taking one statement out of the device's code, to see whether anybody notices."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, ModuleType


@dataclass(frozen=True)
class Site:
    """One statement of a module: in which function it stands, where, and what it says."""

    module: ModuleType
    function: str
    line: int
    text: str

    @property
    def name(self) -> str:
        """What a person calls it."""
        return f"{self.module.__name__.removeprefix('asdic.')}.{self.function}: {self.text}"


def sites_in(module: ModuleType, is_meant: Callable[[ast.stmt], bool]) -> Iterator[Site]:
    """Yield the statements of a module's functions that are meant."""
    source = inspect.getsource(module)
    for function, node in _functions(ast.parse(source), ""):
        for statement in ast.walk(node):
            if isinstance(statement, ast.stmt) and is_meant(statement):
                text = " ".join(ast.unparse(statement).split("\n")[0].split())
                yield Site(module, function, statement.lineno, text)


@contextmanager
def without(site: Site) -> Iterator[None]:
    """Let a function do without one of its statements for a while."""
    function = _function(site)
    code = function.__code__
    function.__code__ = _code_without(site)
    try:
        yield
    finally:
        function.__code__ = code


def calls(statement: ast.stmt, *names: str) -> bool:
    """Return whether a statement is nothing but a call of a function or method so named."""
    if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Call):
        return False
    called = statement.value.func
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    return name in names


def refuses_by_digest(statement: ast.stmt) -> bool:
    """Return whether a statement raises where a digest is another than it should be."""
    return (
        isinstance(statement, ast.If)
        and "digest" in ast.unparse(statement.test)
        and isinstance(statement.body[0], ast.Raise)
    )


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef):
            yield prefix + child.name, child
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{prefix}{child.name}.")


def _function(site: Site) -> Callable[..., object]:
    found: object = site.module
    for name in site.function.split("."):
        found = inspect.getattr_static(found, name)
    if isinstance(found, staticmethod | classmethod):
        found = found.__func__
    assert inspect.isfunction(found)
    return found


class _Remover(ast.NodeTransformer):
    def __init__(self, line: int) -> None:
        self._line = line

    def generic_visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, ast.stmt) and node.lineno == self._line and not _is_block(node):
            return ast.copy_location(ast.Pass(), node)
        return super().generic_visit(node)


def _is_block(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Try | ast.With | ast.For)


def _code_without(site: Site) -> CodeType:
    tree = _Remover(site.line).visit(ast.parse(inspect.getsource(site.module)))
    code = compile(ast.fix_missing_locations(tree), str(site.module.__file__), "exec")
    for name in site.function.split("."):
        code = next(
            one for one in code.co_consts if isinstance(one, CodeType) and one.co_name == name
        )
    return code
