"""A worker: its round loop, the coded rows, links and log."""
