"""``python -m gcdist`` is the command line."""

from gcdist.cli import main

main()
