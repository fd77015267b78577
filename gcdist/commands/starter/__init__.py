"""The files that `gcdist init` writes, as they are but for a few words: see `gcdist.commands.init`."""
