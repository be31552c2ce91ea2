"""Every code block of README and docs is run, or stands in `NOT_RUN` with its reason.

A ``python`` block is run as it stands, in a folder that holds the files it names (`supply`). A ``bash`` block is run by bash
with the changes of `SUBSTITUTED` and with an `nstray` in PATH that adds `TINY` to the commands that compute.
A ``yaml`` block must be settings. Other blocks (``text``) are output or drawings. A page of docs/recipes is run as a whole by its own test
in tests/recipes.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
import yaml
from jobs import LOCAL_RAY, NSTRAY
from pages import RECIPES, ROOT, Block, blocks, commands

from nstray import cli
from nstray.config import make

if TYPE_CHECKING:
    from heads import Head

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("cluster/*.md"), *ROOT.glob("manifests/**/*.md")])
PICTURES = ROOT / "manifests" / "example"

# Added to `nstray run`, `plan`, `demo`, `stylise`: the last of an option given twice counts.
TINY = "--weights random --size 64 --evaluations 2"
LAYERS = "--content-layers conv2_1 --style-layers conv1_1,conv2_1"
# What is changed in a bash block before it runs.
SUBSTITUTED = (
    ("python3 -m venv .venv && . .venv/bin/activate && pip install . && ", ""),  # nstray is installed where the tests run
    ("s3://BUCKET/", "bucket/"),  # the commands are the same on a folder; tests/s3 has real stores
    ("--pairs 3 out/ --preset quick", "--pairs 1 first/ --preset quick"),  # `job` has made out/ of a manifest
    ("--extend", "--extend --size-rule exact --upsample"),  # the settings of the output that `job` makes
)
# Blocks that are not run here, by their first line. Each `nstray` command in them is parsed.
NOT_RUN = {
    "python3 -m venv .venv && . .venv/bin/activate": "installs packages",
    "pip install pytest && python -m pytest": "would run this test suite inside itself",
    "pip install -e '.[dev]' && python -m pytest -m 'slow or not slow'": "would run this test suite inside itself",
    "python3 -m venv .venv && . .venv/bin/activate && pip install -e '.[dev,docs]'": "installs packages; .ci/run installs both extras",
    "ruff check . && ruff format --check . && mypy && lint-imports && python -m pytest": "would run this test suite inside itself",
    "pip install '.[docs]' && mkdocs serve": "installs packages and serves until it is stopped; test_site builds the site",
    "pip install . 'ray[default]==2.60.0' && export RAY_AUTH_MODE=token": "needs an AWS account",
    "aws ec2 describe-instances --filters Name=tag:ray-cluster-name,Values=nstray Name=instance-state-name,Values=running": "needs an AWS account",
    "helm repo add kuberay https://ray-project.github.io/kuberay-helm/": "needs a Kubernetes cluster and an image registry",
    "kubectl apply -f cluster/rayjob.yaml": "needs a Kubernetes cluster",
    "kubectl apply -f cluster/raycluster.yaml": "needs a Kubernetes cluster",
    "pip install 'nstray[remote]' huggingface_hub": "installs packages, and needs an account",
    "export RAY_AUTH_MODE=token": "needs several machines; tests/faults/test_hosts.py builds them",
    "export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 RAY_AUTH_MODE=disabled": "would take Ray's own ports; tests/heads.py starts such a head",
    "nstray run manifests/gatys2015/figure1-content.csv out/figure1-content --config manifests/gatys2015/figure1-content.yaml "
    "&& nstray sheet out/figure1-content -o figure1-content.pdf": "seven jobs like figure 3's, which docs/figures.md has and which is run",
    "python scripts/gatys2015.py figure3 --pictures ~/pictures --out out/figure3 --size 192 --evaluations 100 \\": "tests/test_figures.py runs it",
    "python scripts/study_shapes.py shapes --out study-shapes.txt --picture shapes.jpg": "tests/recipes/test_recipe_shapes.py runs it, small",
    "nstray manifest build --content contents/ --style styles/ --pairs 1 --style-splits -o pairs.parquet": "scripts/study_shapes.py runs it",
}
SUBMIT = "ray job submit --address http://HEAD:8265 \\"
# Packages that a block may need and an installation without the extra `dev` may lack.
OPTIONAL = ("datasets", "duckdb", "pandas", "polars", "webdataset")
# Folders that blocks read, and how they are exported.
EXPORTED = {"packed": "parquet", "folders": "imagefolder", "tars": "webdataset --image-format jpeg"}
SLOW_BASH = re.compile(r"nstray (run|plan|demo|stylise|retry|weights normalise|weights distil)")
SLOW_PYTHON = re.compile(r"import ray|nstray\.engine")


ALL = [block for page in PAGES for block in blocks(page)]
LISTED = [b for b in ALL if b.language == "bash" and b.first in NOT_RUN]
SUBMITTED = [b for b in ALL if b.language == "bash" and b.first == SUBMIT]


def params(language: str, slow: re.Pattern[str]) -> list[object]:
    chosen = [b for b in ALL if b.language == language and b not in LISTED and b not in SUBMITTED and b.page.parent != RECIPES]
    needs = re.compile(rf"import ({'|'.join(OPTIONAL)})\b")
    marked = [(pytest.mark.slow, slow), (pytest.mark.dev, needs)]
    return [pytest.param(b, id=str(b), marks=[mark for mark, found in marked if found.search(b.text)]) for b in chosen]


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    assert {b.language for b in ALL} <= {"python", "bash", "yaml", "text"}
    assert sum(b.language == "python" for b in ALL) >= 10
    assert sum(b.language == "bash" for b in ALL) >= 20
    assert not [page for page in PAGES if "```" in re.sub(r"^```\w*\n.*?^```$", "", page.read_text(), flags=re.M | re.S)]


def test_each_recipe_has_a_test() -> None:
    pages = {page.stem for page in RECIPES.glob("*.md")}
    assert pages == {path.stem.removeprefix("test_recipe_").replace("_", "-") for path in (ROOT / "tests" / "recipes").glob("test_*.py")}


def test_no_listed_block_is_gone() -> None:
    assert set(NOT_RUN) == {b.first for b in LISTED}


def parse(words: list[str]) -> None:
    """Raise click's errors if there is no such command or option."""
    command: click.Command = cli.cli
    while isinstance(command, click.Group):
        name, *words = words
        assert name in command.commands, name
        command = command.commands[name]
    command.make_context("nstray", list(words))


