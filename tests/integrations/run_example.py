"""Runs a script whose trainer imports torchvision, also beside a torch that it does not fit."""

import runpy
import sys
from pathlib import Path

by_hand = runpy.run_path(str(Path(__file__).with_name("by_hand.py")))
by_hand["mend_torchvision"]()
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
