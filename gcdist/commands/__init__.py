"""The subcommands of `gcdist`, one module each; they stand above the runtime and may import everything."""