@pytest.mark.parametrize("block", [b for b in ALL if b.language == "bash"], ids=str)
def test_each_nstray_command_is_one(block: Block) -> None:
    """Also of the blocks that are not run."""
    found = list(commands(block.text))
    assert len(found) >= len(re.findall(r"^nstray |&& nstray |-- nstray ", block.text, re.M))
    for words in found:
        parse(words)


def test_a_wrong_option_is_noticed() -> None:
    (words,) = commands("ray job submit -- nstray run s3://BUCKET/a s3://BUCKET/out --sise 512  # a comment")
    with pytest.raises(click.NoSuchOption, match="sise"):
        parse(words)


@pytest.mark.parametrize("block", [b for b in ALL if b.language == "yaml"], ids=str)
def test_each_file_of_settings_is_one(block: Block) -> None:
    make(yaml.safe_load(block.text))


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of the blocks: this Python's programs, an `nstray` of this checkout, a Ray of each run's own."""
    folder = tmp_path_factory.mktemp("bin")
    program = folder / "nstray"
    program.write_text(f"""#!{sys.executable}
import sys
words = sys.argv[1:]
if words[0] in ("run", "plan", "demo", "stylise"):
    words += {TINY.split()}
    if not any("manifests/" in word for word in words):  # whose rows have layers of their own
        words += {LAYERS.split()}
