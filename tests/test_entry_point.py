"""`nstray` and `python -m nstray`: nothing of the folder that they are started in is imported, by any of their processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jobs
import pytest

import nstray

ROOT = Path(nstray.__file__).parents[1]
SCRIPT = "import sys\nfrom nstray.__main__ import main\nsys.exit(main())\n"  # as pip writes it
# What nstray, torch and Ray import while they run. Python itself has not imported any of them before the first line of nstray.
NAMES = ("random", "torch", "numpy", "PIL", "ray", "click", "pyarrow", "boto3", "pydantic", "yaml", "rich", "logging", "queue", "secrets", "csv")


@pytest.fixture
def script(tmp_path: Path) -> str:
    file = tmp_path / "bin" / "nstray"
    file.parent.mkdir()
    file.write_text(SCRIPT)
    return str(file)


def hostile(folder: Path, *names: str) -> Path:
    """A folder with a module or package of each name that leaves a file of its name when it is imported; returns where."""
    found = folder.parent / "imported"
    found.mkdir()
    folder.mkdir(exist_ok=True)
    for i, name in enumerate(names):
        file = folder / name / "__init__.py" if i % 2 else folder / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"open({str(found / name)!r}, 'w').close()\nraise SystemExit('the file of this folder ran')\n")
    return found


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONSAFEPATH", "PYTHONPATH") and not k.startswith("RAY_")}
    return {**kept, **jobs.LOCAL_RAY, "PYTHONPATH": str(ROOT), **more}


def path_after(folder: Path, module: bool, **variables: str) -> tuple[list[str], str | None]:
    """sys.path and PYTHONPATH once the current folder is left out, in a process that was started in `folder`."""
    program = "import sys, os, json\nfrom nstray.__main__ import leave_out_current_folder as f\n"
    program += f"f({module})\nprint(json.dumps([sys.path, os.environ.get('PYTHONPATH')]))\n"
    # sys.path begins as `python -m` leaves it: the whole path of the current folder
    program = "import sys, os\nsys.path[0] = os.getcwd()\n" + program if module else "import sys\ndel sys.path[0]\n" + program
    env = environment(**variables)
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return found[0], found[1]


@pytest.mark.parametrize("module", [True, False])
@pytest.mark.parametrize("entries", ["{root}", ":{root}", "{root}:", "{root}::/x", "::{root}"])
def test_the_current_folder_is_left_out(tmp_path: Path, module: bool, entries: str) -> None:
    path, variable = path_after(tmp_path, module, PYTHONPATH=entries.format(root=ROOT))
    assert str(tmp_path) not in path
    assert "" not in path
    assert str(ROOT) in path
    assert variable == os.pathsep.join(e for e in entries.format(root=ROOT).split(os.pathsep) if e)


@pytest.mark.parametrize("entry", ["{here}", ".", "../{name}"])
def test_a_folder_that_is_named_stays(tmp_path: Path, entry: str) -> None:
    named = entry.format(here=tmp_path, name=tmp_path.name)
    path, variable = path_after(tmp_path, True, PYTHONPATH=f":{ROOT}:{named}")
    assert str(tmp_path) in path
    assert variable == f"{ROOT}:{named}"


def test_nstray_s_own_folder_stays_but_comes_last(tmp_path: Path) -> None:
    """In a checkout that is not installed."""
    (tmp_path / "nstray").mkdir()
    for name in ("__init__.py", "__main__.py"):
        (tmp_path / "nstray" / name).write_bytes((ROOT / "nstray" / name).read_bytes())
    path, variable = path_after(tmp_path, True, PYTHONPATH="")
    assert (path.count(str(tmp_path)), path[-1]) == (1, str(tmp_path))
    assert variable == str(tmp_path)


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    (gone := tmp_path / "gone").mkdir()
    words = f"import os; os.rmdir({str(gone)!r}); from nstray.__main__ import leave_out_current_folder as f; f(False)"
    done = subprocess.run([sys.executable, "-c", words], cwd=gone, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_nothing_is_imported_before(tmp_path: Path) -> None:
    """nstray and nstray.__main__ import only what every Python has imported before its first line."""
    words = "import os, sys; before = set(sys.modules); import nstray.__main__; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", words], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "['__future__', 'nstray', 'nstray.__main__']", done.stderr


@pytest.mark.parametrize("start", ["script", "module", "empty entry"])
def test_help_imports_nothing_of_the_folder(tmp_path: Path, script: str, start: str) -> None:
    found = hostile(tmp_path / "here", *NAMES)
    words = [sys.executable, "-m", "nstray"] if start == "module" else [sys.executable, script]
    env = environment(PYTHONPATH=f":{ROOT}") if start == "empty entry" else environment()
    done = subprocess.run([*words, "--help"], cwd=tmp_path / "here", env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "manifest" in done.stdout
    assert sorted(p.name for p in found.iterdir()) == []


# locales and terminals


@pytest.mark.parametrize(
    "locale",
    [
        {"LC_ALL": "POSIX"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0"},
        {"LC_ALL": "", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "C.UTF-8"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "cp1252:strict"},
    ],
)
def test_any_name_passes_in_any_locale(tmp_path: Path, script: str, locale: dict[str, str]) -> None:
    """A missing manifest is named; letters that the terminal lacks are escapes, and nothing is a traceback."""
    name = "ré 結果 🎨"
    done = subprocess.run(
        [sys.executable, script, "manifest", "check", f"{name}.csv"], cwd=tmp_path, env=environment(**locale), capture_output=True, timeout=60
    )
    encoding = locale.get("PYTHONIOENCODING", "utf-8").partition(":")[0].replace("ascii", "utf-8")  # click takes ASCII for a mistake
    stderr = done.stderr.decode(encoding)
    assert done.returncode == 2, stderr
    shown = name.encode(encoding, "backslashreplace").decode(encoding)
    assert stderr.startswith(f"nstray: {tmp_path}/{shown}.csv")


@pytest.mark.parametrize("locale", [{}, {"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0"}])
def test_any_text_is_printed(tmp_path: Path, script: str, locale: dict[str, str]) -> None:
    """On stdout, whose encoding is strict by default."""
    manifest, weights = jobs.write_inputs(str(tmp_path / "ïn"), contents=1, styles=1)
    words = ["plan", manifest, "ré 結果 🎨", *jobs.options({**jobs.SETTINGS, "weights": weights})]
    done = subprocess.run([sys.executable, script, *words], cwd=tmp_path, env=environment(**locale), capture_output=True, timeout=60)
    encoding = locale.get("PYTHONIOENCODING", "utf-8")
    assert done.returncode == 0, done.stderr
    shown = "ré 結果 🎨".encode(encoding, "backslashreplace").decode(encoding)
    answer = dict(line.split(maxsplit=1) for line in done.stdout.decode(encoding).splitlines())
    assert answer["output"] == f"{tmp_path}/{shown}"


def test_a_path_that_is_not_utf8_is_refused(tmp_path: Path, script: str) -> None:
    """Nothing that nstray writes could hold it."""
    manifest, _ = jobs.write_inputs(str(tmp_path / "in"), contents=1, styles=1)
    odd = os.fsencode(tmp_path) + b"/bad\xff"
    os.mkdir(odd)
    for words in ([b"manifest", b"check", odd + b"/m.csv"], [b"plan", manifest.encode(), odd + b"/out", b"--weights", b"random"]):
        done = subprocess.run([sys.executable, script, *words], cwd=tmp_path, env=environment(), capture_output=True, timeout=60)
        assert done.returncode == 2, done.stderr
        assert b"bad\\udcff" in done.stderr
        assert b"this path is not UTF-8, so nothing can record it; rename the file or folder, or set PYTHONUTF8=1" in done.stderr
        assert done.stderr.count(b"\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("start", ["script", "module", "empty entry"])
def test_a_run_imports_nothing_of_the_folder(tmp_path: Path, script: str, start: str) -> None:
    """Neither the driver, the process that reads the weights, nor Ray's workers."""
    names = (*NAMES, "nstray") if start == "script" else NAMES
    found = hostile(tmp_path / "here", *names)
    manifest, weights = jobs.write_inputs(str(tmp_path / "in"), contents=1, styles=2)
    words = [sys.executable, "-m", "nstray"] if start == "module" else [sys.executable, script]
    words += ["run", manifest, "out", *jobs.options({**jobs.SETTINGS, "weights": weights})]
    with jobs.ray_folder() as folder:
        env = environment(RAY_TMPDIR=folder, **({"PYTHONPATH": f":{ROOT}"} if start == "empty entry" else {}))
        done = subprocess.run(words, cwd=tmp_path / "here", env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in found.iterdir()) == []
    assert [row["status"] for row in jobs.rows(str(tmp_path / "here" / "out"))] == ["ok", "ok"]
    assert f"output={tmp_path}/here/out" in done.stderr
