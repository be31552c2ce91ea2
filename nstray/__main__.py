"""The entry point of the script `nstray` and of `python -m nstray`.

It makes streams and signals safe before anything that takes time is imported. So every command
ends with an exit code of its own, whatever happens to its terminal and whenever it is told to stop.
"""

from __future__ import annotations

import sys
import traceback
from typing import NoReturn

from nstray.system import stop_signals, streams, surroundings


def main() -> NoReturn:
    """Run the command line; ends the process with its exit code."""
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
    surroundings.use_own_interpreter_settings()
    try:
        from nstray import cli

        cli.main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception as error:  # an import failed
        why = surroundings.shortage(error)
        print(f"nstray: {why}" if why else traceback.format_exc(), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    main()