if "--probe" in words:
    words += ["--probe-seconds", "1"]
if words[:2] == ["weights", "normalise"]:
    words += ["--weights", "random", "--size", "64"]
if words[:2] == ["weights", "distil"]:
    words += ["--teacher", "random", "--layers", "conv1_1,conv2_1", "--steps", "3", "--side", "32", "--held-out", "photos/"]
sys.argv = ["nstray", *words]
from nstray.cli import main
if __name__ == "__main__":  # the processes of an export import this file
    main()
""")
    program.chmod(0o755)
    path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    cache = tmp_path_factory.mktemp("cache")
    there = {"PATH": path, "PYTHONPATH": str(ROOT), "HF_HOME": str(cache), "HF_HUB_OFFLINE": "1", **LOCAL_RAY}
    return {**os.environ, **there}


def bash(text: str, folder: Path, tools: dict[str, str]) -> None:
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], cwd=folder, env=tools, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"


def small(source: Path, to: Path) -> None:
    """The picture `source` at 96 x 72 pixels."""
    from PIL import Image

    to.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(source) as image:
        image.resize((96, 72)).save(to)


def write_archives(pictures: list[Path], folder: Path) -> None:
    """The same pictures as WebDataset's shards and in the layout of Hugging Face's hub."""
    import tarfile

    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "shards").mkdir()
    (folder / "hub" / "data").mkdir(parents=True)
    with tarfile.open(folder / "shards" / "000.tar", "w") as tar:
        for picture in pictures:
            tar.add(picture, f"{picture.stem}.jpg")
    cells = [{"bytes": picture.read_bytes(), "path": picture.name} for picture in pictures]
    image = pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    for split in ("train", "test"):
        pq.write_table(pa.table({"image": image}), folder / "hub" / "data" / f"{split}-00000-of-00001.parquet")


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the pictures that blocks name."""
    folder = tmp_path_factory.mktemp("inputs")
    contents, styles = (sorted((PICTURES / role).glob("*.jpg")) for role in ("content", "style"))
    for i, name in enumerate(("n01440764/1", "n01440764/2", "n02102040/3")):
        small(contents[i % 2], folder / "train" / f"{name}.JPEG")
    for source in contents:
        small(source, folder / "photos" / source.name)
    for source in styles:
        small(source, folder / "paintings" / source.name)
    write_archives(sorted((folder / "train").rglob("*.JPEG")), folder)
    small(contents[0], folder / "photo.jpg")
    small(styles[0], folder / "painting.jpg")
    return folder


