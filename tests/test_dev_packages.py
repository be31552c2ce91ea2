"""Which tests need a package that nstray itself doesn't: the list is fixed, and each says so where it uses the package.

What comes with a package of the dev extra is there for every test, and hides that nstray lacks it: pandas came with datasets.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
# Where a module's name is not its distribution's, and what the tests may import of a dependency's own dependencies.
DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml", "botocore": "boto3", "urllib3": "boto3", "fontTools": "matplotlib", "fsspec": "torch"}
NEEDED = {
    ("browser/test_pages_in_chromium.py", "axe_playwright_python"),
    ("browser/test_pages_in_chromium.py", "playwright"),
    ("cluster_files/schemas.py", "jsonschema"),
    ("cluster_files/test_dockerfile.py", "hatchling"),
    ("conftest.py", "moto"),
    ("commands/test_verify.py", "datasets"),
    ("docs/test_site.py", "mkdocs"),
    ("exports/test_from_class_folders.py", "datasets"),
    ("exports/test_packed_parquet.py", "datasets"),
    ("exports/test_packed_parquet.py", "duckdb"),
    ("exports/test_webdataset.py", "webdataset"),
    ("images/test_tiff.py", "datasets"),
    ("manifest/test_build_libraries.py", "datasets"),
    ("manifest/test_build_libraries.py", "webdataset"),
    ("output/test_readers.py", "datasets"),
    ("output/test_readers.py", "duckdb"),
    ("output/test_readers.py", "pandas"),
    ("output/test_round_trip.py", "datasets"),
    ("output/test_round_trip.py", "duckdb"),
    ("output/test_round_trip.py", "polars"),
    ("recipes/test_recipe_hugging_face.py", "datasets"),
    ("recipes/test_recipe_ray_data.py", "pandas"),
    ("recipes/test_recipe_webdataset.py", "webdataset"),
    ("sources/test_cells.py", "datasets"),
    ("sources/test_cells.py", "duckdb"),
    ("sources/test_cells.py", "polars"),
    ("storage/test_remote_hf.py", "huggingface_hub"),
}


def files() -> list[Path]:
    return sorted(TESTS.rglob("*.py"))


def ours() -> set[str]:
    """Modules that are there without the dev extra: the standard library's, nstray's dependencies, and those of tests/ and scripts/."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {re.split(r"[^\w.-]", line.lower())[0] for line in project["dependencies"]}
    own = (
        {path.stem for path in (*files(), *(ROOT / "scripts").glob("*.py"))}
        | {path.parent.name for path in (ROOT / "scripts").glob("*/__init__.py")}
        | {path.parent.name for path in files()}
    )
    return {*sys.stdlib_module_names, *own, *needed, *(m for m, d in DISTRIBUTIONS.items() if d in needed), "nstray", "pytest"}


def imported(tree: ast.AST) -> Iterator[str]:
    """The first part of every name that is imported by a statement, but for those that only a type checker follows."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield from imported(node)
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        yield from (name.partition(".")[0] for name in names)


def asked_for(tree: ast.AST) -> Iterator[str]:
    """The same of every name that is imported by pytest.importorskip."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "importorskip":
            assert isinstance(node.args[0], ast.Constant), "the name of a package stands in the call"
            yield str(node.args[0].value).partition(".")[0]


def marks(node: ast.FunctionDef | ast.Module) -> str:
    """The source of a test's decorators, or of a module's `pytestmark`."""
    if isinstance(node, ast.FunctionDef):
        return " ".join(map(ast.unparse, node.decorator_list))
    return " ".join(ast.unparse(n.value) for n in node.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "pytestmark")


def test_what_the_tests_import_is_nstray_s_own_or_asked_for() -> None:
    known = ours()
    wrong = {(path.relative_to(TESTS).as_posix(), name) for path in files() for name in imported(ast.parse(path.read_text())) if name not in known}
    assert wrong == set(), "use pytest.importorskip, and add the file to NEEDED"


def test_nstray_imports_what_it_depends_on() -> None:
    known = ours()
    assert {name for path in (ROOT / "nstray").rglob("*.py") for name in imported(ast.parse(path.read_text()))} - known == set()


def test_which_tests_need_a_package_of_the_dev_extra() -> None:
    found = {(path.relative_to(TESTS).as_posix(), name) for path in files() for name in asked_for(ast.parse(path.read_text()))}
    assert found == NEEDED
    assert not {name for _, name in found} & ours()


def test_each_of_them_is_marked() -> None:
    """Or CI, which runs `slow` and `dev` with the extra and the rest without it, would run it nowhere."""
    for path in files():
        tree = ast.parse(path.read_text())
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and list(asked_for(node)):
                assert "pytest.mark.dev" in marks(node) + marks(tree), f"{path.name}::{node.name}"
