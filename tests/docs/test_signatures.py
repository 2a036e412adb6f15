"""Users can import every type of the package that a public signature names."""

import ast
from collections.abc import Iterator
from functools import cache
from importlib import import_module

import pytest
from attrs import frozen

from tests.support.readme import ROOT

PACKAGE = "itwin_export_async"
PUBLIC_MODULES = [  # without `redis`: sessions alone call `RedisRateLimit.create_limiter`
    PACKAGE,
    f"{PACKAGE}.emulator",
    f"{PACKAGE}.taskiq",
    f"{PACKAGE}.transport",
    f"{PACKAGE}.web",
    f"{PACKAGE}.webhooks",
]
# users get these from a client, and never construct one
CONSTRUCTED_BY_A_CLIENT = {
    "AsyncPager",
    "BlobReader",
    "ExportOutcomes",
    "IModelsClient",
    "OpenFile",
    "StorageClient",
    "SynchronizationClient",
}


@frozen
class Definition:
    """Where a name is defined, and the statement that does it."""

    module: str
    name: str
    node: ast.stmt

    @property
    def is_type_variable(self) -> bool:
        value = getattr(self.node, "value", None)
        return isinstance(value, ast.Call) and ast.unparse(value.func) in ("TypeVar", "ParamSpec")


@cache
def tree(module: str) -> ast.Module:
    path = ROOT.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def definition(module: str, name: str) -> Definition | None:
    """The definition of a name that a module knows; None unless the package defines it."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE):
            for alias in node.names:
                if name == (alias.asname or alias.name):
                    return definition(node.module or "", alias.name)
    for node in tree(module).body:
        if name in names_of(node):
            return Definition(module, name, node)
    return None


def names_of(node: ast.stmt) -> Iterator[str]:
    """The names that a statement defines."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield node.name
    targets = getattr(node, "targets", [getattr(node, "target", None)])
    yield from (target.id for target in targets if isinstance(target, ast.Name))


def annotations(found: Definition) -> Iterator[tuple[str, ast.expr]]:
    """The annotations of a class or a function, with the module that they are in."""
    match found.node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            members: list[ast.stmt] = [found.node]
        case ast.ClassDef():
            members = [each for each in found.node.body if is_public(found.name, each)]
            for base in found.node.bases:
                name = ast.unparse(base).partition("[")[0]
                if (inherited := definition(found.module, name)) is not None:
                    yield from annotations(inherited)
        case _:
            members = []
    for member in members:
        if isinstance(member, ast.AnnAssign):
            yield found.module, member.annotation
        elif isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef):
            given = member.args
            arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs]
            for argument in [*arguments, given.vararg, given.kwarg]:
                if argument is not None and argument.annotation is not None:
                    yield found.module, argument.annotation
            if member.returns is not None:
                yield found.module, member.returns


def is_public(owner: str, member: ast.stmt) -> bool:
    """Whether a member of a class is public. So is `__init__`, unless a client calls it."""
    names = [*names_of(member)]
    if "__init__" in names:
        return owner not in CONSTRUCTED_BY_A_CLIENT
    return any(not name.startswith("_") or name.endswith("__") for name in names)


def types_named(module: str, annotation: ast.expr) -> Iterator[Definition]:
    """The types of the package that an annotation names."""
    for node in ast.walk(annotation):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if node.value.isidentifier() or "[" in node.value or "|" in node.value:
                yield from types_named(module, ast.parse(node.value, mode="eval").body)
        elif isinstance(node, ast.Name):
            found = definition(module, node.id)
            if found is not None and not found.is_type_variable:
                yield found


def exported(module: str) -> dict[str, Definition | None]:
    return {name: definition(module, name) for name in import_module(module).__all__}


@pytest.mark.parametrize("module", PUBLIC_MODULES)
def test_types_of_public_signatures_can_be_imported(module: str) -> None:
    public = [found for each in PUBLIC_MODULES for found in exported(each).values()]
    missing = {
        f"{name}: {named.name} of {named.module}"
        for name, found in exported(module).items()
        if found is not None
        for where, annotation in annotations(found)
        for named in types_named(where, annotation)
        if named not in public
    }
    assert not missing