@pytest.fixture(scope="session")
def job(inputs: Path, tools: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `pairs.parquet`, the same with labels, and the dataset `out`, made by a real job."""
    folder = tmp_path_factory.mktemp("job")
    for name, more in (("pairs", "--labels none"), ("labelled", "")):
        bash(f"nstray manifest build --content {inputs}/train/ --style {inputs}/paintings/ --pairs 2 {more} -o {name}.parquet", folder, tools)
    bash("nstray run labelled.parquet out --size-rule exact --upsample", folder, tools)
    return folder


def grow(manifest: Path, to: Path) -> None:
    """Write `manifest` with one more row at its end."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pq.read_table(manifest)
    pq.write_table(pa.concat_tables([rows, pa.Table.from_pylist([{**rows.to_pylist()[0], "pair_id": "new"}], rows.schema)]), to)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path


def supply(block: Block, folder: Path, request: pytest.FixtureRequest) -> None:
    """Put what `block` names, and does not make itself, into `folder`."""
    inputs: Path = request.getfixturevalue("inputs")
    for name in ("photos", "paintings", "train", "shards", "hub", "photo.jpg", "painting.jpg"):
        (folder / name).symlink_to(inputs / name)
    if "manifests/" in block.text:
        shutil.copytree(ROOT / "manifests", folder / "manifests")
        for name in re.findall(r"pictures/([\w-]+\.jpg)", "".join(path.read_text() for path in ROOT.glob("manifests/gatys2015/*.csv"))):
            picture = folder / "manifests" / "gatys2015" / "pictures" / name
            if not picture.exists():
                small(PICTURES / "content" / "lake.jpg", picture)
    if "vgg_conv.pth" in block.text:
        import torch

        torch.save({"conv1_1.weight": torch.rand(64, 3, 3, 3), "conv1_1.bias": torch.rand(64)}, folder / "vgg_conv.pth")
    if "job.yaml" in block.text:
        (settings,) = (b for b in blocks(block.page) if b.language == "yaml")
        (folder / "job.yaml").write_text(settings.text)
    for name in ("pairs.parquet", "labelled.parquet"):
        if name in block.text and f"-o {name}" not in block.text and f', "{name}")' not in block.text:
            shutil.copy(request.getfixturevalue("job") / name, folder / name)
            if "--extend" in block.text:
                grow(request.getfixturevalue("job") / "labelled.parquet", folder / name)
            if f"bucket/{name}" in block.text or f"BUCKET/{name}" in block.text:
                (folder / "bucket").mkdir()
                shutil.move(folder / name, folder / "bucket" / name)
    used = r"nstray (?:status|verify|retry|sheet|report|export) (out)\b|nstray run \S+ (out)/ --extend"
    used += r"|nstray compare (out)/ (tuned)\b"
    used += r"|\"(out|stylised|nstray-demo/dataset)(?:/data)?[\"/]|'(out)/data"
    made = set(re.findall(r"nstray run \S+ (\S+?)/?(?:\s|$)(?!--extend)", block.text))
    for name in {name for found in re.findall(used, block.text) for name in found if name} - made:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copytree(request.getfixturevalue("job") / "out", folder / name)
    for name, words in EXPORTED.items():
        if block.language == "python" and re.search(rf"\"{name}[\"/]", block.text):
            bash(f"nstray export {request.getfixturevalue('job')}/out --to {name} --format {words}", folder, request.getfixturevalue("tools"))
    if 'data_dir="images"' in block.text:
        bash(f"nstray export {request.getfixturevalue('job')}/out --to images/", folder, request.getfixturevalue("tools"))


@pytest.mark.parametrize("block", params("python", SLOW_PYTHON))
def test_python(block: Block, work: Path, tools: dict[str, str], request: pytest.FixtureRequest) -> None:
    tree = ast.parse(block.text)
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    for name in sorted({name.partition(".")[0] for name in names}):
        if name in OPTIONAL and find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    supply(block, work, request)
    done = subprocess.run([sys.executable, "-c", block.text], cwd=work, env=tools, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{block.text}\n{done.stderr}"


@pytest.mark.parametrize("block", params("bash", SLOW_BASH))
def test_bash(block: Block, work: Path, tools: dict[str, str], request: pytest.FixtureRequest) -> None:
    assert "nstray " in block.text, f"{block}: say in NOT_RUN why this block can't be run"
    supply(block, work, request)
    text = block.text
    for old, new in SUBSTITUTED:
        text = text.replace(old, new)
    bash(text, work, tools)


@pytest.mark.slow
def test_the_readme_s_cluster_run(work: Path, job: Path, head: Head) -> None:
    """Submitted to a real head; the same block stands in docs/cluster.md."""
    assert len(SUBMITTED) == 2
    assert len({b.text for b in SUBMITTED}) == 1
    text = SUBMITTED[0].text.rstrip()
    for old, new in {"http://HEAD:8265": head.address, "s3://BUCKET/": f"{work}/", "-- nstray": f"-- {shlex.join(NSTRAY)}"}.items():
        assert old in text
        text = text.replace(old, new)
    shutil.copy(job / "pairs.parquet", work / "pairs.parquet")
    environment = {**head.env, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    bash(f"{text} {TINY} {LAYERS}", work, environment)
    assert list((work / "out" / "data").glob("*.parquet"))
