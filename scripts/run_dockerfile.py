"""Run a Dockerfile's steps without Docker: COPY by its .dockerignore, RUN line by line, in a folder that is the image's root.

    python scripts/run_dockerfile.py cluster/Dockerfile --context . --build-arg WEIGHTS_URL=file:///tmp/vgg19.pth --build-arg WEIGHTS_SHA256=...

In place of the base image there is a fresh virtual environment that sees the packages of the running interpreter, so that pip does not
install again what is there. Paths of WORKDIR, ENV and COPY lie below the folder. bash runs a RUN line as it is. A RUN line that names an
absolute path would reach this machine's own files and is refused. So is every instruction other than ARG, FROM, ENV, WORKDIR, USER, COPY
and RUN. At the end the installed program is asked for its version, and its package is imported.

Exit codes: 0 all steps ran, 1 one failed or can't be run so; the reason is on stderr with its line.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_ABSOLUTE = re.compile(r"""(?<![\w.}:/$*~-])/(?!dev/null\b)[\w.]""")  # not the one in $HOME/x, a/b, https://, or ${URL##*/}


class StepError(Exception):
    """A step that failed, or that can't be run outside Docker."""


@dataclass(frozen=True)
class Step:
    """One instruction: its line in the file, its word in capitals, and the rest with continued lines joined."""

    line: int
    word: str
    rest: str


def steps(text: str) -> list[Step]:
    """The instructions of a Dockerfile, in order."""
    found: list[Step] = []
    begun, parts = 0, list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or not line.strip():
            continue
        begun = begun or number
        parts.append(line.strip().removesuffix("\\"))
        if not line.rstrip().endswith("\\"):
            word, _, rest = "".join(parts).partition(" ")
            found.append(Step(begun, word.upper(), rest.strip()))
            begun, parts = 0, []
    if parts:
        raise StepError(f"line {begun}: the last line ends with a backslash")
    return found


class Ignored:
    """What a .dockerignore excludes from the context; the last line that matches a path, or a folder above it, decides."""

    def __init__(self, text: str) -> None:
        lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
        self._rules = [(line.startswith("!"), _pattern(line.removeprefix("!").strip("/"))) for line in lines]

    def __call__(self, path: PurePosixPath) -> bool:
        """Whether `path`, relative to the context, is excluded."""
        out = False
        for keeps, pattern in self._rules:
            if any(pattern.fullmatch(str(p)) for p in (path, *path.parents[:-1])):
                out = not keeps
        return out


def _pattern(glob: str) -> re.Pattern[str]:
    tokens = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(tokens.get(t) or re.escape(t) for t in re.split(r"(\*\*/|\*\*|\*|\?)", glob) if t))


@dataclass
class Image:
    """The folder `root` that is the image's root, and what the steps so far have set."""

    root: Path
    context: Path
    given: dict[str, str]  # --build-arg
    ignored: Ignored
    base: str = ""
    user: str = ""
    workdir: str = "/"
    env: dict[str, str] = field(default_factory=dict)
    args: dict[str, str] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)

    def place(self, path: str) -> Path:
        """The place on this machine of a path of the image; a relative path begins at WORKDIR."""
        inside = os.path.normpath(PurePosixPath(self.workdir, path))
        return self.root / inside.lstrip("/")

    def expand(self, text: str) -> str:
        """`text` with $NAME and ${NAME} replaced by what ENV and ARG say."""

        def value(match: re.Match[str]) -> str:
            name = match[1] or match[2]
            if name not in self.env and name not in self.args:
                raise StepError(f"${name} is set by no ARG or ENV before")
            return self.env.get(name, self.args.get(name, ""))

        return _VARIABLE.sub(value, text)

    def environment(self) -> dict[str, str]:
        """The variables of a RUN line: this machine's, with the image's own over them and its paths below `root`."""
        image = {name: str(self.place(value)) if value.startswith("/") else value for name, value in self.env.items()}
        home = self.root / "home"
        home.mkdir(exist_ok=True)
        own = {"PATH": f"{self.root / 'venv' / 'bin'}:{os.environ['PATH']}", "HOME": str(home), "VIRTUAL_ENV": str(self.root / "venv")}
        # If the build backend is installed here, a build with it needs no download. (pip reads 0 as: no isolation.)
        backend = {"PIP_NO_BUILD_ISOLATION": "0"} if importlib.util.find_spec("hatchling") else {}
        inherited = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
        return {**inherited, **own, **backend, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **self.args, **image}

    def do(self, step: Step) -> None:
        """Carry out one step; raises StepError."""
        action = getattr(self, f"_{step.word.lower()}", None)
        if action is None or step.word not in ("ARG", "FROM", "ENV", "WORKDIR", "USER", "COPY", "RUN"):
            raise StepError(f"{step.word} is no instruction that can be run outside Docker")
        if not self.base and step.word not in ("ARG", "FROM"):
            raise StepError(f"{step.word} before FROM")
        action(step.rest)

    def _arg(self, rest: str) -> None:
        name, _, default = rest.partition("=")
        self.args[name] = self.given.get(name, self.expand(shlex.split(default)[0] if default else ""))
        self.taken.add(name)

    def _from(self, rest: str) -> None:
        if self.base or len(rest.split()) != 1:
            raise StepError(f"FROM {rest}: one stage without a name is all that can be run")
        self.base, self.args = self.expand(rest), {}  # an ARG before FROM holds only for FROM

    def _env(self, rest: str) -> None:
        for word in shlex.split(rest):
            name, equals, value = word.partition("=")
            if not equals:
                raise StepError(f"ENV {rest}: NAME=VALUE expected")
            self.env[name] = self.expand(value)

    def _workdir(self, rest: str) -> None:
        self.workdir = os.path.normpath(PurePosixPath(self.workdir, self.expand(rest)))
        self.place(".").mkdir(parents=True, exist_ok=True)

    def _user(self, rest: str) -> None:
        self.user = self.expand(rest)

    def _copy(self, rest: str) -> None:
        words = shlex.split(self.expand(rest))
        while words and words[0].startswith("--"):
            if not words.pop(0).startswith("--chown="):
                raise StepError(f"COPY {rest}: of the options only --chown can be run")
        if len(words) < 2:
            raise StepError(f"COPY {rest}: a source and a target expected")
        *sources, target = words
        if len(sources) > 1 and not target.endswith("/"):
            raise StepError(f"COPY {rest}: the target of several sources must end in /")
        for source in sources:
            for path in self._files(source):
                name = path.relative_to(source) if (self.context / source).is_dir() else PurePosixPath(path.name)
                into = self.place(target) / name if target.endswith("/") or (self.context / source).is_dir() else self.place(target)
                into.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(self.context / path, into)

    def _files(self, source: str) -> list[PurePosixPath]:
        """The context's files at and below `source` that no .dockerignore excludes."""
        whole = self.context / source
        if not whole.resolve().is_relative_to(self.context.resolve()):
            raise StepError(f"COPY: {source} lies outside the context")
        found = [whole] if whole.is_file() else [p for p in whole.rglob("*") if p.is_file()]
        paths = [PurePosixPath(p.relative_to(self.context)) for p in found]
        files = sorted(p for p in paths if not self.ignored(p))
        if not files:
            raise StepError(f"COPY: {source} is not in the context" + (" (.dockerignore keeps it out)" if paths else ""))
        return files

    def _run(self, rest: str) -> None:
        if rest.startswith(("[", "-")):
            raise StepError("RUN: only the shell form without options can be run")
        if found := _ABSOLUTE.search(rest):
            raise StepError(f"RUN: {rest[found.start() :].split()[0]} would be this machine's own; name it by a variable or below WORKDIR")
        if not (self.root / "venv").exists():
            stand_in(self.root)
        done = subprocess.run(["bash", "-c", rest], cwd=self.place("."), env=self.environment(), check=False)
        if done.returncode:
            raise StepError(f"RUN: exit code {done.returncode}")


