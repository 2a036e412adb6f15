"""What the web package imports: public names only, and no framework."""

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import itwin_export_async.web

FOLDER = Path(itwin_export_async.web.__file__).parent
ADAPTERS = {"fastapi": {"fastapi", "pydantic"}, "aiohttp": {"aiohttp"}}
MODULES = sorted(path.stem for path in FOLDER.glob("*.py"))


def imports_of(module: str) -> Iterator[tuple[str, str]]:
    """The modules that a module imports, each with the imported name."""
    for node in ast.walk(ast.parse((FOLDER / f"{module}.py").read_text())):
        if isinstance(node, ast.Import):
            yield from ((name.name, "") for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", name.name) for name in node.names)


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_public_names_and_no_framework(module: str) -> None:
    allowed = {"attrs", "itwin_export_async", *sys.stdlib_module_names, *ADAPTERS.get(module, ())}
    for name, item in imports_of(module):
        package, _, rest = name.partition(".")
        assert package in allowed
        if package == "itwin_export_async":
            assert rest.split(".")[0] in ("", "web")
            assert rest or item in itwin_export_async.__all__


def test_public_names_of_the_web_package_exist() -> None:
    for name in itwin_export_async.web.__all__:
        assert getattr(itwin_export_async.web, name) is not None


def test_router_without_fastapi_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    monkeypatch.delitem(sys.modules, "itwin_export_async.web.fastapi", raising=False)
    with pytest.raises(ImportError, match="pip install fastapi"):
        importlib.import_module("itwin_export_async.web.fastapi")
