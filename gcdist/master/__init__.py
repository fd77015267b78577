"""The master: its round loop, decoding, plans, accounts and links."""