def stand_in(root: Path) -> None:
    """A virtual environment at `root`/venv that sees the running interpreter's packages behind its own."""
    venv.create(root / "venv", with_pip=True, symlinks=True)
    # What comes with pip would stand before the packages below, and be too old for some of them.
    pip = [root / "venv" / "bin" / "python", "-m", "pip", "uninstall", "--quiet", "--yes", "setuptools"]
    subprocess.run(pip, check=True, stderr=subprocess.DEVNULL)
    packages = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    own = sysconfig.get_path("purelib", "venv", vars={"base": str(root / "venv"), "platbase": str(root / "venv")})
    (Path(own) / "base-image.pth").write_text("".join(f"import site; site.addsitedir({p!r})\n" for p in sorted(packages)))


def run(dockerfile: Path, context: Path, given: dict[str, str], root: Path) -> Image:
    """Run all steps of `dockerfile` in `root` and check what they installed; raises StepError naming the line."""
    ignore = context / ".dockerignore"
    image = Image(root, context, given, Ignored(ignore.read_text() if ignore.exists() else ""))
    for step in steps(dockerfile.read_text()):
        print(f"step line={step.line} {step.word} {step.rest}", flush=True)
        try:
            image.do(step)
        except StepError as error:
            raise StepError(f"{dockerfile}, line {step.line}: {error}") from None
    if unknown := sorted(set(given) - image.taken):
        raise StepError(f"{dockerfile}: no ARG is called {', '.join(unknown)}")
    if image.user in ("", "root", "0"):
        raise StepError(f"{dockerfile}: the image would run as root; end with USER and another name")
    if not (root / "venv").exists():
        raise StepError(f"{dockerfile}: no RUN installs anything")
    look = "import nstray, nstray.cli; print(nstray.__file__)"
    for words in (["nstray", "--version"], ["python", "-c", look]):
        done = subprocess.run(words, cwd=root, env=image.environment(), capture_output=True, text=True, check=False)
        print(f"look {shlex.join(words)}: {done.stdout.strip()}", flush=True)
        if done.returncode:
            raise StepError(f"{shlex.join(words)}: exit code {done.returncode}\n{done.stderr}")
    if not Path(done.stdout.strip()).is_relative_to(root):
        raise StepError(f"the image has no nstray of its own; found was {done.stdout.strip()}")
    return image


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dockerfile", type=Path)
    parser.add_argument("--context", type=Path, default=Path("."), help="the folder that COPY copies from, with its .dockerignore")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--root", type=Path, help="an empty folder to stand for the image, which is kept; default: a temporary one")
    options = parser.parse_args()
    given = dict(word.split("=", 1) for word in options.build_arg)
    with tempfile.TemporaryDirectory(prefix="nstray-image-") as temporary:
        try:
            run(options.dockerfile, options.context, given, (options.root or Path(temporary)).resolve())
        except StepError as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
