"""`python -m nstray`: the command line, where no script of that name is on the path."""

from nstray.cli import main

main()
