"""The entry point of `nstray` and `python -m nstray`: makes the process safe, then runs cli.

Until `leave_out_current_folder` has run, every import may find a file of that folder. So this
module imports as little as it can. Streams and signals are made safe before anything that takes
time is imported. So every command ends with an exit code of its own, whatever happens to its
terminal and whenever it is told to stop.
"""

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


def take_any_name() -> None:
    """Let names of files beyond ASCII pass, whatever the locale is.

    With an ASCII locale (LC_ALL=POSIX and PYTHONUTF8=0) this process starts anew in Python's UTF-8
    mode: it could name no other file.
    """
    if sys.getfilesystemencoding() == "ascii" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def main() -> None:
    """Run the command line; ends the process with its exit code."""
    take_any_name()
    leave_out_current_folder(added_first=__name__ == "__main__" and not sys.flags.safe_path)
    from nstray.system import stop_signals, streams

    streams.protect()
    stop_signals.install()
    code = stop_signals.EXIT_STOPPED
    # A signal raises once at most: here, if it comes between two lines.
    try:
        try:
            code = _run()
        except KeyboardInterrupt:
            stop_signals.print_interrupted()
        stop_signals.ignore(code)
    except KeyboardInterrupt:
        stop_signals.ignore(code)
    sys.exit(code)


def _run() -> int:
    import traceback

    from nstray.system import stop_signals, surroundings

    surroundings.use_own_interpreter_settings()
    try:
        from nstray import cli

        cli.main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception as error:  # an import failed
        if stop_signals.received():  # a library may make another error of the interrupt
            stop_signals.print_interrupted()
            return stop_signals.EXIT_STOPPED
        why = surroundings.shortage(error)
        print(f"nstray: {why}" if why else traceback.format_exc(), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    main()
