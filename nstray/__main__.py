"""`python -m nstray`: the command line, for when no script `nstray` is on the path."""

from nstray.cli import main

main()
