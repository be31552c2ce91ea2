"""The entry point of `nstray` and `python -m nstray`: leaves out the current folder, then runs cli.

Until `leave_out_current_folder` has run, every import may find a file of that folder. So this
module imports as little as it can.
"""

import io
import os
import sys


def leave_out_current_folder(added_first: bool) -> None:
    """Import nothing from the folder that this process was started in, nor let a child do so.

    An empty entry of PYTHONPATH means that folder: ``PYTHONPATH=$PYTHONPATH:/lib`` has one if there
    was no PYTHONPATH. A folder that PYTHONPATH names stays, and so does the one that nstray itself
    is in.

    Args:
        added_first: Python has put the folder first, as ``python -m`` does.
    """
    try:
        here = os.getcwd()
    except OSError:  # the folder is gone
        return
    given = os.environ.get("PYTHONPATH")
    entries = given.split(os.pathsep) if given else []
    named = [entry for entry in entries if entry]
    if added_first and sys.path[:1] == [here]:
        del sys.path[0]
    if len(named) < len(entries) and here not in map(os.path.abspath, named) and here in sys.path:
        sys.path.remove(here)
    if here == os.path.dirname(os.path.dirname(os.path.abspath(__file__))) and here not in sys.path:
        named.append(here)
        sys.path.append(here)
    if named:
        os.environ["PYTHONPATH"] = os.pathsep.join(named)
    else:
        os.environ.pop("PYTHONPATH", None)


def take_any_text() -> None:
    """Let names and texts beyond ASCII pass, whatever the locale is.

    With an ASCII locale (LC_ALL=POSIX and PYTHONUTF8=0) this process starts anew in Python's UTF-8
    mode: it could name no other file. A character that the terminal's encoding lacks is written as
    its escape.
    """
    if sys.getfilesystemencoding() == "ascii" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def main() -> None:
    """Run the command line; see `nstray.cli.main`."""
    take_any_text()
    leave_out_current_folder(added_first=__name__ == "__main__" and not sys.flags.safe_path)
    from nstray.cli import main as run

    run()


if __name__ == "__main__":
    main()
