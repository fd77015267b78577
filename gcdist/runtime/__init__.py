"""One round loop, fed by real processes or by a virtual clock."""
